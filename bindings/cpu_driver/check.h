// The memory checker: reports, and what the compiler's hooks call (check_hooks.cpp).
//
// A module compiled with check=True calls the compiler's thread-sanitizer hooks before every memory
// access. check.cpp decides, against shadow memory, whether the access is legal. Blocks of a
// checked kernel run one after the other on the launching thread, so nothing here is locked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "include/cpu_driver_abi.h"

namespace cpu_driver {

struct Report {
    std::string kind;  // out_of_bounds misaligned race uninitialised divergent_barrier dead_lane
    std::string kernel, file, variable, text;
    int line = 0;
    Index block{0, 0, 0}, thread{0, 0, 0};
};

// `alignment` is what the access instruction demands; 1 where the compiler itself allows any.
// `pc` is the return address of the hook. Returns only when the access can be performed.
void check_access(uintptr_t address, size_t size, size_t alignment, bool write, bool atomic,
                  uintptr_t pc);

// An index past the declared extent of an array. Does not return from inside a kernel.
void check_subscript(const char* file, int line, const char* array_type, intptr_t index);

// A pointer used as `type` that is no multiple of the type's alignment. Does not return from inside
// a kernel.
void check_alignment(const char* file, int line, const char* type, uintptr_t address,
                     size_t alignment);

// The arrays that the next launch gets, one per pointer parameter, then those whose addresses it
// finds in memory: it may touch nothing else. Views of one arena are thereby told apart. Ignored by
// a launch with other pointers.
void set_extents(const uintptr_t* pointers, const size_t* bytes, size_t count);

// All reports since the last call, oldest first.
std::vector<Report> take_reports();

}  // namespace cpu_driver
