// How kernels of low-rank updates read: wide matrices and factors by eight columns, narrow ones by
// two or four numbers. Where arrays have one of two types and lie so that this is done at once,
// addresses beyond an end are those of the end, so that no branch stands between loads; what is
// read there counts nowhere, as the other factor is zero there or the result is not written.

#pragma once

#include "dropout.cuh"
#include "fragments.cuh"

// Updates at most that are worked on together.
const int UPDATES = 3;

struct LowRank {
    // Blocks, those of updates that are worked on together side by side.
    int64_t rows;
    // Such updates, and by how much the columns of each lie behind those of the one before.
    int64_t updates, step;
    // Of the wide matrix: its rows, the columns that count, the first of these, and all.
    int64_t tokens, columns, first, pitch;
    int64_t rank;
    Mask masks[UPDATES];
    Packing packing;
    float scale;
    int32_t has_mask;
    // Whether the factor is [columns, rank], or else [rank, columns]; whether to add; whether the
    // wide matrix is recovered from what a norm has normalized.
    int32_t across, adds, recovers;
    // Rows that a block works on, where that is no constant.
    int32_t span;
};

// One of the updates by itself: its mask is the first. Numbers that are chosen among so few lie in
// no memory.
BODY LowRank update_of(const LowRank &n, int update) {
    LowRank own = n;
    own.first += update * n.step;
    own.masks[0] = update == 0 ? n.masks[0] : update == 1 ? n.masks[1] : n.masks[2];
    return own;
}

// The array of one of the updates, of which the first's has such a number.
BODY Numbers input_of(const Arrays &arrays, int first, int update) {
    const Numbers one = input(arrays, first), other = input(arrays, first + 1);
    const Numbers found = update == 0 ? one : update == 1 ? other : input(arrays, first + 2);
    return {in_memory(found.at), found.half};
}

// What a kernel reads and writes by several numbers at once: a wide matrix, and of each update a
// factor, a narrow matrix and vectors, by the number of the first's; 0 where there are none.
struct ReadArrays {
    Numbers wide;
    int factor, low, vectors[2];
};

#ifdef __CUDACC__

#define CHOICE_OF_READS(NAME, ARRAYS, PLACES)

#else

// What the name of the kernel that takes these arrays ends in. Each so many places in the rank are
// read at once.
BODY const char *suffix_of(const Arrays &arrays, const LowRank &n, const ReadArrays &read, int places) {
    bool takes = (n.columns | n.pitch | n.first | n.step) % 8 == 0 && n.rank % places == 0;
    takes = takes && (uintptr_t)read.wide.at % 16 == 0;
    for (int update = 0; update < n.updates; update++) {
        const Numbers low = read.low ? input(arrays, read.low + update) : Numbers{nullptr, true};
        takes = takes && low.half && (uintptr_t)low.at % 8 == 0;
        if (read.factor)
            takes = takes && (uintptr_t)input(arrays, read.factor + update).at % 16 == 0;
        for (int first : read.vectors) {
            const Numbers vector = first ? input(arrays, first + update) : Numbers{nullptr, false};
            takes = takes && !vector.half && (uintptr_t)vector.at % 16 == 0;
        }
    }
    return !takes ? "_Numbers" : read.wide.half ? "_Halves" : "_Floats";
}

#define CHOICE_OF_READS(NAME, ARRAYS, PLACES)                                                     \
    static const char *NAME##_suffix(const Arrays &arrays, const LowRank &n) {                    \
        return suffix_of(arrays, n, ARRAYS(arrays), PLACES);                                      \
    }                                                                                             \
    static void NAME(const Arrays &arrays, const LowRank &n) {                                    \
        switch (NAME##_suffix(arrays, n)[1]) {                                                    \
        case 'H':                                                                                 \
            return NAME##_Halves(arrays, n);                                                      \
        case 'F':                                                                                 \
            return NAME##_Floats(arrays, n);                                                      \
        default:                                                                                  \
            return NAME##_Numbers(arrays, n);                                                     \
        }                                                                                         \
    }

#endif

// Eight numbers side by side, as they are read: those of bf16 stay pairs of bits.
BODY FewPairs<8> eight_of(const Halves &halves, int64_t place) {
    return at_once<const FewPairs<8>>(halves.at + place);
}

