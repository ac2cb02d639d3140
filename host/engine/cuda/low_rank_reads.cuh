// How kernels of low-rank updates read: wide matrices by eight columns, narrow ones by two, and
// factors, which a block brings to shared memory, rounded. Where both matrices are of bf16 and
// lie so that this is done at once, addresses beyond an end are those of the end, so that no
// branch stands between loads; what is read there counts nowhere, as the other factor is zero
// there or the result is not written.

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
    uint32_t unused;
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
template <class Array = Numbers> BODY Array input_of(const Arrays &arrays, int first, int update) {
    const Array one = input<Array>(arrays, first), other = input<Array>(arrays, first + 1);
    return update == 0 ? one : update == 1 ? other : input<Array>(arrays, first + 2);
}

// Whether each eight columns, from a first one on, are read at once.
BODY bool by_eight(const Numbers &numbers, int64_t pitch, int64_t first) {
    return (pitch | first) % 8 == 0 && (uintptr_t)numbers.at % 16 == 0;
}

// What a kernel reads and writes by eight: a wide matrix, and of each update a narrow one and
// vectors, by the number of the first's; 0 where there are none.
struct ReadArrays {
    Numbers wide;
    int low, vectors[2];
};

// Whether a kernel for bf16 takes these arrays.
BODY bool reads_halves(const Arrays &arrays, const LowRank &n, const ReadArrays &read) {
    bool takes = read.wide.half && n.columns % 8 == 0 && by_eight(read.wide, n.pitch, n.first | n.step);
    for (int update = 0; update < n.updates; update++) {
        const Numbers low = read.low ? input(arrays, read.low + update) : Numbers{nullptr, true};
        const bool by_two = !read.low || (n.rank % 2 == 0 && (uintptr_t)low.at % 4 == 0);
        takes = takes && low.half && by_two;
        for (int first : read.vectors) {
            const Numbers vector = first ? input(arrays, first + update) : Numbers{nullptr, false};
            takes = takes && !vector.half && (uintptr_t)vector.at % 16 == 0;
        }
    }
    return takes;
}

#ifdef __CUDACC__

#define CHOICE_OF_READS(NAME, ARRAYS)

#else

