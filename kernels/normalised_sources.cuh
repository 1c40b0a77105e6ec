// A batch norm on the way into a convolution: copies bring its input, and the thread that copied a
// unit normalises it where it lies in shared memory, with the activation behind it, before the
// barrier that shows it to the others. So no barrier is added, the result of the normalisation is
// never in memory, and has the bits that batch norm's own pass would have stored.
//
// What lies outside of an image, a tile or a slice arrives as zeros and must stay zero, whatever
// beta is: a bit for each unit under way remembers it.
//
// Copies are of whole units here: channels per group in multiples of UNIT, arrays at multiples of
// 16 bytes.
#pragma once

#include "convolution_passes.cuh"
#include "convolution_sources.cuh"
#include "normalisation.cuh"
#include "stored.cuh"

// Starts copies, and keeps for each whether it was inside.
struct NotedCopies {
    Copies& copies;
    unsigned inside = 0;
    int started = 0;

    __device__ explicit NotedCopies(Copies& copies) : copies(copies) {}

    template <class Number>
    __device__ __forceinline__ void start(Number* to, const Number* from, bool is_inside,
                                          int numbers) {
        copies.start(to, from, is_inside, numbers);
        inside |= static_cast<unsigned>(is_inside) << started++;
    }
};

// A source of images whose numbers are normalised.
template <class Source>
struct Normalised {
    using Slab = typename Source::Slab;
    using Element = typename Slab::Element;
    static constexpr int SHARE = Slab::SHARE;
    static constexpr int UNDER_WAY = STAGES - 1;  // slabs, where one is finished
    static_assert(SHARE * UNDER_WAY <= 32, "a bit for each unit under way");

    Source source;
    Normalisation normalisation;  // at the group's first channel
    int channel;                  // of the group, of this thread's next unit to be finished
    unsigned inside = 0;          // SHARE bits for each slab under way, the newest lowest

    __device__ Normalised(const Source& source, const Normalisation& whole, int group)
        : source(source), normalisation(whole), channel(source.channel()) {
        normalisation.channels += 4 * group * source.of_group();
    }

    __device__ __forceinline__ void fill(Copies& copies, Element* slab, int depths) {
        NotedCopies noted(copies);
        source.fill(noted, slab, depths);
        inside = inside << SHARE | noted.inside;
    }

    __device__ __forceinline__ void skip() { inside <<= SHARE; }

    __device__ __forceinline__ void finish(Element* slab) {
        float4 of[UNIT];
        UNROLL
        for (int k = 0; k < UNIT; ++k) of[k] = normalisation.of(channel + k);
        channel += source.further();
        channel -= channel >= source.of_group() ? source.of_group() : 0;
        const unsigned oldest = inside >> ((UNDER_WAY - 1) * SHARE);
        UNROLL
        for (int i = 0; i < SHARE; ++i) {
            if (!Slab::has(i)) continue;
            UNROLL
            for (int part = 0; part < UNIT; part += 4) {
                Element* const four = Slab::place(slab, i, part);
                Pack<4> values = load<4>(four);
                UNROLL
                for (int k = 0; k < 4; ++k) {
                    values.at[k] = normalisation(values.at[k], of[part + k]);
                }
                if (oldest >> i & 1) store<4>(four, values);
            }
        }
    }
};

template <class Source>
__device__ __forceinline__ void finish(Normalised<Source>& source,
                                       typename Source::Slab::Element* slab) {
    source.finish(slab);
}
template <class Source>
__device__ __forceinline__ void skip(Normalised<Source>& source) {
    source.skip();
}

template <class A, class B>
constexpr bool SAME = false;
template <class A>
constexpr bool SAME<A, A> = true;

// A Way (convolution_passes.cuh) with one of its sources normalised.
template <class Way, class Source>
struct Normalising : Way {
    Normalisation normalisation;

    __device__ explicit Normalising(const Normalisation& normalisation)
        : normalisation(normalisation) {}

    template <class Any>
    __device__ __forceinline__ auto of_group(const Any& source, int group) const {
        if constexpr (SAME<Any, Source>) {
            return Normalised<Source>(source, normalisation, group);
        } else {
            return source;
        }
    }
};

template <class Way, class Source, class Left, class Right>
__device__ __forceinline__ auto product_of_group(const Normalising<Way, Source>& way,
                                                 const Left& left, const Right& right,
                                                 DepthRange range, int group) {
    return Way::product(way.of_group(left, group), way.of_group(right, group), range);
}