template <class Array> BODY Few<8> eight_of(const Array &array, int64_t place) {
    return read<8>(array, place);
}

template <class Array> using Eight = decltype(eight_of(Array{}, 0));

BODY Few<8> widened(const FewPairs<8> &pairs) {
    Few<8> found;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        found.x[2 * k] = widened((uint16_t)pairs.x[k]);
        found.x[2 * k + 1] = widened((uint16_t)(pairs.x[k] >> 16));
    }
    return found;
}

// The same rounded, which those of bf16 are.
BODY const FewPairs<8> &pairs_of(const FewPairs<8> &pairs) {
    return pairs;
}

BODY FewPairs<8> pairs_of(const Few<8> &x) {
    FewPairs<8> pairs;
#pragma unroll
    for (int k = 0; k < 4; k++)
        pairs.x[k] = pair_of(x.x[2 * k], x.x[2 * k + 1]);
    return pairs;
}

// The first two, or the last two, of numbers that two pairs hold, side by side.
BODY uint32_t lower_of(uint32_t one, uint32_t other) {
    return (one & 0xffffu) | other << 16;
}

BODY uint32_t upper_of(uint32_t one, uint32_t other) {
    return one >> 16 | (other & 0xffff0000u);
}

BODY int at_most(int place, int last) {
    return place < last ? place : last;
}

// Columns of a wide matrix's rows.
template <class Array> struct WideRows {
    const Array array;
    const int64_t first;
    const uint32_t pitch;
    const int tokens, columns;
    // Whether each eight columns are read at once, where no type says so.
    const bool by_eight;

    OF_THREAD WideRows(const LowRank &n, const Array &array)
        : array(array), first(n.first), pitch((uint32_t)n.pitch), tokens((int)n.tokens), columns((int)n.columns),
          by_eight((n.pitch | n.first) % 8 == 0 && (uintptr_t)array.at % 16 == 0) {}

    OF_THREAD int64_t place(int row, int column) const {
        return (int64_t)((uint64_t)(uint32_t)row * pitch) + (first + column);
    }

    // Eight from a column on.
    OF_THREAD Eight<Array> eight(int row, int column) const {
        if constexpr (!IS_NUMBERS<Array>) {
            return eight_of(array, place(at_most(row, tokens - 1), column < columns ? column : 0));
        } else {
            const int there = row < tokens ? columns - column : 0;
            if (by_eight && there >= 8)
                return read<8>(array, place(row, column));
            Few<8> found = {};
#pragma unroll
            for (int k = 0; k < 8; k++)
                if (k < there)
                    found.x[k] = one(array, place(row, column) + k);
            return found;
        }
    }

    OF_THREAD void write(int row, int column, const Few<8> &x) const {
        const int there = row < tokens ? columns - column : 0;
        if constexpr (!IS_NUMBERS<Array>) {
            if (there > 0)
                put_few(array, place(row, column), x);
        } else {
            if (by_eight && there >= 8)
                put_few(array, place(row, column), x);
#pragma unroll
            for (int k = 0; k < 8; k++)
                if (!(by_eight && there >= 8) && k < there)
                    put(array, place(row, column) + k, x.x[k]);
        }
    }
};

// A vector of as many columns, which may be left out.
template <class Array> struct Vector {
    const Numbers vector;
    const int columns;

    OF_THREAD Vector(const LowRank &n, const Numbers &vector) : vector(vector), columns((int)n.columns) {}

    // Eight columns from one on; beyond the last, numbers that count nowhere.
    OF_THREAD Few<8> eight(int column) const {
        if constexpr (!IS_NUMBERS<Array>) {
            const Floats floats = {(float *)vector.at, false};
            return few<8>(floats, column < columns ? column : 0);
        } else {
            Few<8> found = {};
#pragma unroll
            for (int k = 0; k < 8; k++)
                if (column + k < columns)
                    found.x[k] = one(vector, column + k);
            return found;
        }
    }
};

