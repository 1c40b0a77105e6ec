// CUDA's vocabulary on an ordinary processor. The nvcc stand-in includes this file before every
// source it compiles.
#pragma once

#include <assert.h>
#include <float.h>
#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <limits>
#include <tuple>
#include <type_traits>
#include <utility>

// C++17's special functions (std::laguerre, std::riemann_zeta, ...), which device code has not, are
// most of <cmath>.
#undef _GLIBCXX_USE_STD_SPEC_FUNCS
#include <math.h>

#include "cpu_driver_abi.h"

// __global__, __device__, __shared__ and __noinline__ are left to source_rewriter.py: what becomes
// of them depends on where they stand.
#define __host__
#define __constant__ __attribute__((visibility("default")))
#define __managed__ __attribute__((visibility("default")))
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __inline_hint__
#define __align__(n) __attribute__((aligned(n)))
#define __builtin_align__(n) __attribute__((aligned(n)))

#define __CUDACC_RTC_VERSION_NONE__ 1

#undef assert
#define assert(condition) \
    ((condition) ? (void)0 : ::cpu_driver_assert_failed(#condition, __FILE__, __LINE__, __func__))

#include "cpu_driver_vectors.h"
#include "cpu_driver_threads.h"
#include "cpu_driver_atomics.h"
#include "cpu_driver_math.h"
#include "cpu_driver_launcher.h"

typedef struct CUstream_st* cudaStream_t;
typedef int cudaError_t;
