// Sums whose order does not depend on the threads: of rows, by pieces of few rows, and of
// the squares of arrays, by pieces of few elements. Pieces are summed up in a second pass.

#pragma once

#include "layouts.cuh"
#include "tiles.cuh"

// Columns that a lane takes, and a block; rows of a warp whose loads do not wait for one
// another, and warps of a block, which share the rows.
const int SUM_WIDTH = 4;
const int SUM_COLUMNS = SUM_WIDTH * WARP;
const int SUM_ROWS = 8;
const int SUM_WARPS = THREADS / WARP;

struct RowSums {
    // Pieces by strips of SUM_COLUMNS columns.
    int64_t rows;
    int64_t strips, columns;
    // Of in0: its first column that counts, and all its columns.
    int64_t first, pitch;
    // Where in3 is left out: rows of a piece, and of all pieces.
    int64_t span, total;
    float scale;
    uint32_t unused;
};

// Numbers of a row side by side, from a place on, of which `there` count.
BODY Few<SUM_WIDTH> few_of(const Numbers &numbers, int64_t place, int64_t there) {
    Few<SUM_WIDTH> found = {};
#pragma unroll
    for (int next = 0; next < SUM_WIDTH; next++)
        if (next < there)
            found.x[next] = one(numbers, place + next);
    return found;
}

// The same where all of them count, or none.
template <class Array> BODY auto few_of(const Array &array, int64_t place, int64_t) {
    return read<SUM_WIDTH>(array, place);
}

constexpr int row_sums_floats() {
    return SUM_WARPS * SUM_COLUMNS;
}

// out0 [pieces, columns] = the sums of rows of in0, or of the products of their elements
// with those of in1; times scale. in2 the order that rows are taken in, or as they are; in3
// [pieces + 1] where pieces begin in it; in4 [pieces] which row of out0 a piece is, or
// as they are. Where a piece or a row ends, its last row and its first columns are read again,
// so that no branch stands between loads.
template <class Array> BODY void row_sums_tile(const Arrays &arrays, const RowSums &n, int64_t block, float *shared) {
    const int64_t piece = block / n.strips, strip = block % n.strips * SUM_COLUMNS;
    const uint32_t *order = integers(arrays, 2), *starts = integers(arrays, 3), *targets = integers(arrays, 4);
    const Array x = input<Array>(arrays, 0), other = input<Array>(arrays, 1);
    int64_t begin = piece * n.span, end = begin + n.span < n.total ? begin + n.span : n.total;
    if (starts) {
        begin = starts[piece];
        end = starts[piece + 1];
    }
    EACH_THREAD(thread) {
        const int64_t column = strip + thread % WARP * SUM_WIDTH, there = n.columns - column;
        Few<SUM_WIDTH> sums = {};
        for (int64_t next = begin + thread / WARP * SUM_ROWS; next < end; next += SUM_WARPS * SUM_ROWS) {
            int64_t places[SUM_ROWS];
            decltype(few_of(x, 0, 0)) found[SUM_ROWS], factors[SUM_ROWS] = {};
#pragma unroll
            for (int part = 0; part < SUM_ROWS; part++) {
                const int64_t row = next + part < end ? next + part : end - 1;
                places[part] = (order ? order[row] : row) * n.pitch + n.first + (there > 0 ? column : 0);
            }
#pragma unroll
            for (int part = 0; part < SUM_ROWS; part++)
                found[part] = few_of(x, places[part], there);
            if (other.at) {
#pragma unroll
                for (int part = 0; part < SUM_ROWS; part++)
                    factors[part] = few_of(other, places[part], there);
            }
#pragma unroll
            for (int part = 0; part < SUM_ROWS; part++)
                if (next + part < end) {
                    const Few<SUM_WIDTH> one = widened(found[part]), by = widened(factors[part]);
#pragma unroll
                    for (int k = 0; k < SUM_WIDTH; k++)
                        sums.x[k] += other.at ? one.x[k] * by.x[k] : one.x[k];
                }
        }
        at_once<Few<SUM_WIDTH>>(shared + thread / WARP * SUM_COLUMNS + thread % WARP * SUM_WIDTH) = sums;
    }
    NEXT_PHASE();
    float *out = results(arrays, 0) + (targets ? targets[piece] : piece) * n.columns;
    EACH_THREAD(thread) {
        if (thread < SUM_COLUMNS && strip + thread < n.columns) {
            float total = 0.0f;
            for (int warp = 0; warp < SUM_WARPS; warp++)
                total += shared[warp * SUM_COLUMNS + thread];
            out[strip + thread] = total * n.scale;
        }
    }
}

#define SUMS_ENTRY(ARRAY)                                                                         \
    BLOCK_ENTRY(row_sums_##ARRAY, THREADS, 3, RowSums, row_sums_floats(), row_sums_tile<ARRAY>)
SUMS_ENTRY(Halves)
SUMS_ENTRY(Floats)
SUMS_ENTRY(Numbers)

#ifndef __CUDACC__

// Whether columns are read by four of arrays of one type, and of which.
static Layout row_sums_layout(const Arrays &arrays, const RowSums &n) {
    return layout_of(arrays, IN<0> | IN<1>, 0, n.first | n.pitch | n.columns);
}

static const char *row_sums_suffix(const Arrays &arrays, const RowSums &n) {
    switch (row_sums_layout(arrays, n)) {
    case EIGHT_HALVES:
        return "_Halves";
    case FOUR_FLOATS:
        return "_Floats";
    default:
        return "_Numbers";
    }
}

static void row_sums(const Arrays &arrays, const RowSums &n) {
    switch (row_sums_layout(arrays, n)) {
    case EIGHT_HALVES:
        return row_sums_Halves(arrays, n);
    case FOUR_FLOATS:
        return row_sums_Floats(arrays, n);
    default:
        return row_sums_Numbers(arrays, n);
    }
}

#endif

KNOWN_BY_LAYOUT(row_sums, RowSums, row_sums_floats() * sizeof(float), row_sums_suffix)

// An array, and the first of its pieces among those of all arrays.
struct Summed {
    const float *elements;
    int64_t count;
    int64_t first_piece;
};

struct Squares {
    // Pieces of all arrays together.
    int64_t rows;
    int64_t arrays, piece;
};

// out0 [pieces] = the sums of squares of pieces. in0 [arrays] what is summed up.
BODY void squares_row(const Arrays &arrays, const Squares &n, int64_t row) {
    const Summed array = entry_of((const Summed *)arrays.in[0], n.arrays, row);
    const int64_t start = (row - array.first_piece) * n.piece;
    const int64_t end = start + n.piece < array.count ? start + n.piece : array.count;
    float total = 0.0f;
    for (int64_t place = start + lane(); place < end; place += LANES)
        total += array.elements[place] * array.elements[place];
    total = sum(total);
    if (lane() == 0)
        results(arrays, 0)[row] = total;
}
KERNEL(squares, Squares)
