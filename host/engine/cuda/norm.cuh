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

// v = dropout(y + bias) + residual; out0 = (v - mean) / deviation, out1 = after(out0 *
// gain + shift), out2 [rows] = one by the deviation. in0 y, in1 bias, in2 residual,
// in3 gain, in4 shift, in5 starts, in6 places.
BODY void layer_norm_row(const Arrays &arrays, const Norm &n, int64_t row) {
    const float *bias = floats(arrays, 1), *residual = floats(arrays, 2);
    const float *gain = floats(arrays, 3), *shift = floats(arrays, 4);
    const uint32_t *starts = integers(arrays, 5), *places = integers(arrays, 6);
    const float *y = floats(arrays, 0) + row * n.columns;
    float *normalized = arrays.out[0] + row * n.columns, *out = arrays.out[1] + row * n.columns;
    RowMask before = {}, after = {};
    if (n.has_before)
        before = mask_of(n.before, n.packing, starts, places, row);
    if (n.has_after)
        after = mask_of(n.after, n.packing, starts, places, row);
    float total = 0.0f;
    for (int64_t column = lane(); column < n.columns; column += LANES) {
        float v = y[column];
        if (bias)
            v += bias[column];
        if (n.has_before)
            v *= factor(n.before, before, (uint32_t)column);
        if (residual)
            v += residual[row * n.columns + column];
        normalized[column] = v;
        total += v;
    }
    const float mean = sum(total) / (float)n.columns;
    float squares = 0.0f;
    for (int64_t column = lane(); column < n.columns; column += LANES) {
        const float centred = normalized[column] - mean;
        squares += centred * centred;
    }
    const float scale = 1.0f / sqrtf(sum(squares) / (float)n.columns + n.epsilon);
    for (int64_t column = lane(); column < n.columns; column += LANES) {
        const float x = (normalized[column] - mean) * scale;
        normalized[column] = x;
        float value = x * gain[column] + shift[column];
        if (n.has_after)
            value *= factor(n.after, after, (uint32_t)column);
        out[column] = value;
    }
    if (lane() == 0)
        arrays.out[2][row] = scale;
}
KERNEL(layer_norm, Norm)

// out0 = after(in0 * gain + shift), of what `layer_norm` has normalized. in3 to in6 as there.
BODY void recover_row(const Arrays &arrays, const Norm &n, int64_t row) {
    const float *gain = floats(arrays, 3), *shift = floats(arrays, 4);
    RowMask after = {};
    if (n.has_after)
        after = mask_of(n.after, n.packing, integers(arrays, 5), integers(arrays, 6), row);
    for (int64_t column = lane(); column < n.columns; column += LANES) {
        const int64_t place = row * n.columns + column;
        float value = floats(arrays, 0)[place] * gain[column] + shift[column];
        if (n.has_after)
            value *= factor(n.after, after, (uint32_t)column);
        arrays.out[0][place] = value;
    }
}
KERNEL(recover, Norm)

// The gradient of `layer_norm`: out0 = that of v, out1 = that of y before dropout, out2 = that
// of the result before its own dropout, the last two where they are wanted. in0 the
// result's gradient, in1 normalized, in2 scale, in3 gain, in5 starts, in6 places.
BODY void layer_norm_backward_row(const Arrays &arrays, const Norm &n, int64_t row) {
    const float *gain = floats(arrays, 3);
    const uint32_t *starts = integers(arrays, 5), *places = integers(arrays, 6);
    const float *dout = floats(arrays, 0) + row * n.columns, *x = floats(arrays, 1) + row * n.columns;
    RowMask before = {}, after = {};
    if (n.has_before)
        before = mask_of(n.before, n.packing, starts, places, row);
    if (n.has_after)
        after = mask_of(n.after, n.packing, starts, places, row);
    float total = 0.0f, products = 0.0f;
    for (int64_t column = lane(); column < n.columns; column += LANES) {
        float gradient = dout[column];
        if (n.has_after)
            gradient *= factor(n.after, after, (uint32_t)column);
        if (arrays.out[2])
            arrays.out[2][row * n.columns + column] = gradient;
        gradient *= gain[column];
        total += gradient;
        products += gradient * x[column];
    }
    const float mean = sum(total) / (float)n.columns, inner = sum(products) / (float)n.columns;
    const float scale = floats(arrays, 2)[row];
    for (int64_t column = lane(); column < n.columns; column += LANES) {
        float gradient = dout[column];
        if (n.has_after)
            gradient *= factor(n.after, after, (uint32_t)column);
        const float dv = (gradient * gain[column] - mean - x[column] * inner) * scale;
        arrays.out[0][row * n.columns + column] = dv;
        if (arrays.out[1])
            arrays.out[1][row * n.columns + column] =
                n.has_before ? dv * factor(n.before, before, (uint32_t)column) : dv;
    }
}
KERNEL(layer_norm_backward, Norm)