// Rows of a narrow matrix [tokens, rank].
template <class Array> struct LowRows {
    const Numbers array;
    const int tokens, rank;

    OF_THREAD LowRows(const LowRank &n, const Numbers &array)
        : array(array), tokens((int)n.tokens), rank((int)n.rank) {}

    // So many numbers side by side, rounded; beyond an end others, which are not looked at here, as
    // they would be waited for.
    template <int WIDTH> OF_THREAD FewPairs<WIDTH> few(int row, int place) const {
        const uint64_t start = (uint64_t)(uint32_t)at_most(row, tokens - 1) * (uint32_t)rank;
        if constexpr (!IS_NUMBERS<Array>) {
            return at_once<const FewPairs<WIDTH>>((const uint16_t *)array.at + start + (place < rank ? place : 0));
        } else {
            const auto number = [&](int k) {
                return place + k < rank ? one(array, (int64_t)start + place + k) : 0.0f;
            };
            FewPairs<WIDTH> found;
#pragma unroll
            for (int k = 0; k < WIDTH / 2; k++)
                found.x[k] = pair_of(number(2 * k), number(2 * k + 1));
            return found;
        }
    }
};

// Of so many places in the rank, eight columns each, as they are read: numbers of a column, or of
// a place, one behind the other.
template <int PLACES> struct Patch {
    uint32_t words[PLACES * 8];
};

// How a factor lies.
template <bool ACROSS_, bool HALF_> struct Lies {
    static const bool ACROSS = ACROSS_, HALF = HALF_;
};

// Reads so many words that lie side by side.
template <int COUNT> BODY void read_words(uint32_t *words, const void *at) {
    const int WIDTH = COUNT < 4 ? COUNT : 4;
#pragma unroll
    for (int first = 0; first < COUNT; first += WIDTH) {
        const auto found = at_once<const FewPairs<2 * WIDTH>>((const uint32_t *)at + first);
#pragma unroll
        for (int k = 0; k < WIDTH; k++)
            words[first + k] = found.x[k];
    }
}

// A factor: [columns, rank] where it is read across, or else [rank, columns]. What is read stays as
// it lies until it is asked for, as else it would be waited for here.
template <class Array> struct FactorOf {
    const Numbers array;
    const int rank, columns;
    const bool across;

    OF_THREAD FactorOf(const LowRank &n, const Numbers &array)
        : array(array), rank((int)n.rank), columns((int)n.columns), across(n.across) {}

    // From a place and a column on, of which they are multiples of what is read; beyond the last
    // ones, numbers that count nowhere.
    template <class L, int PLACES> OF_THREAD void read_patch(Patch<PLACES> &patch, int place, int column) const {
        if constexpr (!IS_NUMBERS<Array>) {
            const int from = column < columns ? column : 0, of_rank = place < rank ? place : 0;
            // Numbers of a word, of what lies side by side, and of what lies between.
            const int WORD = L::HALF ? 2 : 1, SIDE = L::ACROSS ? PLACES : 8, TIMES = L::ACROSS ? 8 : PLACES;
            const int first = L::ACROSS ? from * rank + of_rank : of_rank * columns + from;
            const int pitch = L::ACROSS ? rank : columns;
#pragma unroll
            for (int k = 0; k < TIMES; k++)
                read_words<SIDE / WORD>(patch.words + k * SIDE / WORD,
                                        (const uint8_t *)array.at + 4 / WORD * (int64_t)(first + k * pitch));
        } else {
#pragma unroll
            for (int p = 0; p < PLACES; p++)
#pragma unroll
                for (int k = 0; k < 8; k++) {
                    const bool there = place + p < rank && column + k < columns;
                    const int at = across ? (column + k) * rank + place + p : (place + p) * columns + column + k;
                    const float found = there ? one(array, at) : 0.0f;
                    memcpy(patch.words + p * 8 + k, &found, sizeof found);
                }
        }
    }

    // Calls what works by how the numbers lie.
    template <class Work> OF_THREAD void as_it_lies(Work work) const {
        if (IS_NUMBERS<Array> || (!across && !array.half))
            work(Lies<false, false>{});
        else if (!array.half)
            work(Lies<true, false>{});
        else if (!across)
            work(Lies<false, true>{});
        else
            work(Lies<true, true>{});
    }
};

// A number of what has been read.
template <class L, int PLACES> BODY float number_of(const Patch<PLACES> &patch, int place, int column) {
    const int at = L::ACROSS ? column * PLACES + place : place * 8 + column;
    if (L::HALF)
        return widened((uint16_t)(patch.words[at / 2] >> 16 * (at % 2)));
    float found;
    memcpy(&found, patch.words + at, sizeof found);
    return found;
}
