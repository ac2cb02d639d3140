// What stands around matrix products: biases, and rows added to others.

#pragma once

#include "dropout.cuh"

struct AddBias {
    int64_t rows, columns;
    // Of the matrix: its first column that gets the bias, and all its columns.
    int64_t first, pitch;
    // Whether it is added to what is there.
    int64_t adds;
};

BODY int64_t steps_of(const AddBias &n) {
    return n.columns | n.first | n.pitch;
}

// out0 = in0 [columns], or has that added, in some columns of every row.
template <class As> BODY void add_bias_of(const Arrays &arrays, const AddBias &n, int64_t row, Strip strip) {
    constexpr int WIDTH = As::WIDTH;
    const auto bias = input<typename As::Vectors>(arrays, 0);
    const auto to = output<typename As::Rows>(arrays, 0);
    const int64_t start = row * n.pitch + n.first;
    Read<As> found[AT_ONCE];
    each_few<WIDTH>(
        (int)n.columns, strip,
        [&](int turn, int column) {
            if (n.adds)
                found[turn] = read<WIDTH>(to, start + column);
        },
        [&](int turn, int column) {
            Few<WIDTH> x = few<WIDTH>(bias, column);
            if (n.adds)
                add(x, widened(found[turn]));
            put_few(to, start + column, x);
        });
}
STRIPS_KERNEL(add_bias, AddBias, OUT<0>, IN<0>)

// Adds what a dropout, if there is one, leaves of each row of in0 [rows, columns] to that row
// of out0 which in3 says, each to another one, or to the same. in1, in2 see mask_of.
template <class As> BODY void add_rows_of(const Arrays &arrays, const RowDropout &n, int64_t row, Strip strip) {
    constexpr int WIDTH = As::WIDTH;
    const RowMask bits = mask_of(arrays, n, row);
    const auto from = input<typename As::Rows>(arrays, 0);
    const auto to = output<typename As::Rows>(arrays, 0);
    const uint32_t *rows = integers(arrays, 3);
    const int64_t start = row * n.columns, target = (rows ? rows[row] : row) * n.columns;
    Read<As> found[AT_ONCE], before[AT_ONCE];
    each_few<WIDTH>(
        (int)n.columns, strip,
        [&](int turn, int column) {
            found[turn] = read<WIDTH>(from, start + column);
            before[turn] = read<WIDTH>(to, target + column);
        },
        [&](int turn, int column) {
            Few<WIDTH> x = widened(found[turn]);
            drop(x, n.has_mask, n.mask, bits, column);
            add(x, widened(before[turn]));
            put_few(to, target + column, x);
        });
}
STRIPS_KERNEL(add_rows, RowDropout, IN<0> | OUT<0>, 0)
