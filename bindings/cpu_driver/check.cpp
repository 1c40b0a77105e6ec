// The memory checker of check mode: shadow memory, happens-before, reports.
//
// An access is recorded as (epoch, thread, lane clock, program counter). `epoch` is a counter that
// grows at every block start and every block barrier of the process, so it alone tells which
// launch, which block and which barrier interval an access belongs to. Two accesses of one word, at
// least one of them a write and not both atomic, are ordered when
//   - they belong to different launches, or to one thread, or a block barrier lies between them;
//   - they belong to one warp and a warp-level meeting (__syncwarp, shuffle, vote) of both lanes
//   lies
//     between them: every lane keeps a vector clock over the 32 lanes of its warp;
//   - they belong to different blocks and the later block performed an atomic on an address after
//   the
//     earlier block did (the "last block finishes" pattern).
//   - a grid-wide barrier lies between them: it counts as a launch of its own does.
// Anything else is a race. Shadow cells cover 4-byte words; a word touched by 1- or 2-byte accesses
// is split into byte cells, so that neighbouring bytes never raise a false alarm.

#include "check.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <unordered_map>

#include "launch.h"
#include "scheduler.h"

namespace cpu_driver {
namespace {

constexpr size_t kPageWords = 1024;  // one shadow page covers 4 KiB
constexpr size_t kMaxReports = 32;   // of one launch; later ones repeat the first

struct Access {
    uint32_t epoch = 0;  // 0: never
    uint32_t clock = 0;
    uint32_t pc = 0;  // offset in the image
    uint16_t thread = 0;
    uint16_t atomic = 0;
};

struct Cell {
    Access write, read[2];
};

struct Word {
    Cell cell;
    std::unique_ptr<Cell[]> bytes;  // four cells once a sub-word access was seen
};

struct Page {
    Word words[kPageWords];
};

struct Lane {
    uint32_t clock[kWarpSize];
};

// Half-open address range.
struct Range {
    uintptr_t begin = 0, end = 0;
    bool contains(uintptr_t a, size_t n) const { return a >= begin && a < end && n <= end - a; }
    bool touches(uintptr_t a) const { return a >= begin && a < end; }
};

struct Parameter {
    std::string name;
    uintptr_t value;  // of a pointer
    size_t bytes;     // of the array passed, where the caller told (set_extents), else 0
};

// What is checked now. Filled from the scheduler's Launch.
struct Current {
    std::string kernel;
    const std::vector<char>* image = nullptr;  // the ELF file
    uintptr_t image_base = 0;
    Index block{1, 1, 1};
    std::vector<Parameter> pointers;
    Range driver[4];            // the driver's own structures, which compiled launch code may read
    std::vector<Range> values;  // arguments as passed
    void* library = nullptr;
    unsigned dynamic_shared = 0;
};

enum class Space { kStaticShared, kDynamicShared, kDriver, kObject };

struct Symbol {
    std::string name;
    uintptr_t begin = 0;
    size_t size = 0;
    Space space = Space::kObject;
};

// Shadow pages stay for the process: in memory given out again, old epochs mean "no access".
std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
uintptr_t last_page_index = ~uintptr_t(0);
Page* last_page = nullptr;

Current current;
bool cooperative = false;  // the running launch: each block has a thread, they take turns
std::unordered_map<const Worker*, uint32_t> shared_epochs;  // of a cooperative launch's blocks
const SourcePlace* grid_place = nullptr;  // of the grid-wide barrier that blocks wait at
Range shared;                          // the module's thread-local block: shared memory lies in it
std::vector<Symbol> shared_symbols;    // static and dynamic shared arrays, by address
std::vector<Symbol> unplaced_symbols;  // the same, relative to a thread's block
std::vector<Symbol> object_symbols;    // __device__ and __constant__ variables, by address
std::vector<Range> image_segments;
uint32_t epoch = 0;
uint32_t launch_epoch = 0;           // first of the running launch, or since its grid-wide barrier
uint32_t block_epoch = 0;            // first of the running block, or since the same
uint32_t shared_epoch = 0;           // first of the running block: since then its shared memory is
std::vector<uint32_t> block_epochs;  // of every block begun, or resumed, so far in this launch
std::vector<Index> block_indices;
std::vector<Lane> lanes;                         // of the running block
std::vector<const SourcePlace*> barrier_places;  // by thread: the barrier it came to last
bool extents_known = false;  // the running launch may touch the arrays passed, nothing else
std::vector<std::pair<uintptr_t, size_t>> next_extents;  // for the next launch with these pointers
Range last_home;  // of the last access to memory that is not shared

// Blocks whose effects the running block may rely on, and those released at each atomic address.
using BlockSet = std::vector<bool>;
BlockSet acquired;
std::unordered_map<uintptr_t, BlockSet> released;

std::vector<Report> reports;  // of all launches since take_reports()
size_t launch_first_report = 0;
std::set<std::pair<std::string, uint64_t>> seen;  // (kind, place) reported in this launch

unsigned threads_per_block() {
    return current.block.x * current.block.y * current.block.z;
}

Index thread_index(unsigned linear) {
    const Index b = current.block;
    return {linear % b.x, linear / b.x % b.y, linear / (b.x * b.y)};
}

void merge(BlockSet& into, const BlockSet& from) {
    if (into.size() < from.size()) into.resize(from.size());
    for (size_t i = 0; i < from.size(); ++i)
        if (from[i]) into[i] = true;
}

// ---- where an address comes from ---------------------------------------------------------------

std::string place(Index block, Index thread) {
    char text[128];
    std::snprintf(text, sizeof text, "block (%u, %u, %u), thread (%u, %u, %u)", block.x, block.y,
                  block.z, thread.x, thread.y, thread.z);
    return text;
}

// The image as a file for addr2line; the driver keeps modules in memory only.
struct ImageFile {
    std::string path;
    explicit ImageFile(const std::vector<char>& image) {
        const char* folder = std::getenv("TMPDIR");
        path = std::string(folder && *folder ? folder : "/tmp") + "/pygan-check-XXXXXX";
        const int descriptor = mkstemp(&path[0]);
        if (descriptor < 0) {
            path.clear();
            return;
        }
        for (size_t done = 0; done < image.size();) {
            const ssize_t n = ::write(descriptor, image.data() + done, image.size() - done);
            if (n <= 0) break;
            done += size_t(n);
        }
        close(descriptor);
    }
    ~ImageFile() {
        if (!path.empty()) unlink(path.c_str());
    }
};

// file:line of an offset in the image. addr2line -i prints the innermost inlined frame first;
// frames of the driver's own headers (vectors, atomics) are skipped, so that the user's line is
// named.
void source_line(uint32_t pc, std::string* file, int* line) {
    const ImageFile image(*current.image);
    if (image.path.empty()) return;
    const std::string command =
        format("addr2line -i -e '%s' 0x%x 2>/dev/null", image.path.c_str(), pc);
    FILE* pipe = popen(command.c_str(), "r");
    if (!pipe) return;
    char text[4096];
    while (std::fgets(text, sizeof text, pipe)) {
        char* colon = std::strrchr(text, ':');
        if (!colon || text[0] == '?' || *line) continue;  // to the end: a closed pipe kills
        *colon = 0;
        if (std::strstr(text, "/cpu_driver/include/") || std::strstr(text, "/c++/")) continue;
        *line = std::atoi(colon + 1);
        *file = text;
    }
    pclose(pipe);
}

// A return address points behind the call; one byte less lies inside it.
uint32_t image_offset(uintptr_t pc) {
    return uint32_t(pc - 1 - current.image_base);
}

// Bytes between an array and an address outside it.
uintptr_t nearness(const Parameter& p, uintptr_t address) {
    if (!p.bytes) return ~uintptr_t(0);
    return address < p.value ? p.value - address : address - (p.value + p.bytes) + 1;
}

// The kernel parameter an address was most likely computed from: one that points into the same
// allocation, else the nearest one.
std::string parameter_name(uintptr_t address) {
    if (extents_known) {
        const Parameter* owner = nullptr;
        for (const Parameter& p : current.pointers) {
            if (p.bytes && address >= p.value && address < p.value + p.bytes) return p.name;
            if (p.bytes && (!owner || nearness(p, address) < nearness(*owner, address))) owner = &p;
        }
        if (owner) return owner->name;
    }
    Allocation home;
    const bool inside = find_allocation(address, &home);
    std::string best;
    uintptr_t best_distance = ~uintptr_t(0);
    for (const Parameter& p : current.pointers) {
        if (!p.value) continue;
        Allocation own;
        if (inside && find_allocation(p.value, &own) && own.address != home.address) continue;
        const uintptr_t distance = address >= p.value ? address - p.value : (p.value - address);
        if (distance < best_distance) best_distance = distance, best = p.name;
    }
    return best;
}

// The last symbol that begins at or before the address, or null.
const Symbol* symbol_before(const std::vector<Symbol>& sorted, uintptr_t address) {
    auto after = std::upper_bound(sorted.begin(), sorted.end(), address,
                                  [](uintptr_t a, const Symbol& s) { return a < s.begin; });
    return after == sorted.begin() ? nullptr : &*(after - 1);
}

std::string shared_name(uintptr_t address) {
    const Symbol* symbol = symbol_before(shared_symbols, address);
    return symbol ? symbol->name : "";
}

std::string global_name(uintptr_t address) {
    for (const Range& segment : image_segments)
        if (segment.touches(address)) {
            const Symbol* symbol = symbol_before(object_symbols, address);
            return symbol ? symbol->name : "";
        }
    return parameter_name(address);
}

// ---- reports -----------------------------------------------------------------------------------

// `place` of an access is found from its program counter; a wait brings its own.
void add_report_at(const char* kind, const SourcePlace& where, unsigned thread,
                   const std::string& variable, const std::string& what) {
    Report r;
    r.kind = kind;
    r.kernel = current.kernel;
    r.variable = variable;
    r.file = where.file ? where.file : "";
    r.line = where.line;
    r.block = block_indices.empty() ? Index{0, 0, 0} : block_indices.back();
    r.thread = thread_index(thread);
    r.text = std::string(kind) + " in kernel " + r.kernel + " at " +
             (r.file.empty() ? "unknown source" : r.file + ":" + std::to_string(r.line)) + ", " +
             place(r.block, r.thread) + ": " + what;
    reports.push_back(r);
}

bool is_full() {
    return reports.size() - launch_first_report >= kMaxReports;
}

// Each kind is reported once per place and launch: the other threads repeat it.
template <typename Key>
bool is_new(const char* kind, Key key) {
    return !is_full() && seen.insert({kind, uint64_t(key)}).second;
}

void add_report(const char* kind, uint32_t pc, unsigned thread, const std::string& variable,
                const std::string& what) {
    if (!is_new(kind, pc)) return;
    std::string file;
    int line = 0;
    source_line(pc, &file, &line);
    add_report_at(kind, {file.c_str(), line}, thread, variable, what);
}

void add_wait_report(const char* kind, const SourcePlace* where, unsigned thread,
                     const std::string& what) {
    if (!is_new(kind, reinterpret_cast<uintptr_t>(where->file) + unsigned(where->line))) return;
    add_report_at(kind, *where, thread, "", what);
}

std::string hex(uintptr_t value) {
    char text[32];
    std::snprintf(text, sizeof text, "0x%zx", size_t(value));
    return text;
}

std::string access_text(bool write, size_t size) {
    return (write ? "write of " : "read of ") + std::to_string(size) +
           (size == 1 ? " byte" : " bytes");
}

std::string describe(const Access& a) {
    std::string file;
    int line = 0;
    source_line(a.pc, &file, &line);
    Index block = block_indices.empty() ? Index{0, 0, 0} : block_indices.back();
    for (size_t i = 0; i < block_epochs.size(); ++i)
        if (a.epoch >= block_epochs[i]) block = block_indices[i];
    return place(block, thread_index(a.thread)) +
           (file.empty() ? "" : " at line " + std::to_string(line));
}

// ---- shadow memory -----------------------------------------------------------------------------

Word* shadow(uintptr_t address) {
    const uintptr_t word = address >> 2, index = word / kPageWords;
    if (index != last_page_index) {
        auto& slot = pages[index];
        if (!slot) slot = std::make_unique<Page>();
        last_page = slot.get();
        last_page_index = index;
    }
    return &last_page->words[word % kPageWords];
}

bool ordered(const Access& before, const Access& now, bool is_shared) {
    if (before.epoch < launch_epoch) return true;  // also: never accessed
    if (before.atomic && now.atomic) return true;
    if (before.epoch < block_epoch) {
        if (is_shared) return true;  // every block has shared memory of its own
        const size_t index =
            std::upper_bound(block_epochs.begin(), block_epochs.end(), before.epoch) -
            block_epochs.begin() - 1;
        return index < acquired.size() && acquired[index];
    }
    if (before.thread == now.thread || before.epoch < now.epoch) return true;
    if (before.thread / kWarpSize != now.thread / kWarpSize) return false;
    return lanes[now.thread].clock[before.thread % kWarpSize] >= before.clock;
}

struct Target {
    bool is_shared;
    const char* space;
    std::string (*name)(uintptr_t);
};

void report_race(const Access& before, bool before_writes, const Access& now, bool now_writes,
                 uintptr_t address, size_t size, const Target& target) {
    // Before the costly search for the lines.
    if (is_full() || seen.count({"race", now.pc})) return;
    const std::string variable = target.name(address);
    const bool same_block = before.epoch >= block_epoch;
    add_report(
        "race", now.pc, now.thread, variable,
        access_text(now_writes, size) + " of " + target.space + " memory" +
            (variable.empty() ? "" : " '" + variable + "'") + " that " + describe(before) +
            (before_writes ? " wrote" : " read") +
            (same_block ? ", with no barrier between the two; put __syncthreads() (or __syncwarp() "
                          "within a warp) between them"
             : cooperative
                 ? ", another block of the same launch, with no grid-wide barrier between the two"
                 : ", another block of the same launch; blocks are not ordered: split the work "
                   "into "
                   "two launches or give each block its own elements"));
}

void check_cell(Cell& cell, const Access& now, bool write, uintptr_t address, size_t size,
                const Target& target) {
    if (!ordered(cell.write, now, target.is_shared))
        report_race(cell.write, true, now, write, address, size, target);
    else if (write)
        for (const Access& reader : cell.read)
            if (!ordered(reader, now, target.is_shared)) {
                report_race(reader, false, now, true, address, size, target);
                break;
            }
    if (write) {
        cell.write = now;
    } else {
        // Keep the last two readers that are different threads: a later write by either is caught.
        if (cell.read[0].thread != now.thread || cell.read[0].epoch < block_epoch)
            cell.read[1] = cell.read[0];
        cell.read[0] = now;
    }
}

template <typename Visit>
void each_cell(uintptr_t address, size_t size, Visit visit) {
    const uintptr_t end = address + size;
    for (uintptr_t a = address; a < end;) {
        Word* word = shadow(a);
        const bool whole = (a & 3) == 0 && end - a >= 4;
        if (whole && !word->bytes) {
            visit(word->cell);
            a += 4;
            continue;
        }
        if (!word->bytes) {
            word->bytes.reset(new Cell[4]);
            for (int i = 0; i < 4; ++i) word->bytes[i] = word->cell;
        }
        const uintptr_t next = std::min(end, (a & ~uintptr_t(3)) + 4);
        for (; a < next; ++a) visit(word->bytes[a & 3]);
    }
}

[[noreturn]] void fatal(Worker& worker, int code, const char* kind, uintptr_t pc,
                        const std::string& variable, const std::string& what) {
    add_report(kind, image_offset(pc), worker.block.current, variable, what);
    fail_from_kernel(worker, code, what);
}

// A block of a cooperative launch has its shared memory elsewhere than the block before it.
void forget_shared() {
    shared = {};
    shared_symbols = unplaced_symbols;
}

// Shared memory is the module's thread-local storage, which the loader allocates on the first use
// by a thread.
void locate_shared() {
    if (shared.end || shared_symbols.empty()) return;
    void* block = nullptr;
    if (dlinfo(current.library, RTLD_DI_TLS_DATA, &block) != 0 || !block) return;
    const uintptr_t base = reinterpret_cast<uintptr_t>(block);
    shared.begin = base;
    for (Symbol& symbol : shared_symbols) {
        symbol.begin += base;
        shared.end = std::max(shared.end, symbol.begin + symbol.size);
        if (symbol.space == Space::kDynamicShared) symbol.size = current.dynamic_shared;
    }
}

bool on_driver_memory(const Worker& worker, uintptr_t address) {
    const Fiber* fiber = worker.running;
    if (fiber) {
        const uintptr_t stack = reinterpret_cast<uintptr_t>(fiber->mapping);
        if (address >= stack && address < stack + fiber->mapping_bytes) return true;
    }
    for (const Range& range : current.driver)
        if (range.touches(address)) return true;
    for (const Range& range : current.values)
        if (range.touches(address)) return true;
    return false;
}

// The legal bytes around the address: a shared array, an allocation, a data segment of the image.
// An empty range: the address is of no concern (the thread's own stack). Does not return when the
// address belongs to nothing.
Range home_of(Worker& worker, uintptr_t address, size_t size, bool write, uintptr_t pc) {
    if (shared.touches(address)) {
        const Symbol* symbol = symbol_before(shared_symbols, address);
        if (!symbol || symbol->space == Space::kDriver) return {};
        return {symbol->begin, symbol->begin + symbol->size};
    }
    Allocation home;
    if (find_allocation(address, &home)) {
        if (!extents_known) return {home.address, home.address + home.requested};
        const Parameter* owner = nullptr;
        for (const Parameter& p : current.pointers) {
            const Range extent{p.value, p.value + p.bytes};
            if (extent.contains(address, size)) return extent;
            if (extent.touches(address) || !owner ||
                nearness(p, address) < nearness(*owner, address))
                owner = &p;
        }
        if (owner) return {owner->value, owner->value + owner->bytes};
    }
    if (on_driver_memory(worker, address)) return {};
    for (const Range& segment : image_segments)
        if (segment.contains(address, size)) return segment;
    const std::string name = parameter_name(address);
    fatal(worker, CUDA_ERROR_ILLEGAL_ADDRESS, "out_of_bounds", pc, name,
          access_text(write, size) + " at address " + hex(address) +
              ", which lies in no allocation" +
              (name.empty() ? "" : "; the nearest argument is '" + name + "'") +
              "; check the index against the sizes passed");
}

}  // namespace

void check_access(uintptr_t address, size_t size, size_t alignment, bool write, bool atomic,
                  uintptr_t pc) {
    Worker* worker = current_worker();
    if (!worker || !worker->in_kernel || !check_hooks) return;
    locate_shared();
    const bool is_shared = shared.touches(address);
    if (is_shared || !last_home.contains(address, size)) {
        const Range home = home_of(*worker, address, size, write, pc);
        if (!home.end) return;
        if (!home.contains(address, size)) {
            const std::string name = is_shared ? shared_name(address) : global_name(address);
            fatal(*worker, CUDA_ERROR_ILLEGAL_ADDRESS, "out_of_bounds", pc, name,
                  access_text(write, size) + " of " + (is_shared ? "shared memory '" : "'") + name +
                      "' at byte " + std::to_string(intptr_t(address - home.begin)) + " of " +
                      std::to_string(home.end - home.begin));
        }
        if (!is_shared) last_home = home;
    }
    if (alignment > 1 && address % alignment) {
        const std::string name = is_shared ? shared_name(address) : global_name(address);
        fatal(*worker, CUDA_ERROR_MISALIGNED_ADDRESS, "misaligned", pc, name,
              access_text(write, size) + " at address " + hex(address) +
                  (name.empty() ? "" : " ('" + name + "')") + ", which is no multiple of " +
                  std::to_string(alignment));
    }
    const unsigned thread = worker->block.current;
    Access now;
    now.epoch = epoch;
    now.thread = uint16_t(thread);
    now.clock = lanes[thread].clock[thread % kWarpSize];
    now.pc = image_offset(pc);
    now.atomic = atomic;
    const Target target =
        is_shared ? Target{true, "shared", shared_name} : Target{false, "global", global_name};
    bool uninitialised = false;
    each_cell(address, size, [&](Cell& cell) {
        if (is_shared && (!write || atomic) && cell.write.epoch < shared_epoch)
            uninitialised = true;
        check_cell(cell, now, write, address, size, target);
    });
    if (uninitialised) {
        const std::string name = shared_name(address);
        add_report("uninitialised", now.pc, thread, name,
                   access_text(false, size) + " of shared memory '" + name +
                       "' that no thread of this block has written; shared memory starts with "
                       "arbitrary contents");
    }
    if (atomic && !is_shared) {
        BlockSet& set = released[address];
        merge(acquired, set);
        if (set.size() < block_indices.size()) set.resize(block_indices.size());
        merge(set, acquired);
        set[block_indices.size() - 1] = true;
    }
}

namespace {

// ---- the image: shared variables by name, data segments ----------------------------------------

template <typename T>
const T* in_image(size_t offset) {
    return offset + sizeof(T) <= current.image->size()
               ? reinterpret_cast<const T*>(current.image->data() + offset)
               : nullptr;
}

// `_ZZ1kE4tile` -> `k::tile`
std::string demangle(const char* mangled) {
    int status = 0;
    char* text = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
    const std::string name = status == 0 && text ? text : mangled;
    std::free(text);
    return name;
}

Symbol make_symbol(const char* mangled, uintptr_t value, size_t size, bool thread_local_storage) {
    const std::string full = demangle(mangled);
    const size_t colon = full.rfind("::");
    Symbol symbol{colon == std::string::npos ? full : full.substr(colon + 2), value, size,
                  Space::kObject};
    if (thread_local_storage) {
        const bool own = full.find("cpu_driver") != std::string::npos;
        const bool dynamic = full.find("dynamic_shared") != std::string::npos;
        symbol.space =
            own ? (dynamic ? Space::kDynamicShared : Space::kDriver) : Space::kStaticShared;
        if (own && dynamic) symbol.name = "dynamic shared memory";
    }
    return symbol;
}

// FNV-1a over 8-byte words.
uint64_t hash(const std::vector<char>& bytes) {
    uint64_t result = 14695981039346656037ull ^ bytes.size();
    for (size_t i = 0; i + 8 <= bytes.size(); i += 8) {
        uint64_t word;
        std::memcpy(&word, bytes.data() + i, sizeof word);
        result = (result ^ word) * 1099511628211ull;
    }
    return result;
}

void read_image() {
    static uint64_t read = 0;  // an unloaded module's address may come back: the contents decide
    static std::vector<Symbol> symbols;  // begin relative to the thread-local block
    static std::vector<Symbol> objects;  // begin and segments relative to the image base
    static std::vector<Range> segments;
    const uint64_t contents = hash(*current.image);
    if (read != contents) {
        read = contents;
        symbols.clear();
        objects.clear();
        segments.clear();
        if (const auto* header = in_image<Elf64_Ehdr>(0)) {
            for (unsigned i = 0; i < header->e_phnum; ++i)
                if (const auto* p = in_image<Elf64_Phdr>(header->e_phoff + i * sizeof(Elf64_Phdr)))
                    if (p->p_type == PT_LOAD)
                        segments.push_back({p->p_vaddr, p->p_vaddr + p->p_memsz});
            for (unsigned i = 0; i < header->e_shnum; ++i) {
                const auto* section =
                    in_image<Elf64_Shdr>(header->e_shoff + i * sizeof(Elf64_Shdr));
                if (!section || section->sh_type != SHT_SYMTAB) continue;
                const auto* strings =
                    in_image<Elf64_Shdr>(header->e_shoff + section->sh_link * sizeof(Elf64_Shdr));
                for (size_t k = 0; strings && k < section->sh_size / sizeof(Elf64_Sym); ++k) {
                    const auto* s = in_image<Elf64_Sym>(section->sh_offset + k * sizeof(Elf64_Sym));
                    if (!s) continue;
                    const unsigned type = ELF64_ST_TYPE(s->st_info);
                    if (type != STT_TLS && type != STT_OBJECT) continue;
                    (type == STT_TLS ? symbols : objects)
                        .push_back(
                            make_symbol(current.image->data() + strings->sh_offset + s->st_name,
                                        s->st_value, s->st_size, type == STT_TLS));
                }
            }
            const auto by_address = [](const Symbol& a, const Symbol& b) {
                return a.begin < b.begin;
            };
            std::sort(symbols.begin(), symbols.end(), by_address);
            std::sort(objects.begin(), objects.end(), by_address);
        }
    }
    unplaced_symbols = symbols;
    forget_shared();
    object_symbols = objects;
    for (Symbol& s : object_symbols) s.begin += current.image_base;
    image_segments = segments;
    for (Range& r : image_segments) r.begin += current.image_base, r.end += current.image_base;
}

// The name of the shared array that the source line subscripts, where there is just one candidate.
std::string subscripted_name(const std::string& file, int line) {
    FILE* f = std::fopen(file.c_str(), "r");
    if (!f) return "";
    char text[4096] = "";
    for (int i = 0; i < line; ++i)
        if (!std::fgets(text, sizeof text, f)) break;
    std::fclose(f);
    std::string found;
    for (const Symbol& s : shared_symbols) {
        const char* at = std::strstr(text, (s.name + "[").c_str());
        if (!at || (at > text && (std::isalnum(at[-1]) || at[-1] == '_')) || s.name == found)
            continue;
        if (!found.empty()) return "";
        found = s.name;
    }
    return found;
}

// ---- what the scheduler tells
// --------------------------------------------------------------------

std::string parameter_name_at(const char* names, unsigned index) {
    for (; index && *names; ++names)
        if (*names == ',') --index;
    const char* end = std::strchr(names, ',');
    return end ? std::string(names, end) : std::string(names);
}

template <typename T>
Range range_of(const T* object, size_t count = 1) {
    const uintptr_t begin = reinterpret_cast<uintptr_t>(object);
    return {begin, begin + sizeof(T) * count};
}

int on_launch_begin(Launch& launch) {
    const Kernel& kernel = *launch.kernel;
    const ModuleObject& module = *launch.function->module;
    current = {};
    current.kernel = kernel.name;
    current.library = module.library;
    current.block = launch.block;
    current.dynamic_shared = launch.dynamic_shared;
    current.image = &module.image;
    struct link_map* map = nullptr;
    if (dlinfo(module.library, RTLD_DI_LINKMAP, &map) == 0 && map) current.image_base = map->l_addr;
    for (unsigned i = 0; i < kernel.argument_count; ++i) {
        const auto* bytes = static_cast<const char*>(launch.arguments[i]);
        current.values.push_back(range_of(bytes, kernel.arguments[i].size));
        if (kernel.arguments[i].kind != kPointer) continue;
        uintptr_t value;
        std::memcpy(&value, bytes, sizeof value);
        current.pointers.push_back({parameter_name_at(kernel.parameters, i), value, 0});
    }
    const size_t passed = current.pointers.size();
    extents_known = next_extents.size() >= passed && !next_extents.empty();
    for (size_t i = 0; extents_known && i < passed; ++i) {
        extents_known = next_extents[i].first == current.pointers[i].value;
        current.pointers[i].bytes = next_extents[i].second;
    }
    for (size_t i = passed; extents_known && i < next_extents.size(); ++i)
        current.pointers.push_back({"array " + std::to_string(i - passed) + " behind the arguments",
                                    next_extents[i].first, next_extents[i].second});
    next_extents.clear();
    current.driver[0] = range_of(&launch);
    current.driver[1] = range_of(launch.arguments, kernel.argument_count);
    read_image();
    launch_epoch = epoch + 1;
    cooperative = launch.team != nullptr;
    shared_epochs.clear();
    grid_place = nullptr;
    block_epochs.clear();
    block_indices.clear();
    released.clear();
    seen.clear();
    barrier_places.assign(threads_per_block(), nullptr);
    launch_first_report = reports.size();
    last_home = {};
    return CUDA_SUCCESS;
}

// The running block is the worker's from here on.
void enter_block(Worker& worker) {
    current.driver[2] = range_of(&worker);
    if (worker.block.order) current.driver[3] = range_of(worker.block.order, worker.block.count);
    block_epoch = ++epoch;
    block_epochs.push_back(block_epoch);
    block_indices.push_back(worker.block.index);
    acquired.clear();
    lanes.resize(threads_per_block());
    for (size_t i = 0; i < lanes.size(); ++i) {
        std::memset(&lanes[i], 0, sizeof(Lane));
        lanes[i].clock[i % kWarpSize] = 1;
    }
    if (!cooperative) return;
    forget_shared();
    last_home = {};
    barrier_places.assign(threads_per_block(), nullptr);
}

void on_block_begin(Worker& worker) {
    enter_block(worker);
    shared_epoch = block_epoch;
    if (cooperative) shared_epochs[&worker] = shared_epoch;
}

void on_block_resume(Worker& worker) {
    enter_block(worker);
    shared_epoch = shared_epochs[&worker];
}

void on_grid_barrier_complete() {
    launch_epoch = epoch + 1;
    released.clear();
    grid_place = nullptr;
}

void on_barrier_arrive(Worker& worker, const void* caller) {
    barrier_places[worker.block.current] = static_cast<const SourcePlace*>(caller);
}

// One call in the source may have become several instructions: its line decides.
bool same_place(const SourcePlace* a, const SourcePlace* b) {
    return a == b || (a->line == b->line && !std::strcmp(a->file, b->file));
}

// Whether all threads of the block came to the same barrier.
void compare_places() {
    const SourcePlace* first = barrier_places[0];
    for (unsigned t = 1; t < barrier_places.size(); ++t) {
        const SourcePlace* other = barrier_places[t];
        if (same_place(first, other)) continue;
        add_wait_report(
            "divergent_barrier", other, t,
            format("this thread and thread 0 of the block (line %d) met at two different "
                   "__syncthreads(); every thread must reach the same one: move it "
                   "out of the branch",
                   first->line));
        return;
    }
}

void on_barrier_complete(Worker&) {
    ++epoch;
    compare_places();
}

void on_grid_barrier_arrive(Worker&) {
    compare_places();
    const SourcePlace* own = barrier_places[0];
    if (!grid_place) grid_place = own;
    if (!same_place(grid_place, own))
        add_wait_report("divergent_barrier", own, 0,
                        format("another block came to the grid-wide barrier at line %d; every "
                               "block must reach the same one",
                               grid_place->line));
}

void on_warp_complete(Worker& worker, unsigned warp, uint32_t completed) {
    const LaneRequest* requests = worker.warps[warp].request;
    const unsigned first = warp * kWarpSize;
    for (uint32_t rest = completed; rest; rest &= rest - 1) {
        const unsigned lane = unsigned(__builtin_ctz(rest));
        const LaneRequest& request = requests[lane];
        const auto* caller = static_cast<const SourcePlace*>(request.caller);
        const uint32_t left = request.mask & worker.exited.warp(warp);
        if (left) {
            add_wait_report("dead_lane", caller, first + lane,
                            format("the mask 0x%08x names lane %d, which has left the kernel",
                                   request.mask, __builtin_ctz(left)));
            continue;
        }
        if (request.operation < kShuffleIndex || request.operation > kShuffleXor) continue;
        const unsigned source =
            shuffle_source(request.operation, lane, request.argument, request.width);
        if (!(completed >> source & 1))
            add_wait_report(
                "dead_lane", caller, first + lane,
                format("the shuffle reads lane %u, which takes no part in it (mask 0x%08x)", source,
                       request.mask));
    }
    Lane merged{};
    for (uint32_t rest = completed; rest; rest &= rest - 1)
        for (unsigned k = 0; k < kWarpSize; ++k)
            merged.clock[k] =
                std::max(merged.clock[k], lanes[first + unsigned(__builtin_ctz(rest))].clock[k]);
    for (uint32_t rest = completed; rest; rest &= rest - 1) {
        const unsigned lane = unsigned(__builtin_ctz(rest));
        lanes[first + lane] = merged;
        ++lanes[first + lane].clock[lane];
    }
}

void on_problem(Worker&, const char* kind, unsigned thread, const void* caller,
                const std::string& text) {
    const auto* where = static_cast<const SourcePlace*>(caller);
    if (!where) where = barrier_places[thread];
    const SourcePlace unknown{"", 0};
    add_wait_report(kind, where ? where : &unknown, thread, text);
}

int on_launch_end(Launch&, int result) {
    if (reports.size() == launch_first_report) return result;
    std::string message = reports[launch_first_report].text;
    const size_t more = reports.size() - launch_first_report - 1;
    if (more) message += " (and " + std::to_string(more) + " more)";
    return fail(result ? result : CUDA_ERROR_LAUNCH_FAILED, message);
}

const CheckHooks hooks = [] {
    CheckHooks all{};
    all.launch_begin = on_launch_begin;
    all.launch_end = on_launch_end;
    all.block_begin = on_block_begin;
    all.barrier_arrive = on_barrier_arrive;
    all.barrier_complete = on_barrier_complete;
    all.grid_barrier_arrive = on_grid_barrier_arrive;
    all.grid_barrier_complete = on_grid_barrier_complete;
    all.block_resume = on_block_resume;
    all.warp_complete = on_warp_complete;
    all.problem = on_problem;
    return all;
}();

const bool registered = [] {
    registered_checks = &hooks;
    return true;
}();

}  // namespace

void check_subscript(const char* file, int line, const char* array_type, intptr_t index) {
    Worker* worker = current_worker();
    if (!worker || !worker->in_kernel || !check_hooks) return;
    locate_shared();
    const std::string name = subscripted_name(file, line);
    const std::string what = "index " + std::to_string(index) + " of an array of type " +
                             array_type + (name.empty() ? "" : " ('" + name + "')");
    add_report_at("out_of_bounds", {file, line}, worker->block.current, name, what);
    fail_from_kernel(*worker, CUDA_ERROR_ILLEGAL_ADDRESS, what);
}

void check_alignment(const char* file, int line, const char* type, uintptr_t address,
                     size_t alignment) {
    Worker* worker = current_worker();
    if (!worker || !worker->in_kernel || !check_hooks) return;
    locate_shared();
    const std::string name = shared.touches(address) ? shared_name(address) : global_name(address);
    const std::string what = std::string("access to type ") + type + " at address " + hex(address) +
                             (name.empty() ? "" : " ('" + name + "')") +
                             ", which is no multiple of " + std::to_string(alignment);
    add_report_at("misaligned", {file, line}, worker->block.current, name, what);
    fail_from_kernel(*worker, CUDA_ERROR_MISALIGNED_ADDRESS, what);
}

void set_extents(const uintptr_t* pointers, const size_t* bytes, size_t count) {
    next_extents.clear();
    for (size_t i = 0; i < count; ++i) next_extents.push_back({pointers[i], bytes[i]});
}

std::vector<Report> take_reports() {
    std::vector<Report> all;
    all.swap(reports);
    launch_first_report = 0;
    return all;
}

}  // namespace cpu_driver
