// Streams, events and graphs. Work is done when it is submitted, so a stream is always idle; what
// remains to be done is the capture of work into graphs and the clock of events.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <set>

#include "launch.h"
#include "objects.h"

namespace cpu_driver {

struct GraphNode {
    int kind = CU_GRAPH_NODE_TYPE_EMPTY;
    Operation operation;
    std::vector<const GraphNode*> after;  // what must be done before
};

struct GraphObject {
    // In the order of submission, which is one of the orders the graph's dependencies allow.
    std::vector<std::shared_ptr<GraphNode>> nodes;
};

struct GraphExec {
    std::vector<std::shared_ptr<GraphNode>> nodes;
};

struct Capture {
    std::unique_ptr<GraphObject> graph = std::make_unique<GraphObject>();
    StreamObject* origin = nullptr;
    int mode = 0;
    bool invalid = false;
    bool ended = false;  // its events draw no stream in any more
    unsigned long long number = 0;
    std::set<StreamObject*> joined;   // streams that wait events drew in
    std::set<StreamObject*> awaited;  // of these, with an event that another stream waits for
};

struct StreamObject {
    ContextObject* context = nullptr;
    unsigned flags = 0;
    int priority = 0;
    std::shared_ptr<Capture> capture;
    std::vector<const GraphNode*> latest;  // what the next captured work comes after
};

struct EventObject {
    ContextObject* context = nullptr;
    unsigned flags = 0;
    bool recorded = false;
    std::chrono::steady_clock::time_point time;
    std::shared_ptr<Capture> capture;  // recorded in a stream that was capturing
    StreamObject* captured_in = nullptr;
    std::vector<const GraphNode*> latest;  // of that stream, when it was recorded
};

namespace {

constexpr unsigned kDisableTiming = 2;

struct Registry {
    std::recursive_mutex mutex;
    std::set<StreamObject*> streams;
    std::set<EventObject*> events;
    std::set<GraphObject*> graphs;
    std::set<GraphExec*> execs;
    unsigned long long captures = 0;
};

Registry& registry() {
    static Registry* instance = new Registry;
    return *instance;
}

using Lock = std::lock_guard<std::recursive_mutex>;

// Captures in global or thread-local mode that this OS thread has begun.
thread_local int restricting_captures = 0;

// The default streams: the null handle and the constants CU_STREAM_LEGACY and _PER_THREAD.
bool is_default(CUstream stream) {
    return reinterpret_cast<uintptr_t>(stream) <= 2;
}

CUresult need_stream(CUstream stream) {
    if (CUresult error = need_context()) return error;
    return is_default(stream) || registry().streams.count(stream)
               ? CUDA_SUCCESS
               : fail(CUDA_ERROR_INVALID_HANDLE, "not a stream, or destroyed already");
}

CUresult need_event(CUevent event) {
    if (CUresult error = need_context()) return error;
    return registry().events.count(event)
               ? CUDA_SUCCESS
               : fail(CUDA_ERROR_INVALID_HANDLE, "not an event, or destroyed already");
}

CUresult run_nodes(const std::vector<std::shared_ptr<GraphNode>>& nodes) {
    for (const auto& node : nodes)
        if (node->operation)
            if (int error = node->operation()) return error;
    return CUDA_SUCCESS;
}

// The nodes in the order of replay: that of submission, or, with PYGAN_CPU_GRAPH_ORDER=last, of all
// nodes whose dependencies are done always the one submitted last. A GPU may take any order that
// the dependencies allow; results that differ between these two lack a dependency.
std::vector<std::shared_ptr<GraphNode>> in_order(const GraphObject& graph) {
    const char* order = std::getenv("PYGAN_CPU_GRAPH_ORDER");
    if (!order || std::strcmp(order, "last")) return graph.nodes;
    std::vector<std::shared_ptr<GraphNode>> waiting = graph.nodes, ordered;
    std::set<const GraphNode*> done;
    while (!waiting.empty()) {
        auto ready = std::find_if(waiting.rbegin(), waiting.rend(), [&](const auto& node) {
            return std::all_of(node->after.begin(), node->after.end(),
                               [&](const GraphNode* before) { return done.count(before); });
        });
        done.insert(ready->get());
        ordered.push_back(*ready);
        waiting.erase(std::next(ready).base());
    }
    return ordered;
}

// Whether the origin waits for everything captured, at once or through other streams, and for every
// stream that was drawn in, be it without work. An event joins what came before it in its stream.
bool all_joined(const Capture& capture) {
    std::set<const GraphNode*> reached;
    std::vector<const GraphNode*> waiting = capture.origin->latest;
    while (!waiting.empty()) {
        const GraphNode* node = waiting.back();
        waiting.pop_back();
        if (reached.insert(node).second)
            waiting.insert(waiting.end(), node->after.begin(), node->after.end());
    }
    return reached.size() == capture.graph->nodes.size() &&
           std::includes(capture.awaited.begin(), capture.awaited.end(), capture.joined.begin(),
                         capture.joined.end());
}

CUresult refuse_capturing(CUstream stream, const char* what) {
    if (is_default(stream) || !stream->capture) return CUDA_SUCCESS;
    stream->capture->invalid = true;
    return fail(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
                format("%s on a stream that is capturing", what));
}

}  // namespace

CUresult submit(CUstream stream, int kind, Operation operation) {
    {
        Lock lock(registry().mutex);
        if (CUresult error = need_stream(stream)) return error;
        if (!is_default(stream) && stream->capture) {
            Capture& capture = *stream->capture;
            if (capture.invalid) return fail(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "");
            auto node = std::make_shared<GraphNode>();
            node->kind = kind;
            node->operation = std::move(operation);
            node->after = std::move(stream->latest);
            stream->latest = {node.get()};
            capture.graph->nodes.push_back(std::move(node));
            return CUDA_SUCCESS;
        }
        if (is_default(stream) && restricting_captures) {
            // The legacy stream waits for every blocking stream, the capturing one included.
            for (StreamObject* other : registry().streams)
                if (other->capture && !(other->flags & 1)) {
                    other->capture->invalid = true;
                    return fail(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "");
                }
        }
    }
    return operation();
}

CUresult refuse_during_capture(const char* what) {
    if (!restricting_captures) return CUDA_SUCCESS;
    Lock lock(registry().mutex);
    for (StreamObject* stream : registry().streams)
        if (stream->capture) stream->capture->invalid = true;
    return fail(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, what);
}

void destroy_streams(ContextObject* context) {
    Lock lock(registry().mutex);
    Registry& r = registry();
    for (auto it = r.streams.begin(); it != r.streams.end();) {
        if ((*it)->context == context) {
            delete *it;
            it = r.streams.erase(it);
        } else {
            ++it;
        }
    }
    for (auto it = r.events.begin(); it != r.events.end();) {
        if ((*it)->context == context) {
            delete *it;
            it = r.events.erase(it);
        } else {
            ++it;
        }
    }
}

}  // namespace cpu_driver

