// Bias, dropout, residual and layer norm in one pass, and its gradient.

#pragma once

#include "dropout.cuh"

struct Norm {
    int64_t rows, columns;
    Packing packing;
    // Before the residual is added, and of the result; whether there is one.
    Mask before, after;
    int32_t has_before, has_after;
    float epsilon;
};

// The masks of a row.
struct NormMasks {
    RowMask before, after;
};

BODY NormMasks masks_of(const Arrays &arrays, const Norm &n, int64_t row) {
    NormMasks masks = {};
    if (n.has_before)
        masks.before = mask_of(n.before, n.packing, integers(arrays, 5), integers(arrays, 6), row);
    if (n.has_after)
        masks.after = mask_of(n.after, n.packing, integers(arrays, 5), integers(arrays, 6), row);
    return masks;
}

// x gain + shift, behind its dropout.
template <int WIDTH>
BODY Few<WIDTH> recovered(const Arrays &arrays, const Norm &n, RowMask after, const Few<WIDTH> &x, int column) {
    Few<WIDTH> out = few<WIDTH>(input(arrays, 3), column);
#pragma unroll
    for (int next = 0; next < WIDTH; next++)
        out.x[next] *= x.x[next];
    add(out, input(arrays, 4), column);
    drop(out, n.has_after, n.after, after, column);
    return out;
}

template <int WIDTH> BODY void layer_norm_of(const Arrays &arrays, const Norm &n, int64_t row) {
    const Numbers y = input(arrays, 0), bias = input(arrays, 1), residual = input(arrays, 2);
    const Numbers normalized = output(arrays, 0), out = output(arrays, 1);
    const NormMasks masks = masks_of(arrays, n, row);
    const int64_t start = row * n.columns;
    const int columns = (int)n.columns;
    const auto value = [&](int column) {
        Few<WIDTH> v = few<WIDTH>(y, start + column);
        add(v, bias, column);
        drop(v, n.has_before, n.before, masks.before, column);
        add(v, residual, start + column);
        return v;
    };
    // Long rows are computed once more.
    Few<WIDTH> kept[KEPT] = {};
    const auto again = [&](int turn, int column) { return turn < KEPT ? kept[turn % KEPT] : value(column); };
    float total = 0.0f;
    each_turn<WIDTH>(columns, [&](int turn, int column) {
        const Few<WIDTH> v = value(column);
        if (turn < KEPT)
            kept[turn % KEPT] = v;
#pragma unroll
        for (int next = 0; next < WIDTH; next++)
            total += v.x[next];
    });
    const float mean = sum(total) / (float)columns;
    float squares = 0.0f;
    each_turn<WIDTH>(columns, [&](int turn, int column) {
        const Few<WIDTH> v = again(turn, column);
#pragma unroll
        for (int next = 0; next < WIDTH; next++) {
            const float centred = v.x[next] - mean;
            squares += centred * centred;
        }
    });
    const float scale = 1.0f / sqrtf(sum(squares) / (float)columns + n.epsilon);
    each_turn<WIDTH>(columns, [&](int turn, int column) {
        Few<WIDTH> x = again(turn, column);
#pragma unroll
        for (int next = 0; next < WIDTH; next++)
            x.x[next] = (x.x[next] - mean) * scale;
        put_few(normalized, start + column, x);
        put_few(out, start + column, recovered(arrays, n, masks.after, x, column));
    });
    if (lane() == 0)
        results(arrays, 2)[row] = scale;
}

// Whether four columns of each array are read and written at once.
BODY bool all_together(const Arrays &arrays, const Norm &n) {
    bool all = true;
#pragma unroll
    for (int number = 0; number < 5; number++)
        all = all && together(input(arrays, number), n.columns);
#pragma unroll
    for (int number = 0; number < 3; number++)
        all = all && together(output(arrays, number), n.columns);
    return all;
}

