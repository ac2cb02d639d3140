// What stands around matrix products: biases, and rows added to others.

#pragma once

#include "dropout.cuh"

struct AddBias {
    int64_t rows, columns;
    // Of the matrix: its first column that gets the bias, and all its columns.
    int64_t first, pitch;
};

template <int WIDTH> BODY void add_bias_of(const Arrays &arrays, const AddBias &n, int64_t row) {
    const Numbers bias = input(arrays, 0), out = output(arrays, 0);
    const int64_t start = row * n.pitch + n.first;
    each_few<WIDTH>((int)n.columns, [&](int column) {
        Few<WIDTH> x = few<WIDTH>(out, start + column);
        add(x, bias, column);
        put_few(out, start + column, x);
    });
}

// out0 += in0 [columns], in some columns of every row.
BODY void add_bias_row(const Arrays &arrays, const AddBias &n, int64_t row) {
    const bool rows = together(output(arrays, 0), n.pitch) && n.first % 4 == 0;
    if (rows && together(input(arrays, 0), n.columns))
        add_bias_of<4>(arrays, n, row);
    else
        add_bias_of<1>(arrays, n, row);
}
KERNEL(add_bias, AddBias)

template <int WIDTH> BODY void add_rows_of(const Arrays &arrays, const RowDropout &n, int64_t row) {
    const RowMask bits = mask_of(arrays, n, row);
    const Numbers from = input(arrays, 0), out = output(arrays, 0);
    const uint32_t *rows = integers(arrays, 3);
    const int64_t target = rows ? rows[row] : row;
    each_few<WIDTH>((int)n.columns, [&](int column) {
        const int64_t place = target * n.columns + column;
        Few<WIDTH> x = few<WIDTH>(from, row * n.columns + column);
        drop(x, n.has_mask, n.mask, bits, column);
        add(x, out, place);
        put_few(out, place, x);
    });
}

// Adds what a dropout, if there is one, leaves of each row of in0 [rows, columns] to that row
// of out0 which in3 says, each to another one, or to the same. in1, in2 see mask_of.
BODY void add_rows_row(const Arrays &arrays, const RowDropout &n, int64_t row) {
    if (together(input(arrays, 0), n.columns) && together(output(arrays, 0), n.columns))
        add_rows_of<4>(arrays, n, row);
    else
        add_rows_of<1>(arrays, n, row);
}
KERNEL(add_rows, RowDropout)
