// The root mean square norm (Zhang and Sennrich 2019) in one pass, and its gradient.

#pragma once

#include "norm.cuh"

// out0 = after(x / root * gain), out1 [rows] = one by the root, sqrt(mean of x x + epsilon).
// in0 x, in3 gain, in5 starts, in6 places.
template <class As> BODY void rms_norm_of(const Arrays &arrays, const Norm &n, int64_t row) {
    constexpr int WIDTH = As::WIDTH;
    const auto x = input<typename As::Rows>(arrays, 0), result = output<typename As::Rows>(arrays, 0);
    const auto gain = input<typename As::Vectors>(arrays, 3);
    const int64_t start = row * n.columns;
    const int columns = (int)n.columns;
    Read<As> found[KEPT<WIDTH>];
    load_kept<WIDTH>(columns, [&](int turn, int column) { found[turn] = read<WIDTH>(x, start + column); });
    const NormMasks masks = masks_of(arrays, n, row);
    const auto values = [&](int turn, int column) {
        return widened(turn < KEPT<WIDTH> ? found[turn % KEPT<WIDTH>] : read<WIDTH>(x, start + column));
    };
    float squares = 0.0f;
    each_turn<WIDTH>(columns, [&](int turn, int column) {
        const Few<WIDTH> v = values(turn, column);
#pragma unroll
        for (int next = 0; next < WIDTH; next++)
            squares += v.x[next] * v.x[next];
    });
    // What rounds it is in all of the row's numbers alike, and does not average out.
    const float scale = (float)(1.0 / sqrt((double)sum(squares) / columns + (double)n.epsilon));
    each_turn<WIDTH>(columns, [&](int turn, int column) {
        Few<WIDTH> v = values(turn, column);
        const Few<WIDTH> factors = few<WIDTH>(gain, column);
#pragma unroll
        for (int next = 0; next < WIDTH; next++)
            v.x[next] = v.x[next] * scale * factors.x[next];
        drop(v, n.has_after, n.after, masks.after, column);
        put_few(result, start + column, v);
    });
    if (lane() == 0)
        results(arrays, 1)[row] = scale;
}
ROWS_KERNEL(rms_norm, Norm, IN<0> | OUT<0>, IN<3>)

// out0 = the gradient of x, out1 = by element what is summed up over rows for the gain's, where
// it is wanted. in0 the result's gradient, in1 x, in2 one by the root, in3 gain, in5 starts,
// in6 places.
template <class As> BODY void rms_norm_backward_of(const Arrays &arrays, const Norm &n, int64_t row) {
    constexpr int WIDTH = As::WIDTH;
    using Rows = typename As::Rows;
    const Rows dout = input<Rows>(arrays, 0), x = input<Rows>(arrays, 1);
    const Rows dx = output<Rows>(arrays, 0), of_gain = output<Rows>(arrays, 1);
    const auto gain = input<typename As::Vectors>(arrays, 3);
    const int64_t start = row * n.columns;
    const int columns = (int)n.columns;
    TwoRows<As> found;
    load_kept<WIDTH>(columns, [&](int turn, int column) {
        found.one[turn] = read<WIDTH>(dout, start + column);
        found.other[turn] = read<WIDTH>(x, start + column);
    });
    const float scale = floats(arrays, 2)[row];
    const NormMasks masks = masks_of(arrays, n, row);
    // The gradient by the norm's result, and what is normalized.
    const auto gradient = [&](int turn, int column) {
        const bool known = turn < KEPT<WIDTH>;
        Few<WIDTH> g = widened(known ? found.one[turn % KEPT<WIDTH>] : read<WIDTH>(dout, start + column));
        drop(g, n.has_after, n.after, masks.after, column);
        return g;
    };
    const auto values = [&](int turn, int column) {
        return widened(turn < KEPT<WIDTH> ? found.other[turn % KEPT<WIDTH>] : read<WIDTH>(x, start + column));
    };
    float products = 0.0f;
    each_turn<WIDTH>(columns, [&](int turn, int column) {
        const Few<WIDTH> g = gradient(turn, column), v = values(turn, column);
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
    each_turn<WIDTH>(columns, [&](int turn, int column) {
        Few<WIDTH> g = gradient(turn, column);
        const Few<WIDTH> v = values(turn, column), factors = few<WIDTH>(gain, column);
#pragma unroll
        for (int next = 0; next < WIDTH; next++)
            g.x[next] = (g.x[next] * factors.x[next] - v.x[next] * scale * inner) * scale;
        put_few(dx, start + column, g);
    });
}
ROWS_KERNEL(rms_norm_backward, Norm, IN<0> | IN<1> | OUT<0> | OUT<1>, IN<3>)
