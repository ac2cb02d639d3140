// What stands around matrix products: operands rounded to bf16, biases, and dropout of
// gradients.

#pragma once

#include <string.h>

#include "dropout.cuh"

// The nearest number of bf16, ties to even, as its bits.
BODY uint16_t rounded(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

struct Halves {
    int64_t rows, columns;
    Mask mask;
    Packing packing;
    int64_t has_mask;
};

// out0, of bf16, = what a dropout leaves of in0 [rows, columns], rounded. in1 starts, in2
// places.
BODY void halves_row(const Arrays &arrays, const Halves &n, int64_t row) {
    RowMask bits = {};
    if (n.has_mask)
        bits = mask_of(n.mask, n.packing, integers(arrays, 1), integers(arrays, 2), row);
    const float *x = floats(arrays, 0) + row * n.columns;
    uint16_t *out = (uint16_t *)arrays.out[0] + row * n.columns;
    const int columns = (int)n.columns;
    // Four at once where they lie so that they can be read and written at once.
    const bool fours = columns % 4 == 0 && ((uintptr_t)x % 16 | (uintptr_t)out % 8) == 0;
    const int wide = fours ? columns : 0;
#pragma unroll 4
    for (int column = 4 * lane(); column < wide; column += 4 * LANES) {
        const Four four = *(const Four *)(x + column);
        uint16_t half[4];
#pragma unroll
        for (int next = 0; next < 4; next++) {
            const float value = four.x[next];
            half[next] = rounded(n.has_mask ? value * factor(n.mask, bits, (uint32_t)(column + next)) : value);
        }
        const uint64_t low = half[0] | (uint64_t)half[1] << 16, high = half[2] | (uint64_t)half[3] << 16;
        *(uint64_t *)(out + column) = low | high << 32;
    }
    for (int column = wide + lane(); column < columns; column += LANES)
        out[column] = rounded(n.has_mask ? x[column] * factor(n.mask, bits, (uint32_t)column) : x[column]);
}
KERNEL(halves, Halves)

struct AddBias {
    int64_t rows, columns;
    // Of the matrix: its first column that gets the bias, and all its columns.
    int64_t first, pitch;
};

// out0 += in0 [columns], in some columns of every row.
BODY void add_bias_row(const Arrays &arrays, const AddBias &n, int64_t row) {
    float *out = arrays.out[0] + row * n.pitch + n.first;
    for (int64_t column = lane(); column < n.columns; column += LANES)
        out[column] += floats(arrays, 0)[column];
}
KERNEL(add_bias, AddBias)

// out0 += what a dropout leaves of in0 [rows, columns]. in1 starts, in2 places.
BODY void add_dropped_row(const Arrays &arrays, const RowDropout &n, int64_t row) {
    const RowMask bits = mask_of(n.mask, n.packing, integers(arrays, 1), integers(arrays, 2), row);
    for (int64_t column = lane(); column < n.columns; column += LANES) {
        const int64_t place = row * n.columns + column;
        arrays.out[0][place] += floats(arrays, 0)[place] * factor(n.mask, bits, (uint32_t)column);
    }
}
KERNEL(add_dropped, RowDropout)
