// Where a convolution's taps look: shared by every way of computing one (convolution.cu tells what
// phases are and why).
#pragma once

#include "common.cuh"

// One spatial axis of a gather: tap t of position i looks at coordinate i*unit + origin + t*step.
struct Axis {
    int origin, unit, step, taps;
};

// Moves a position on by `step` (digits of the same grid), at most one carry per digit: addresses
// without division.
__device__ __forceinline__ void advance(Position& at, Position step, int height, int width) {
    at.w += step.w;
    int carry = at.w >= width;
    at.w -= carry ? width : 0;
    at.h += step.h + carry;
    carry = at.h >= height;
    at.h -= carry ? height : 0;
    at.n += step.n + carry;
}

// One axis of a phase of backward_data: the coordinates first, first + stride, ... (count of them)
// of x, and the taps tap, tap + tap_step, ... (taps of them) that reach them. The i-th coordinate
// takes its t-th tap from coordinate i + origin - t*back of y.
struct Phase {
    int first, count, tap, tap_step, taps, origin, back;
};

__device__ __forceinline__ Phase phase_of(int number, int extent, int kernel, int stride, int pad,
                                          int dilation) {
    Phase phase;
    phase.first = number - pad % stride;
    if (phase.first < 0) phase.first += stride;
    phase.count = ceil_div(extent - phase.first, stride);  // 0 where first lies beyond the axis
    phase.tap_step = stride / greatest_common_divisor(stride, dilation);
    phase.back = phase.tap_step * dilation / stride;
    phase.tap = 0;
    while (phase.tap < phase.tap_step && phase.tap * dilation % stride != number) ++phase.tap;
    const bool reached = phase.tap < phase.tap_step && phase.tap < kernel;
    phase.taps = reached ? ceil_div(kernel - phase.tap, phase.tap_step) : 0;
    phase.origin = reached ? (phase.first + pad - phase.tap * dilation) / stride : 0;
    return phase;
}
