// One loop over flat float arrays: four floats per access where every array allows it, one float
// per access for the rest. The body is written once, for a pack of either width; what computes each
// element from those at the same place says only how (map_flat, map_gradient).
#pragma once

template <int WIDTH>
struct Pack {
    float at[WIDTH];
};

template <int WIDTH>
__device__ __forceinline__ Pack<WIDTH> load(const float* from) {
    Pack<WIDTH> pack;
    if constexpr (WIDTH == 4) {
        const float4 four = *reinterpret_cast<const float4*>(from);
        pack.at[0] = four.x;
        pack.at[1] = four.y;
        pack.at[2] = four.z;
        pack.at[3] = four.w;
    } else if constexpr (WIDTH == 2) {
        const float2 two = *reinterpret_cast<const float2*>(from);
        pack.at[0] = two.x;
        pack.at[1] = two.y;
    } else {
        pack.at[0] = *from;
    }
    return pack;
}

template <int WIDTH>
__device__ __forceinline__ void store(float* to, const Pack<WIDTH>& pack) {
    if constexpr (WIDTH == 4) {
        *reinterpret_cast<float4*>(to) =
            make_float4(pack.at[0], pack.at[1], pack.at[2], pack.at[3]);
    } else if constexpr (WIDTH == 2) {
        *reinterpret_cast<float2*>(to) = make_float2(pack.at[0], pack.at[1]);
    } else {
        *to = pack.at[0];
    }
}

// The gradient convention of every backward: overwrite, whatever the buffer held, or add.
template <int WIDTH, class Number>
__device__ __forceinline__ void store_gradient(Number* to, Pack<WIDTH> pack, int accumulate) {
    if (accumulate) {
        const Pack<WIDTH> before = load<WIDTH>(to);
#pragma unroll
        for (int k = 0; k < WIDTH; ++k) {
            pack.at[k] += before.at[k];
        }
    }
    store<WIDTH>(to, pack);
}

// True when every pointer is a multiple of 16 bytes, as a float4 access needs. Views into a larger
// buffer need not be. A null pointer (an absent array) is no obstacle.
template <class... Pointers>
__device__ __forceinline__ bool aligned(Pointers... pointers) {
    return ((reinterpret_cast<unsigned long long>(pointers) | ...) & 15ull) == 0ull;
}

template <int WIDTH>
struct Width {
    static constexpr int value = WIDTH;
};

// Calls body(Width<4>(), i) or body(Width<1>(), i) so that the packs starting at the elements i
// cover [0, n) exactly once; neighbouring threads take neighbouring packs. The threads are those of
// `blocks` one-dimensional blocks, of which this is number `block`.
template <class Body>
__device__ __forceinline__ void for_each_pack(int block, int blocks, long long n, bool vectorised,
                                              const Body& body) {
    const long long first = static_cast<long long>(block) * blockDim.x + threadIdx.x;
    const long long step = static_cast<long long>(blocks) * blockDim.x;
    const long long packs = vectorised ? n / 4 : 0;
    for (long long i = first; i < packs; i += step) {
        body(Width<4>(), 4 * i);
    }
    for (long long i = 4 * packs + first; i < n; i += step) {
        body(Width<1>(), i);
    }
}

// The same for a one-dimensional grid of any size.
template <class Body>
__device__ __forceinline__ void for_each_pack(long long n, bool vectorised, const Body& body) {
    for_each_pack(blockIdx.x, gridDim.x, n, vectorised, body);
}

template <int WIDTH, class Function, class... Packs>
__device__ __forceinline__ Pack<WIDTH> apply(const Function& function, const Packs&... packs) {
    Pack<WIDTH> result;
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) {
        result.at[k] = function(packs.at[k]...);
    }
    return result;
}

// y[i] = function(x[i], ...) for i in [0, n). y may be one of the x: every element is read before
// it is written, by the same thread.
template <class Number, class Function, class... Numbers>
__device__ __forceinline__ void map_flat(long long n, Number* y, const Function& function,
                                         const Numbers*... x) {
    for_each_pack(n, aligned(y, x...), [&](auto width, long long i) {
        constexpr int W = decltype(width)::value;
        store<W>(y + i, apply<W>(function, load<W>(x + i)...));
    });
}

// dx[i] (+)= function(x[i], ...): the same for a gradient.
template <class Number, class Function, class... Numbers>
__device__ __forceinline__ void map_gradient(long long n, Number* dx, int accumulate,
                                             const Function& function, const Numbers*... x) {
    for_each_pack(n, aligned(dx, x...), [&](auto width, long long i) {
        constexpr int W = decltype(width)::value;
        store_gradient<W>(dx + i, apply<W>(function, load<W>(x + i)...), accumulate);
    });
}