// v = dropout(y + bias) + residual; out0 = (v - mean) / deviation, out1 = after(out0 *
// gain + shift), out2 [rows] = one by the deviation. in0 y, in1 bias, in2 residual,
// in3 gain, in4 shift, in5 starts, in6 places.
BODY void layer_norm_row(const Arrays &arrays, const Norm &n, int64_t row) {
    if (all_together(arrays, n))
        layer_norm_of<4>(arrays, n, row);
    else
        layer_norm_of<1>(arrays, n, row);
}
KERNEL(layer_norm, Norm)

template <int WIDTH> BODY void recover_of(const Arrays &arrays, const Norm &n, int64_t row) {
    const Numbers normalized = input(arrays, 0), out = output(arrays, 0);
    const NormMasks masks = masks_of(arrays, n, row);
    const int64_t start = row * n.columns;
    each_few<WIDTH>((int)n.columns, [&](int column) {
        const Few<WIDTH> x = few<WIDTH>(normalized, start + column);
        put_few(out, start + column, recovered(arrays, n, masks.after, x, column));
    });
}

// out0 = after(in0 * gain + shift), of what `layer_norm` has normalized. in3 to in6 as there.
BODY void recover_row(const Arrays &arrays, const Norm &n, int64_t row) {
    if (all_together(arrays, n))
        recover_of<4>(arrays, n, row);
    else
        recover_of<1>(arrays, n, row);
}
KERNEL(recover, Norm)

template <int WIDTH> BODY void layer_norm_backward_of(const Arrays &arrays, const Norm &n, int64_t row) {
    const Numbers dout = input(arrays, 0), normalized = input(arrays, 1), gain = input(arrays, 3);
    const Numbers dv = output(arrays, 0), dy = output(arrays, 1), undropped = output(arrays, 2);
    const NormMasks masks = masks_of(arrays, n, row);
    const int64_t start = row * n.columns;
    const int columns = (int)n.columns;
    const auto gradient = [&](int column) {
        Few<WIDTH> gradient = few<WIDTH>(dout, start + column);
        drop(gradient, n.has_after, n.after, masks.after, column);
        return gradient;
    };
    float total = 0.0f, products = 0.0f;
    each_few<WIDTH>(columns, [&](int column) {
        const Few<WIDTH> g = gradient(column), x = few<WIDTH>(normalized, start + column);
        const Few<WIDTH> factors = few<WIDTH>(gain, column);
        if (undropped.at)
            put_few(undropped, start + column, g);
#pragma unroll
        for (int next = 0; next < WIDTH; next++) {
            total += g.x[next] * factors.x[next];
            products += g.x[next] * factors.x[next] * x.x[next];
        }
    });
    const float mean = sum(total) / (float)columns, inner = sum(products) / (float)columns;
    const float scale = floats(arrays, 2)[row];
    each_few<WIDTH>(columns, [&](int column) {
        Few<WIDTH> g = gradient(column);
        const Few<WIDTH> x = few<WIDTH>(normalized, start + column), factors = few<WIDTH>(gain, column);
#pragma unroll
        for (int next = 0; next < WIDTH; next++)
            g.x[next] = (g.x[next] * factors.x[next] - mean - x.x[next] * inner) * scale;
        put_few(dv, start + column, g);
        if (dy.at) {
            drop(g, n.has_before, n.before, masks.before, column);
            put_few(dy, start + column, g);
        }
    });
}

// The gradient of `layer_norm`: out0 = that of v, out1 = that of y before dropout, out2 = that
// of the result before its own dropout, the last two where they are wanted. in0 the
// result's gradient, in1 normalized, in2 scale, in3 gain, in5 starts, in6 places.
BODY void layer_norm_backward_row(const Arrays &arrays, const Norm &n, int64_t row) {
    if (all_together(arrays, n))
        layer_norm_backward_of<4>(arrays, n, row);
    else
        layer_norm_backward_of<1>(arrays, n, row);
}
KERNEL(layer_norm_backward, Norm)
