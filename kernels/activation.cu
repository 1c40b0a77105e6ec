// Pointwise activations over flat arrays of any shape.
//
//   forward    y = f(x)                      y may be x
//   backward   dx (+)= dy * f'               dx may be dy
//
// The derivative is taken from the output y, so an executor may overwrite x; compile with
// -DFROM_INPUT=1 to take it from x (negative slopes need that). Which f: -DACTIVATION, see
// activation.cuh. Bound by memory: four floats per access, one pass.
//
// -DELEMENT=Bf16: all arrays hold bf16; arithmetic is float32.
//
// variants, unless they say: -DFROM_INPUT=0
// variants: -DACTIVATION=relu | -DACTIVATION=leaky_relu | -DACTIVATION=elu | -DACTIVATION=sigmoid
// variants: -DACTIVATION=tanh | -DACTIVATION=softplus
// variants: -DACTIVATION=leaky_relu -DFROM_INPUT=1 | -DACTIVATION=elu -DFROM_INPUT=1
// variants(sm_80): -DACTIVATION=relu -DELEMENT=Bf16 | -DACTIVATION=leaky_relu -DELEMENT=Bf16
// variants(sm_80): -DACTIVATION=elu -DELEMENT=Bf16 | -DACTIVATION=sigmoid -DELEMENT=Bf16
// variants(sm_80): -DACTIVATION=tanh -DELEMENT=Bf16 | -DACTIVATION=softplus -DELEMENT=Bf16
// variants(sm_80): -DACTIVATION=leaky_relu -DFROM_INPUT=1 -DELEMENT=Bf16
// variants(sm_80): -DACTIVATION=elu -DFROM_INPUT=1 -DELEMENT=Bf16

#include "activation.cuh"
#include "stored.cuh"

#ifndef ELEMENT
#define ELEMENT float
#endif

#ifndef FROM_INPUT
#define FROM_INPUT 0
#endif

// No __restrict__ where arrays may be the same.
extern "C" __global__ void activation_forward(const ELEMENT* x, ELEMENT* y, long long n,
                                              float slope) {
    map_flat(n, y, [=](float value) { return activate(KIND, value, slope); }, x);
}

// source: y, or x with FROM_INPUT
extern "C" __global__ void activation_backward(const ELEMENT* __restrict__ source,
                                               const ELEMENT* dy, ELEMENT* dx, long long n,
                                               float slope, int accumulate) {
    const auto chain = [=](float from, float gradient) {
        return gradient * (FROM_INPUT ? derivative_from_input(KIND, from, slope)
                                      : derivative_from_output(KIND, from, slope));
    };
    map_gradient(n, dx, accumulate, chain, source, dy);
}

// Launch contract: one-dimensional grid and block of any size (256 threads, a block per 1024
// elements, at most 4096 blocks); no shared memory. Pointers that are not multiples of 16 bytes are
// served one float at a time.