using namespace cpu_driver;

// --- streams --------------------------------------------------------------------------------

CPU_DRIVER_API CUresult cuStreamCreateWithPriority(CUstream* stream, unsigned flags, int priority) {
    if (CUresult error = need_context()) return error;
    if (!stream || flags > 1) return fail(CUDA_ERROR_INVALID_VALUE, format("flags %u", flags));
    Lock lock(registry().mutex);
    *stream = new StreamObject;
    (*stream)->context = current_context();
    (*stream)->flags = flags;
    (*stream)->priority = priority;
    registry().streams.insert(*stream);
    return CUDA_SUCCESS;
}
CPU_DRIVER_API CUresult cuStreamCreate(CUstream* stream, unsigned flags) {
    return cuStreamCreateWithPriority(stream, flags, 0);
}

CPU_DRIVER_API CUresult cuStreamDestroy_v2(CUstream stream) {
    Lock lock(registry().mutex);
    if (CUresult error = need_stream(stream)) return error;
    if (is_default(stream)) return fail(CUDA_ERROR_INVALID_HANDLE, "the default stream");
    if (stream->capture) {
        stream->capture->invalid = true;
        if (stream->capture->origin == stream && stream->capture->mode != 2) --restricting_captures;
    }
    registry().streams.erase(stream);
    delete stream;
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuStreamSynchronize(CUstream stream) {
    Lock lock(registry().mutex);
    if (CUresult error = need_stream(stream)) return error;
    if (CUresult error = refuse_capturing(stream, "cuStreamSynchronize")) return error;
    fflush(stdout);  // printf of kernels appears at the latest now
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuStreamQuery(CUstream stream) {
    Lock lock(registry().mutex);
    if (CUresult error = need_stream(stream)) return error;
    return refuse_capturing(stream, "cuStreamQuery");
}

CPU_DRIVER_API CUresult cuStreamGetFlags(CUstream stream, unsigned* flags) {
    Lock lock(registry().mutex);
    if (CUresult error = need_stream(stream)) return error;
    *flags = is_default(stream) ? 0 : stream->flags;
    return CUDA_SUCCESS;
}
CPU_DRIVER_API CUresult cuStreamGetPriority(CUstream stream, int* priority) {
    Lock lock(registry().mutex);
    if (CUresult error = need_stream(stream)) return error;
    *priority = is_default(stream) ? 0 : stream->priority;
    return CUDA_SUCCESS;
}
CPU_DRIVER_API CUresult cuStreamGetCtx(CUstream stream, CUcontext* context) {
    Lock lock(registry().mutex);
    if (CUresult error = need_stream(stream)) return error;
    *context = is_default(stream) ? current_context() : stream->context;
    return CUDA_SUCCESS;
}
CPU_DRIVER_API CUresult cuStreamGetDevice(CUstream stream, CUdevice* device) {
    Lock lock(registry().mutex);
    if (CUresult error = need_stream(stream)) return error;
    *device = 0;
    return CUDA_SUCCESS;
}
CPU_DRIVER_API CUresult cuStreamAttachMemAsync(CUstream stream, CUdeviceptr, size_t, unsigned) {
    Lock lock(registry().mutex);
    return need_stream(stream);
}

CPU_DRIVER_API CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned) {
    Lock lock(registry().mutex);
    if (CUresult error = need_stream(stream)) return error;
    if (CUresult error = need_event(event)) return error;
    const auto& capture = event->capture;
    const bool capturing = !is_default(stream) && stream->capture;
    if (!capture) {
        if (capturing && event->recorded) {
            stream->capture->invalid = true;
            return fail(CUDA_ERROR_STREAM_CAPTURE_ISOLATION,
                        "a capturing stream waits for an event recorded outside the capture");
        }
        return CUDA_SUCCESS;
    }
    if (capture->ended)
        return fail(CUDA_ERROR_CAPTURED_EVENT, "and that capture has ended: record the event anew");
    if (is_default(stream))
        return fail(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "the legacy stream waits for a capture");
    if (capturing && stream->capture != capture) {
        stream->capture->invalid = capture->invalid = true;
        return fail(CUDA_ERROR_STREAM_CAPTURE_MERGE, "");
    }
    if (!capturing) {
        stream->latest.clear();
        stream->capture = capture;
        capture->joined.insert(stream);
    }
    for (const GraphNode* node : event->latest)
        if (std::find(stream->latest.begin(), stream->latest.end(), node) == stream->latest.end())
            stream->latest.push_back(node);
    if (stream != event->captured_in) capture->awaited.insert(event->captured_in);
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuLaunchHostFunc(CUstream stream, void (*function)(void*), void* data) {
    if (!function) return fail(CUDA_ERROR_INVALID_VALUE, "no function");
    return submit(stream, CU_GRAPH_NODE_TYPE_HOST, [=] {
        function(data);
        return int{CUDA_SUCCESS};
    });
}

// --- capture --------------------------------------------------------------------------------

CPU_DRIVER_API CUresult cuStreamBeginCapture_v2(CUstream stream, int mode) {
    Lock lock(registry().mutex);
    if (CUresult error = need_stream(stream)) return error;
    if (is_default(stream))
        return fail(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "the default stream cannot capture");
    if (mode < 0 || mode > 2)
        return fail(CUDA_ERROR_INVALID_VALUE, format("capture mode %d", mode));
    if (stream->capture) return fail(CUDA_ERROR_INVALID_VALUE, "the stream is capturing already");
    stream->capture = std::make_shared<Capture>();
    stream->capture->origin = stream;
    stream->capture->mode = mode;
    stream->capture->number = ++registry().captures;
    stream->latest.clear();
    if (mode != 2) ++restricting_captures;
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuStreamEndCapture(CUstream stream, CUgraph* graph) {
    Lock lock(registry().mutex);
    if (CUresult error = need_stream(stream)) return error;
    if (!graph) return fail(CUDA_ERROR_INVALID_VALUE, "no place for the graph");
    *graph = nullptr;
    if (is_default(stream) || !stream->capture)
        return fail(CUDA_ERROR_ILLEGAL_STATE, "the stream is not capturing");
    std::shared_ptr<Capture> capture = stream->capture;
    if (capture->origin != stream) return fail(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, "");
    stream->capture = nullptr;
    capture->ended = true;
    for (StreamObject* other : capture->joined)
        if (registry().streams.count(other)) other->capture = nullptr;
    if (capture->mode != 2) --restricting_captures;
    if (capture->invalid) return fail(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "");
    if (!all_joined(*capture))
        return fail(CUDA_ERROR_STREAM_CAPTURE_UNJOINED,
                    "the stream does not wait for all work of the streams that it drew in: record "
                    "an event behind their last work and wait for it");
    *graph = capture->graph.release();
    registry().graphs.insert(*graph);
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuStreamIsCapturing(CUstream stream, int* status) {
    Lock lock(registry().mutex);
    if (CUresult error = need_stream(stream)) return error;
    const bool capturing = !is_default(stream) && stream->capture;
    *status = !capturing ? 0 : stream->capture->invalid ? 2 : 1;
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuStreamGetCaptureInfo_v3(CUstream stream, int* status,
                                                  unsigned long long* number, CUgraph* graph,
                                                  const CUgraphNode** dependencies,
                                                  const void** edges, size_t* count) {
    Lock lock(registry().mutex);
    if (CUresult error = cuStreamIsCapturing(stream, status)) return error;
    const bool active = *status == 1;
    if (number) *number = active ? stream->capture->number : 0;
    if (graph) *graph = active ? stream->capture->graph.get() : nullptr;
    if (dependencies) *dependencies = nullptr;
    if (edges) *edges = nullptr;
    if (count) *count = 0;
    return CUDA_SUCCESS;
}
CPU_DRIVER_API CUresult cuStreamGetCaptureInfo_v2(CUstream stream, int* status,
                                                  unsigned long long* number, CUgraph* graph,
                                                  const CUgraphNode** dependencies, size_t* count) {
    return cuStreamGetCaptureInfo_v3(stream, status, number, graph, dependencies, nullptr, count);
}

CPU_DRIVER_API CUresult cuThreadExchangeStreamCaptureMode(int* mode) {
    if (!mode || *mode < 0 || *mode > 2) return fail(CUDA_ERROR_INVALID_VALUE, "");
    static thread_local int current = 0;
    std::swap(current, *mode);
    return CUDA_SUCCESS;
}

// --- graphs ---------------------------------------------------------------------------------

CPU_DRIVER_API CUresult cuGraphCreate(CUgraph* graph, unsigned) {
    Lock lock(registry().mutex);
    if (!graph) return fail(CUDA_ERROR_INVALID_VALUE, "");
    *graph = new GraphObject;
    registry().graphs.insert(*graph);
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuGraphDestroy(CUgraph graph) {
    Lock lock(registry().mutex);
    if (!registry().graphs.erase(graph)) return fail(CUDA_ERROR_INVALID_VALUE, "not a graph");
    delete graph;
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuGraphGetNodes(CUgraph graph, CUgraphNode* nodes, size_t* count) {
    Lock lock(registry().mutex);
    if (!count || !registry().graphs.count(graph))
        return fail(CUDA_ERROR_INVALID_VALUE, "not a graph");
    if (nodes)
        for (size_t i = 0; i < std::min(*count, graph->nodes.size()); ++i)
            nodes[i] = graph->nodes[i].get();
    *count = nodes ? std::min(*count, graph->nodes.size()) : graph->nodes.size();
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuGraphNodeGetType(CUgraphNode node, int* type) {
    Lock lock(registry().mutex);
    for (GraphObject* graph : registry().graphs)
        for (const auto& known : graph->nodes)
            if (known.get() == node) {
                *type = node->kind;
                return CUDA_SUCCESS;
            }
    return fail(CUDA_ERROR_INVALID_VALUE, "not a node of a living graph");
}

CPU_DRIVER_API CUresult cuGraphInstantiateWithFlags(CUgraphExec* exec, CUgraph graph,
                                                    unsigned long long) {
    if (CUresult error = need_context()) return error;
    Lock lock(registry().mutex);
    if (!exec || !registry().graphs.count(graph))
        return fail(CUDA_ERROR_INVALID_VALUE, "not a graph");
    *exec = new GraphExec;
    (*exec)->nodes = in_order(*graph);
    registry().execs.insert(*exec);
    return CUDA_SUCCESS;
}
CPU_DRIVER_API CUresult cuGraphInstantiate_v2(CUgraphExec* exec, CUgraph graph, CUgraphNode*,
                                              char* log, size_t bytes) {
    if (log && bytes) *log = 0;
    return cuGraphInstantiateWithFlags(exec, graph, 0);
}

CPU_DRIVER_API CUresult cuGraphUpload(CUgraphExec exec, CUstream stream) {
    Lock lock(registry().mutex);
    if (CUresult error = need_stream(stream)) return error;
    return registry().execs.count(exec) ? CUDA_SUCCESS
                                        : fail(CUDA_ERROR_INVALID_VALUE, "not an executable graph");
}

CPU_DRIVER_API CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream) {
    std::vector<std::shared_ptr<GraphNode>> nodes;
    {
        Lock lock(registry().mutex);
        if (CUresult error = need_stream(stream)) return error;
        if (!registry().execs.count(exec))
            return fail(CUDA_ERROR_INVALID_VALUE, "not an executable graph");
        nodes = exec->nodes;
    }
    return submit(stream, 4, [nodes] { return run_nodes(nodes); });
}

CPU_DRIVER_API CUresult cuGraphExecDestroy(CUgraphExec exec) {
    Lock lock(registry().mutex);
    if (!registry().execs.erase(exec))
        return fail(CUDA_ERROR_INVALID_VALUE, "not an executable graph");
    delete exec;
    return CUDA_SUCCESS;
}

// --- events ---------------------------------------------------------------------------------

CPU_DRIVER_API CUresult cuEventCreate(CUevent* event, unsigned flags) {
    if (CUresult error = need_context()) return error;
    if (!event) return fail(CUDA_ERROR_INVALID_VALUE, "");
    Lock lock(registry().mutex);
    *event = new EventObject;
    (*event)->context = current_context();
    (*event)->flags = flags;
    registry().events.insert(*event);
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuEventDestroy_v2(CUevent event) {
    Lock lock(registry().mutex);
    if (CUresult error = need_event(event)) return error;
    registry().events.erase(event);
    delete event;
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuEventRecord(CUevent event, CUstream stream) {
    Lock lock(registry().mutex);
    if (CUresult error = need_stream(stream)) return error;
    if (CUresult error = need_event(event)) return error;
    if (!is_default(stream) && stream->capture) {
        // A point in the capture: other streams can be made to depend on it.
        event->capture = stream->capture;
        event->captured_in = stream;
        event->latest = stream->latest;
        return CUDA_SUCCESS;
    }
    event->capture = nullptr;
    event->captured_in = nullptr;
    event->latest.clear();
    event->recorded = true;
    event->time = std::chrono::steady_clock::now();
    return CUDA_SUCCESS;
}
CPU_DRIVER_API CUresult cuEventRecordWithFlags(CUevent event, CUstream stream, unsigned) {
    return cuEventRecord(event, stream);
}

CPU_DRIVER_API CUresult cuEventSynchronize(CUevent event) {
    Lock lock(registry().mutex);
    if (CUresult error = need_event(event)) return error;
    if (event->capture) return fail(CUDA_ERROR_CAPTURED_EVENT, "");
    fflush(stdout);
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuEventQuery(CUevent event) {
    Lock lock(registry().mutex);
    if (CUresult error = need_event(event)) return error;
    return event->capture ? fail(CUDA_ERROR_CAPTURED_EVENT, "") : CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuEventElapsedTime_v2(float* milliseconds, CUevent start, CUevent end) {
    Lock lock(registry().mutex);
    if (CUresult error = need_event(start)) return error;
    if (CUresult error = need_event(end)) return error;
    if (!milliseconds || !start->recorded || !end->recorded ||
        (start->flags | end->flags) & kDisableTiming)
        return fail(CUDA_ERROR_INVALID_HANDLE,
                    "both events must have been recorded, with timing enabled");
    *milliseconds = std::chrono::duration<float, std::milli>(end->time - start->time).count();
    return CUDA_SUCCESS;
}
CPU_DRIVER_API CUresult cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end) {
    return cuEventElapsedTime_v2(milliseconds, start, end);
}
