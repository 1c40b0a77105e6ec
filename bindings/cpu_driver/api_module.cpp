// Modules: images are ELF shared objects, loaded with dlopen; their kernels and globals.
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>

#include "launch.h"
#include "objects.h"

namespace cpu_driver {

namespace {

struct Modules {
    std::mutex mutex;
    std::set<ModuleObject*> alive;
    std::set<Function*> functions;
    uint64_t function_count = 0;
};

Modules& modules() {
    static Modules* instance = new Modules;
    return *instance;
}

// The size of a well-formed 64-bit ELF image, 0 if it is none. cuModuleLoadData is given no length,
// so it is read from the headers.
size_t elf_size(const void* image) {
    const auto* bytes = static_cast<const unsigned char*>(image);
    if (std::memcmp(bytes, ELFMAG, SELFMAG) != 0 || bytes[EI_CLASS] != ELFCLASS64) return 0;
    Elf64_Ehdr header;
    std::memcpy(&header, image, sizeof header);
    if (header.e_type != ET_DYN || header.e_shentsize != sizeof(Elf64_Shdr)) return 0;
#if defined(__x86_64__)
    if (header.e_machine != EM_X86_64) return 0;
#elif defined(__aarch64__)
    if (header.e_machine != EM_AARCH64) return 0;
#endif
    size_t end = header.e_shoff + size_t{header.e_shnum} * header.e_shentsize;
    for (unsigned i = 0; i < header.e_shnum; ++i) {
        Elf64_Shdr section;
        std::memcpy(&section, bytes + header.e_shoff + i * sizeof section, sizeof section);
        if (section.sh_type != SHT_NOBITS && section.sh_offset + section.sh_size > end)
            end = section.sh_offset + section.sh_size;
    }
    return end;
}

// Calls visit(name, value, size, type, binding) for every symbol of the image.
template <typename Visit>
void for_each_symbol(const std::vector<char>& image, Visit visit) {
    Elf64_Ehdr header;
    std::memcpy(&header, image.data(), sizeof header);
    auto section_at = [&](unsigned i) {
        Elf64_Shdr section;
        std::memcpy(&section, image.data() + header.e_shoff + i * sizeof section, sizeof section);
        return section;
    };
    for (unsigned i = 0; i < header.e_shnum; ++i) {
        const Elf64_Shdr section = section_at(i);
        if (section.sh_type != SHT_SYMTAB || section.sh_link >= header.e_shnum) continue;
        const Elf64_Shdr names = section_at(section.sh_link);
        for (size_t at = 0; at + sizeof(Elf64_Sym) <= section.sh_size; at += sizeof(Elf64_Sym)) {
            Elf64_Sym symbol;
            std::memcpy(&symbol, image.data() + section.sh_offset + at, sizeof symbol);
            if (symbol.st_name < names.sh_size)
                visit(image.data() + names.sh_offset + symbol.st_name, symbol);
        }
    }
}

// Static __shared__ arrays are thread-local variables named after the function that declares them
// (_ZZ<function>E<variable>). A kernel is charged its own and those of all device functions.
size_t static_shared_bytes(const ModuleObject& module, const char* kernel_symbol) {
    std::vector<std::string> others;
    for (unsigned i = 0; i < module.info->kernel_count; ++i) {
        Dl_info info;
        if (dladdr(module.info->kernels[i].address, &info) && info.dli_sname &&
            strcmp(info.dli_sname, kernel_symbol))
            others.push_back(info.dli_sname);
    }
    auto prefix_of = [](const std::string& symbol) {
        return symbol.compare(0, 2, "_Z") == 0
                   ? "_ZZ" + symbol.substr(2) + "E"
                   : "_ZZ" + std::to_string(symbol.size()) + symbol + "E";
    };
    std::vector<std::string> foreign;
    for (const std::string& other : others) foreign.push_back(prefix_of(other));
    size_t bytes = 0;
    for_each_symbol(module.image, [&](const char* name, const Elf64_Sym& symbol) {
        if (ELF64_ST_TYPE(symbol.st_info) != STT_TLS || symbol.st_shndx == SHN_UNDEF) return;
        if (!strncmp(name, "cpu_driver_", 11) || strstr(name, "cpu_driver_index")) return;
        for (const std::string& prefix : foreign)
            if (!strncmp(name, prefix.c_str(), prefix.size())) return;
        bytes += symbol.st_size;
    });
    return bytes;
}

// Every image gets a path of its own: dlopen would take a second file of a known path (or inode)
// for the first one.
void* open_image(const std::vector<char>& image, std::string* why) {
    static std::atomic<unsigned> counter{0};
    const unsigned number = ++counter;
    const char* folders[] = {getenv("TMPDIR"), "/tmp", "/dev/shm", "/var/tmp"};
    for (const char* folder : folders) {
        if (!folder || !*folder) continue;
        std::string path = format("%s/pygan-module-%d-%u-XXXXXX", folder, getpid(), number);
        const int descriptor = mkstemp(&path[0]);
        if (descriptor < 0) continue;
        fchmod(descriptor, 0700);
        size_t done = 0;
        while (done < image.size()) {
            const ssize_t n = write(descriptor, image.data() + done, image.size() - done);
            if (n <= 0) break;
            done += static_cast<size_t>(n);
        }
        close(descriptor);
        void* library =
            done == image.size() ? dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL) : nullptr;
        if (!library) *why = done == image.size() ? dlerror() : "cannot write " + path;
        unlink(path.c_str());
        if (library) return library;
    }
    // No folder takes it (read-only, full, or mounted noexec): memory does. The descriptor stays
    // open, so that its number does not come back under another module.
    const int descriptor = memfd_create("pygan-module", 0);
    if (descriptor >= 0 &&
        write(descriptor, image.data(), image.size()) == static_cast<ssize_t>(image.size())) {
        void* library =
            dlopen(format("/proc/self/fd/%d", descriptor).c_str(), RTLD_NOW | RTLD_LOCAL);
        if (library) return library;
        *why = dlerror();
        close(descriptor);
    }
    return nullptr;
}

CUresult load(CUmodule* result, const void* data, size_t known_size) {
    if (CUresult error = need_context()) return error;
    if (!result || !data) return fail(CUDA_ERROR_INVALID_VALUE, "no image");
    const size_t size = known_size && known_size < sizeof(Elf64_Ehdr) ? 0 : elf_size(data);
    if (!size || (known_size && size > known_size))
        return fail(CUDA_ERROR_INVALID_IMAGE,
                    "not an image of the CPU driver's nvcc (was it compiled by NVIDIA's nvcc?)");
    auto module = std::make_unique<ModuleObject>();
    module->context = current_context();
    module->image.assign(static_cast<const char*>(data), static_cast<const char*>(data) + size);
    std::string why;
    module->library = open_image(module->image, &why);
    if (!module->library) return fail(CUDA_ERROR_SHARED_OBJECT_INIT_FAILED, why);
    auto entry = reinterpret_cast<const Module* (*)()>(dlsym(module->library, "cpu_driver_module"));
    module->info = entry ? entry() : nullptr;
    if (!module->info || module->info->abi != CPU_DRIVER_ABI) {
        dlclose(module->library);
        return fail(CUDA_ERROR_INVALID_IMAGE,
                    format("the image has interface version %u, the driver %u; compile it again",
                           module->info ? module->info->abi : 0, CPU_DRIVER_ABI));
    }
    Dl_info place;
    if (dladdr(reinterpret_cast<void*>(entry), &place)) {
        Elf64_Ehdr header;
        std::memcpy(&header, module->image.data(), sizeof header);
        module->begin = module->end = reinterpret_cast<uintptr_t>(place.dli_fbase);
        for (unsigned i = 0; i < header.e_phnum; ++i) {
            Elf64_Phdr segment;
            std::memcpy(&segment, module->image.data() + header.e_phoff + i * sizeof segment,
                        sizeof segment);
            if (segment.p_type == PT_LOAD)
                module->end = std::max<uintptr_t>(
                    module->end, module->begin + segment.p_vaddr + segment.p_memsz);
        }
    }
    std::lock_guard<std::mutex> lock(modules().mutex);
    *result = module.release();
    modules().alive.insert(*result);
    return CUDA_SUCCESS;
}

void unload(ModuleObject* module) {
    for (const auto& global : module->globals) remove_foreign(global.second.first);
    for (const auto& function : module->functions) modules().functions.erase(function.second.get());
    modules().alive.erase(module);
    dlclose(module->library);
    delete module;
}

CUresult need_module(ModuleObject* module) {
    return modules().alive.count(module) ? CUDA_SUCCESS
                                         : fail(CUDA_ERROR_INVALID_HANDLE, "not a loaded module");
}

}  // namespace