#define CHOICE_OF_READS(NAME, ARRAYS)                                                             \
    static bool NAME##_halves(const Arrays &arrays, const LowRank &n) {                           \
        return reads_halves(arrays, n, ARRAYS(arrays));                                           \
    }                                                                                             \
    static const char *NAME##_suffix(const Arrays &arrays, const LowRank &n) {                    \
        return NAME##_halves(arrays, n) ? "_Halves" : "_Numbers";                                 \
    }                                                                                             \
    static void NAME(const Arrays &arrays, const LowRank &n) {                                    \
        if (NAME##_halves(arrays, n))                                                             \
            NAME##_Halves(arrays, n);                                                             \
        else                                                                                      \
            NAME##_Numbers(arrays, n);                                                            \
    }

#endif

// Eight numbers side by side, as they are read.
template <class Array> using Eight = decltype(read<8>(Array{}, 0));

BODY int64_t at_most(int64_t place, int64_t last) {
    return place < last ? place : last;
}

// Columns of a wide matrix's rows.
template <class Array> struct WideRows {
    const LowRank &n;
    const Array array;
    bool at_once;

    OF_THREAD WideRows(const LowRank &n, const Array &array)
        : n(n), array(array), at_once(by_eight(Numbers{array.at, array.half}, n.pitch, n.first)) {}

    OF_THREAD int64_t place(int64_t row, int column) const {
        return row * n.pitch + n.first + column;
    }

    // Eight from a column on.
    OF_THREAD Eight<Array> eight(int64_t row, int column) const {
        if constexpr (IS_HALVES<Array>) {
            const int64_t at = at_most(row, n.tokens - 1);
            return read<8>(array, place(at, column < (int)n.columns ? column : 0));
        } else {
            const int there = row < n.tokens ? (int)n.columns - column : 0;
            if (at_once && there >= 8)
                return read<8>(array, place(row, column));
            Few<8> found = {};
#pragma unroll
            for (int k = 0; k < 8; k++)
                if (k < there)
                    found.x[k] = one(array, place(row, column) + k);
            return found;
        }
    }

    OF_THREAD void write(int64_t row, int column, const Few<8> &x) const {
        const int there = row < n.tokens ? (int)n.columns - column : 0;
        if constexpr (IS_HALVES<Array>) {
            if (there > 0)
                put_few(array, place(row, column), x);
        } else {
            if (at_once && there >= 8)
                put_few(array, place(row, column), x);
#pragma unroll
            for (int k = 0; k < 8; k++)
                if (!(at_once && there >= 8) && k < there)
                    put(array, place(row, column) + k, x.x[k]);
        }
    }
};

// A vector of as many columns, which may be left out.
template <class Array> struct Vector {
    const LowRank &n;
    const Numbers vector;

    OF_THREAD Vector(const LowRank &n, const Numbers &vector) : n(n), vector(vector) {}

    // Eight columns from one on; beyond the last, numbers that count nowhere.
    OF_THREAD Few<8> eight(int column) const {
        if constexpr (IS_HALVES<Array>) {
            const Floats floats = {(float *)vector.at, false};
            return few<8>(floats, column < (int)n.columns ? column : 0);
        } else {
            Few<8> found = {};
#pragma unroll
            for (int k = 0; k < 8; k++)
                if (column + k < (int)n.columns)
                    found.x[k] = one(vector, column + k);
            return found;
        }
    }

    OF_THREAD void add_to(Few<8> &x, int column) const {
        if (vector.at)
            add(x, eight(column));
    }
};

// Rows of a narrow matrix [tokens, rank].
template <class Array> struct LowRows {
    const LowRank &n;
    const Array array;

    OF_THREAD LowRows(const LowRank &n, const Array &array) : n(n), array(array) {}

    // Two numbers side by side, rounded, or zeros where there are none.
    OF_THREAD uint32_t two(int64_t row, int place) const {
        const int rank = (int)n.rank, there = row < n.tokens ? rank - place : 0;
        if constexpr (IS_HALVES<Array>) {
            const int64_t at = at_most(row, n.tokens - 1) * rank + (place < rank ? place : 0);
            const uint32_t pair = pair_at(array.at + at);
            return there > 0 ? pair : 0;
        } else {
            const float first = there > 0 ? one(array, row * rank + place) : 0.0f;
            return pair_of(first, there > 1 ? one(array, row * rank + place + 1) : 0.0f);
        }
    }
};

// Numbers from one place in the rank to the next of a factor that lies rank by rank, and from
// column to column of one that lies column by column: rows begin where what is read at once may
// begin, in other banks than the row before.
template <int COLUMNS> constexpr int BY_RANK = COLUMNS + 8;
template <int RANKS> constexpr int BY_COLUMN = RANKS + 2;

// Loads of a factor by a thread that do not wait for one another.
const int FACTOR_LOADS = 8;

// Visits four numbers side by side of a factor's columns from one on, zeros where it has none: of
// a matrix [columns, rank], or else [rank, columns]. `visit` gets them with the place in the rank
// and the column of the first.
template <int RANKS, int COLUMNS, class Array, class Visit>
BODY void each_four(const Array &factor, const LowRank &n, int from, int thread, Visit visit) {
    const int rank = (int)n.rank, columns = (int)n.columns;
    for (int start = thread; start < RANKS * COLUMNS / 4; start += FACTOR_LOADS * HALF_THREADS) {
        Few<4> found[FACTOR_LOADS];
        const auto at = [&](int turn) { return 4 * (start + turn * HALF_THREADS); };
        const auto of_rank = [&](int turn) { return n.across ? at(turn) % RANKS : at(turn) / COLUMNS; };
        const auto of_column = [&](int turn) { return n.across ? at(turn) / RANKS : at(turn) % COLUMNS; };
        const auto there = [&](int turn) {
            const int place = of_rank(turn), column = from + of_column(turn);
            const bool inside = place < rank && column < columns;
            return inside ? (n.across ? rank - place : columns - column) : 0;
        };
#pragma unroll
        for (int turn = 0; turn < FACTOR_LOADS; turn++) {
            const int place = of_rank(turn), column = from + of_column(turn);
            const int64_t start = there(turn) == 0 ? 0
                                  : n.across       ? (int64_t)column * rank + place
                                                   : (int64_t)place * columns + column;
            if constexpr (IS_NUMBERS<Array>) {
#pragma unroll
                for (int k = 0; k < 4; k++)
                    found[turn].x[k] = k < there(turn) ? one(factor, start + k) : 0.0f;
            } else {
                found[turn] = read<4>(factor, start);
            }
        }
#pragma unroll
        for (int turn = 0; turn < FACTOR_LOADS; turn++)
            if (at(turn) < RANKS * COLUMNS) {
                if (there(turn) == 0)
                    found[turn] = {};
                visit(found[turn], of_rank(turn), of_column(turn));
            }
    }
}

// The same, by the type that the factor has, and where it lies.
template <int RANKS, int COLUMNS, class Visit>
BODY void each_four_of(const Numbers &factor, const LowRank &n, int from, Visit visit) {
    const bool by_four = !factor.half && (n.across ? n.rank : n.columns) % 4 == 0 && (uintptr_t)factor.at % 16 == 0;
    EACH_HALF(thread) {
        if (by_four)
            each_four<RANKS, COLUMNS>(Floats{(float *)factor.at, false}, n, from, thread, visit);
        else
            each_four<RANKS, COLUMNS>(factor, n, from, thread, visit);
    }
}

// Puts numbers so far from each other, rounded.
BODY void put_apart(uint16_t *at, int step, const Few<4> &x) {
#pragma unroll
    for (int k = 0; k < 4; k += 2) {
        const uint32_t pair = pair_of(x.x[k], x.x[k + 1]);
        at[k * step] = (uint16_t)pair;
        at[(k + 1) * step] = (uint16_t)(pair >> 16);
    }
}

// Puts columns of a factor, from one on, into shared memory, rounded: rank by rank.
template <int RANKS, int COLUMNS>
BODY void put_by_rank(uint16_t *tile, const Numbers &factor, const LowRank &n, int from) {
    each_four_of<RANKS, COLUMNS>(factor, n, from, [&](const Few<4> &found, int rank, int column) {
        uint16_t *at = tile + rank * BY_RANK<COLUMNS> + column;
        if (n.across) {
            put_apart(at, BY_RANK<COLUMNS>, found);
        } else {
            put_few(Halves{at, true}, 0, found);
        }
    });
}

// Eight columns of a place in the rank.
template <int COLUMNS> BODY FewPairs<8> by_rank(const uint16_t *tile, int rank, int column) {
    return at_once<const FewPairs<8>>(tile + rank * BY_RANK<COLUMNS> + column);
}

// The same column by column.
template <int RANKS, int COLUMNS>
BODY void put_by_column(uint16_t *tile, const Numbers &factor, const LowRank &n, int from) {
    each_four_of<RANKS, COLUMNS>(factor, n, from, [&](const Few<4> &found, int rank, int column) {
        uint16_t *at = tile + column * BY_COLUMN<RANKS> + rank;
        if (n.across) {
#pragma unroll
            for (int k = 0; k < 4; k += 2)
                put_few(Halves{at + k, true}, 0, Few<2>{{found.x[k], found.x[k + 1]}});
        } else {
            put_apart(at, BY_COLUMN<RANKS>, found);
        }
    });
}

// Two places in the rank of a column.
template <int RANKS> BODY uint32_t by_column(const uint16_t *tile, int rank, int column) {
    return pair_at(tile + column * BY_COLUMN<RANKS> + rank);
}
