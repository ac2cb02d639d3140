// Sums whose order does not depend on the threads: of rows, by pieces of few rows, and of
// the squares of arrays, by pieces of few elements. Pieces are summed up in a second pass.

#pragma once

#include "numbers.cuh"

// Columns that a warp takes, and rows whose loads do not wait for one another.
const int SUM_COLUMNS = 32;
const int SUM_ROWS = 8;

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

// out0 [pieces, columns] = the sums of rows of in0, or of the products of their elements
// with those of in1; times scale. in2 the order that rows are taken in, or as they are; in3
// [pieces + 1] where pieces begin in it; in4 [pieces] which row of out0 a piece is, or
// as they are.
BODY void row_sums_row(const Arrays &arrays, const RowSums &n, int64_t row) {
    const int64_t piece = row / n.strips, strip = row % n.strips * SUM_COLUMNS;
    const uint32_t *order = integers(arrays, 2), *starts = integers(arrays, 3), *targets = integers(arrays, 4);
    const Numbers x = input(arrays, 0), other = input(arrays, 1);
    int64_t begin = piece * n.span, end = begin + n.span < n.total ? begin + n.span : n.total;
    if (starts) {
        begin = starts[piece];
        end = starts[piece + 1];
    }
    float *out = results(arrays, 0) + (targets ? targets[piece] : piece) * n.columns;
    const int64_t last = strip + SUM_COLUMNS < n.columns ? strip + SUM_COLUMNS : n.columns;
    for (int64_t column = strip + lane(); column < last; column += LANES) {
        float sums[SUM_ROWS] = {};
        for (int64_t next = begin; next < end; next += SUM_ROWS) {
#pragma unroll
            for (int part = 0; part < SUM_ROWS; part++) {
                if (next + part < end) {
                    const int64_t from = order ? order[next + part] : next + part;
                    const int64_t place = from * n.pitch + n.first + column;
                    const float number = one(x, place);
                    sums[part] += other.at ? number * one(other, place) : number;
                }
            }
        }
        float total = 0.0f;
#pragma unroll
        for (int part = 0; part < SUM_ROWS; part++)
            total += sums[part];
        out[column] = total * n.scale;
    }
}
KERNEL(row_sums, RowSums)

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