void unload_all(ContextObject* context) {
    std::lock_guard<std::mutex> lock(modules().mutex);
    std::vector<ModuleObject*> own;
    for (ModuleObject* module : modules().alive)
        if (module->context == context) own.push_back(module);
    for (ModuleObject* module : own) unload(module);
}

bool is_loaded(const Function* function, uint64_t number) {
    std::lock_guard<std::mutex> lock(modules().mutex);
    return modules().functions.count(const_cast<Function*>(function)) != 0 &&
           function->number == number;
}

CUresult need_function(CUfunction handle, Function** function) {
    if (CUresult error = need_context()) return error;
    std::lock_guard<std::mutex> lock(modules().mutex);
    if (!modules().functions.count(handle))
        return fail(CUDA_ERROR_INVALID_HANDLE, "not a kernel of a loaded module");
    *function = handle;
    return CUDA_SUCCESS;
}

}  // namespace cpu_driver

using namespace cpu_driver;

CPU_DRIVER_API CUresult cuModuleLoadData(CUmodule* module, const void* image) {
    return load(module, image, 0);
}
CPU_DRIVER_API CUresult cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned, void*,
                                           void*) {
    return load(module, image, 0);
}
CPU_DRIVER_API CUresult cuModuleLoadFatBinary(CUmodule* module, const void* image) {
    return load(module, image, 0);
}

