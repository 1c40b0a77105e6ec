// Ends launches that would never end: on Ctrl-C, or after PYGAN_CPU_TIMEOUT seconds.
#pragma once

#include <atomic>
#include <cstdint>

namespace cpu_driver {

struct Worker;

// The launch that is running. `started` is 0 while none is; the sequence number tells one launch
// from the next, so that a late signal cannot hit the wrong one.
struct RunningLaunch {
    std::atomic<uint64_t> sequence{0};
    std::atomic<int64_t> started{0};  // steady clock, nanoseconds
};
extern RunningLaunch running_launch;

// Starts the watching thread, which looks a few times a second and costs launches nothing. Called
// once for every pool of workers; they are never destroyed.
void start_watchdog(Worker* const* workers, unsigned count);

// Whether this worker has been asked to stop, and the text to fail with.
bool stop_requested(const Worker& worker, const char** reason);

// The signal that interrupts a worker inside a kernel.
int stop_signal();

}  // namespace cpu_driver
