// The root mean square norm (Zhang and Sennrich 2019) in one pass, and its gradient.

#pragma once

#include "norm.cuh"

template <int WIDTH> BODY void rms_norm_of(const Arrays &arrays, const Norm &n, int64_t row) {
    const Numbers x = input(arrays, 0), gain = input(arrays, 3), out = output(arrays, 0);
    const NormMasks masks = masks_of(arrays, n, row);
    const int64_t start = row * n.columns;
    const int columns = (int)n.columns;
    float squares = 0.0f;
    each_few<WIDTH>(columns, [&](int column) {
        const Few<WIDTH> v = few<WIDTH>(x, start + column);
#pragma unroll
        for (int next = 0; next < WIDTH; next++)
            squares += v.x[next] * v.x[next];
    });
    // What rounds it is in all of the row's numbers alike, and does not average out.
    const float scale = (float)(1.0 / sqrt((double)sum(squares) / columns + (double)n.epsilon));
    each_few<WIDTH>(columns, [&](int column) {
        Few<WIDTH> v = few<WIDTH>(x, start + column);
        const Few<WIDTH> factors = few<WIDTH>(gain, column);
#pragma unroll
        for (int next = 0; next < WIDTH; next++)
            v.x[next] = v.x[next] * scale * factors.x[next];
        drop(v, n.has_after, n.after, masks.after, column);
        put_few(out, start + column, v);
    });
    if (lane() == 0)
        results(arrays, 1)[row] = scale;
}

// out0 = after(x / root * gain), out1 [rows] = one by the root, sqrt(mean of x x + epsilon).
// in0 x, in3 gain, in5 starts, in6 places.
BODY void rms_norm_row(const Arrays &arrays, const Norm &n, int64_t row) {
    if (all_together(arrays, n))
        rms_norm_of<4>(arrays, n, row);
    else
        rms_norm_of<1>(arrays, n, row);
}
KERNEL(rms_norm, Norm)

template <int WIDTH> BODY void rms_norm_backward_of(const Arrays &arrays, const Norm &n, int64_t row) {
    const Numbers dout = input(arrays, 0), x = input(arrays, 1), gain = input(arrays, 3);
    const Numbers dx = output(arrays, 0), of_gain = output(arrays, 1);
    const NormMasks masks = masks_of(arrays, n, row);
    const int64_t start = row * n.columns;
    const int columns = (int)n.columns;
    const float scale = floats(arrays, 2)[row];
    // The gradient by the norm's result, and what is normalized.
    const auto gradient = [&](int column) {
        Few<WIDTH> gradient = few<WIDTH>(dout, start + column);
        drop(gradient, n.has_after, n.after, masks.after, column);
        return gradient;
    };
    float products = 0.0f;
    each_few<WIDTH>(columns, [&](int column) {
        const Few<WIDTH> g = gradient(column), v = few<WIDTH>(x, start + column);
        const Few<WIDTH> factors = few<WIDTH>(gain, column);
        Few<WIDTH> product;
#pragma unroll
        for (int next = 0; next < WIDTH; next++) {
            product.x[next] = g.x[next] * (v.x[next] * scale);
            products += product.x[next] * factors.x[next];
        }
        if (of_gain.at)
            put_few(of_gain, start + column, product);
    });
    const float inner = sum(products) / (float)columns;
    each_few<WIDTH>(columns, [&](int column) {
        Few<WIDTH> g = gradient(column);
        const Few<WIDTH> v = few<WIDTH>(x, start + column), factors = few<WIDTH>(gain, column);
#pragma unroll
        for (int next = 0; next < WIDTH; next++)
            g.x[next] = (g.x[next] * factors.x[next] - v.x[next] * scale * inner) * scale;
        put_few(dx, start + column, g);
    });
}

// out0 = the gradient of x, out1 = by element what is summed up over rows for the gain's, where
// it is wanted. in0 the result's gradient, in1 x, in2 one by the root, in3 gain, in5 starts,
// in6 places.
BODY void rms_norm_backward_row(const Arrays &arrays, const Norm &n, int64_t row) {
    if (all_together(arrays, n))
        rms_norm_backward_of<4>(arrays, n, row);
    else
        rms_norm_backward_of<1>(arrays, n, row);
}
KERNEL(rms_norm_backward, Norm)