CPU_DRIVER_API CUresult cuModuleLoad(CUmodule* module, const char* path) {
    if (CUresult error = need_context()) return error;
    FILE* file = path ? fopen(path, "rb") : nullptr;
    if (!file) return fail(CUDA_ERROR_FILE_NOT_FOUND, path ? path : "(null)");
    std::vector<char> bytes;
    char buffer[65536];
    for (size_t n; (n = fread(buffer, 1, sizeof buffer, file)) > 0;)
        bytes.insert(bytes.end(), buffer, buffer + n);
    fclose(file);
    if (bytes.empty()) return fail(CUDA_ERROR_INVALID_IMAGE, "the file is empty");
    return load(module, bytes.data(), bytes.size());
}

CPU_DRIVER_API CUresult cuModuleUnload(CUmodule module) {
    if (CUresult error = need_context()) return error;
    std::lock_guard<std::mutex> lock(modules().mutex);
    if (CUresult error = need_module(module)) return error;
    unload(module);
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuModuleGetLoadingMode(int* mode) {
    if (!mode) return fail(CUDA_ERROR_INVALID_VALUE, "");
    *mode = 1;  // eager
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuModuleGetFunction(CUfunction* function, CUmodule module,
                                            const char* name) {
    if (CUresult error = need_context()) return error;
    if (!function || !name) return fail(CUDA_ERROR_INVALID_VALUE, "no name");
    std::lock_guard<std::mutex> lock(modules().mutex);
    if (CUresult error = need_module(module)) return error;
    auto known = module->functions.find(name);
    if (known == module->functions.end()) {
        const void* address = dlsym(module->library, name);
        const Kernel* kernel = nullptr;
        std::string names;
        for (unsigned i = 0; i < module->info->kernel_count; ++i) {
            const Kernel& candidate = module->info->kernels[i];
            if (candidate.address == address || !strcmp(candidate.name, name)) kernel = &candidate;
            names += (i ? ", " : "") + std::string(candidate.name);
        }
        if (!kernel)
            return fail(CUDA_ERROR_NOT_FOUND,
                        format("no kernel '%s' in the module; it has: %s", name, names.c_str()));
        auto object = std::make_unique<Function>();
        object->module = module;
        object->kernel = kernel;
        object->number = ++modules().function_count;
        Dl_info info;
        const bool named = dladdr(kernel->address, &info) && info.dli_sname;
        object->static_shared = static_shared_bytes(*module, named ? info.dli_sname : name);
        modules().functions.insert(object.get());
        known = module->functions.emplace(name, std::move(object)).first;
    }
    *function = known->second.get();
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuModuleGetFunctionCount(unsigned* count, CUmodule module) {
    if (CUresult error = need_context()) return error;
    std::lock_guard<std::mutex> lock(modules().mutex);
    if (CUresult error = need_module(module)) return error;
    *count = module->info->kernel_count;
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuModuleGetGlobal_v2(CUdeviceptr* address, size_t* bytes, CUmodule module,
                                             const char* name) {
    if (CUresult error = need_context()) return error;
    if (!name) return fail(CUDA_ERROR_INVALID_VALUE, "no name");
    std::lock_guard<std::mutex> lock(modules().mutex);
    if (CUresult error = need_module(module)) return error;
    auto known = module->globals.find(name);
    if (known == module->globals.end()) {
        void* found = dlsym(module->library, name);
        size_t size = 0;
        for_each_symbol(module->image, [&](const char* symbol_name, const Elf64_Sym& symbol) {
            if (ELF64_ST_TYPE(symbol.st_info) == STT_OBJECT && !strcmp(symbol_name, name))
                size = symbol.st_size;
        });
        if (!found || !size)
            return fail(CUDA_ERROR_NOT_FOUND,
                        format("no __device__ or __constant__ variable '%s' in the module", name));
        const auto place = reinterpret_cast<uintptr_t>(found);
        if (CUresult error = add_foreign(place, size, MemoryKind::kGlobal, 0)) return error;
        known = module->globals.emplace(name, std::make_pair(place, size)).first;
    }
    if (address) *address = known->second.first;
    if (bytes) *bytes = known->second.second;
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuFuncGetModule(CUmodule* module, CUfunction handle) {
    Function* function;
    if (CUresult error = need_function(handle, &function)) return error;
    *module = function->module;
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuFuncGetName(const char** name, CUfunction handle) {
    Function* function;
    if (CUresult error = need_function(handle, &function)) return error;
    *name = function->kernel->name;
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuFuncGetParamInfo(CUfunction handle, size_t index, size_t* offset,
                                           size_t* size) {
    Function* function;
    if (CUresult error = need_function(handle, &function)) return error;
    const Kernel& kernel = *function->kernel;
    if (index >= kernel.argument_count)
        return fail(CUDA_ERROR_INVALID_VALUE, format("parameter %zu of kernel %s, which has %u",
                                                     index, kernel.name, kernel.argument_count));
    size_t end = 0, start = 0;
    for (size_t i = 0; i <= index; ++i) {
        const Argument& argument = kernel.arguments[i];
        start = (end + argument.align - 1) / argument.align * argument.align;
        end = start + argument.size;
    }
    if (offset) *offset = start;
    if (size) *size = kernel.arguments[index].size;
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuFuncGetAttribute(int* value, int attribute, CUfunction handle) {
    Function* function;
    if (CUresult error = need_function(handle, &function)) return error;
    switch (attribute) {
        case 0:
            *value = function->kernel->max_threads ? static_cast<int>(function->kernel->max_threads)
                                                   : 1024;
            break;
        case 1:
            *value = static_cast<int>(function->static_shared);
            break;
        case 4:
            *value = 32;  // registers: a number that lets occupancy calculations go on
            break;
        case 5:
        case 6:
            *value = 90;
            break;
        case 8:
            *value = function->max_dynamic_shared;
            break;
        case 9:
            *value = -1;
            break;
        case 2:
        case 3:
        case 7:
        case 10:
        case 11:
        case 12:
        case 13:
        case 14:
        case 15:
            *value = 0;
            break;
        default:
            return fail(CUDA_ERROR_INVALID_VALUE, format("function attribute %d", attribute));
    }
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuFuncSetAttribute(CUfunction handle, int attribute, int value) {
    Function* function;
    if (CUresult error = need_function(handle, &function)) return error;
    constexpr int kLimit = 227 * 1024;
    if (attribute == 9) return CUDA_SUCCESS;
    if (attribute != 8)
        return fail(CUDA_ERROR_INVALID_VALUE, format("function attribute %d", attribute));
    if (value < 0 || value + static_cast<int>(function->static_shared) > kLimit)
        return fail(
            CUDA_ERROR_INVALID_VALUE,
            format("%d bytes of dynamic shared memory; a block may have %d", value, kLimit));
    function->max_dynamic_shared = value;
    function->shared_consent = true;
    return CUDA_SUCCESS;
}

CPU_DRIVER_API CUresult cuFuncSetCacheConfig(CUfunction handle, int) {
    Function* function;
    return need_function(handle, &function);
}
CPU_DRIVER_API CUresult cuFuncSetSharedMemConfig(CUfunction handle, int) {
    Function* function;
    return need_function(handle, &function);
}

// --- the JIT linker, which the CPU driver lacks ---------------------------------------------

// Callers show the error log they gave a buffer for, so it is filled in: 5 and 6 are the options
// CU_JIT_ERROR_LOG_BUFFER and its size, 3 and 4 those of the information log.
CPU_DRIVER_API CUresult cuLinkCreate_v2(unsigned count, int* options, void** values, void** state) {
    static const char kText[] = "the CPU driver has no JIT linker";
    if (state) *state = nullptr;
    for (unsigned i = 0; options && values && i < count; ++i) {
        if (options[i] != 3 && options[i] != 5) continue;
        size_t room = 0;
        for (unsigned j = 0; j < count; ++j)
            if (options[j] == options[i] + 1) room = reinterpret_cast<uintptr_t>(values[j]);
        char* log = static_cast<char*>(values[i]);
        if (log && room) snprintf(log, room, "%s", options[i] == 5 ? kText : "");
    }
    return fail(CUDA_ERROR_NOT_SUPPORTED, kText);
}
