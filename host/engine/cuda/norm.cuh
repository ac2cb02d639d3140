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

BODY int64_t steps_of(const Norm &n) {
    return n.columns;
}

// x gain + shift, behind its dropout.
template <class As>
BODY Few<As::WIDTH> recovered(const Arrays &arrays, const Norm &n, RowMask after, const Few<As::WIDTH> &x,
                              int column) {
    Few<As::WIDTH> result = x, shift = {};
    add(shift, input<typename As::Vectors>(arrays, 4), column);
    multiply_add(result, few<As::WIDTH>(input<typename As::Vectors>(arrays, 3), column), shift);
    drop(result, n.has_after, n.after, after, column);
    return result;
}

// v = dropout(y + bias) + residual; out0 = (v - mean) / deviation, out1 = after(out0 *
// gain + shift), out2 [rows] = one by the deviation. in0 y, in1 bias, in2 residual,
// in3 gain, in4 shift, in5 starts, in6 places.
template <class As> BODY void layer_norm_of(const Arrays &arrays, const Norm &n, int64_t row) {
    constexpr int WIDTH = As::WIDTH;
    const auto y = input<typename As::Rows>(arrays, 0), residual = input<typename As::Rows>(arrays, 2);
    const auto bias = input<typename As::Vectors>(arrays, 1);
    const auto normalized = output<typename As::Rows>(arrays, 0), result = output<typename As::Rows>(arrays, 1);
    const int64_t start = row * n.columns;
    const int columns = (int)n.columns;
    // Long rows are read and computed once more.
    Read<As> found[KEPT<WIDTH>], beside[KEPT<WIDTH>] = {};
    Few<WIDTH> kept[KEPT<WIDTH>] = {};
    load_kept<WIDTH>(columns, [&](int turn, int column) { found[turn] = read<WIDTH>(y, start + column); });
    if (residual.at)
        load_kept<WIDTH>(columns, [&](int turn, int column) { beside[turn] = read<WIDTH>(residual, start + column); });
    const NormMasks masks = masks_of(arrays, n, row);
    const auto value = [&](int turn, int column) {
        const bool known = turn < KEPT<WIDTH>;
        Few<WIDTH> v = widened(known ? found[turn % KEPT<WIDTH>] : read<WIDTH>(y, start + column));
        add(v, bias, column);
        drop(v, n.has_before, n.before, masks.before, column);
        if (known)
            add(v, widened(beside[turn % KEPT<WIDTH>]));
        else
            add(v, residual, start + column);
        return v;
    };
    const auto again = [&](int turn, int column) {
        return turn < KEPT<WIDTH> ? kept[turn % KEPT<WIDTH>] : value(turn, column);
    };
    float total = 0.0f;
    each_turn<WIDTH>(columns, [&](int turn, int column) {
        const Few<WIDTH> v = value(turn, column);
        if (turn < KEPT<WIDTH>)
            kept[turn % KEPT<WIDTH>] = v;
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
        put_few(result, start + column, recovered<As>(arrays, n, masks.after, x, column));
    });
    if (lane() == 0)
        results(arrays, 2)[row] = scale;
}
ROWS_KERNEL(layer_norm, Norm, IN<0> | IN<2> | OUT<0> | OUT<1>, IN<1> | IN<3> | IN<4>)

// out0 = after(in0 * gain + shift), of what `layer_norm` has normalized. in3 to in6 as there.
template <class As> BODY void recover_of(const Arrays &arrays, const Norm &n, int64_t row) {
    constexpr int WIDTH = As::WIDTH;
    const auto normalized = input<typename As::Rows>(arrays, 0), result = output<typename As::Rows>(arrays, 0);
    const NormMasks masks = masks_of(arrays, n, row);
    const int64_t start = row * n.columns;
    Read<As> found[AT_ONCE];
    each_few<WIDTH>(
        (int)n.columns, [&](int turn, int column) { found[turn] = read<WIDTH>(normalized, start + column); },
        [&](int turn, int column) {
            put_few(result, start + column,
                    recovered<As>(arrays, n, masks.after, widened(found[turn]), column));
        });
}
ROWS_KERNEL(recover, Norm, IN<0> | OUT<0>, IN<3> | IN<4>)

// What a lane has read of two rows, of the first KEPT turns.
template <class As> struct TwoRows {
    Read<As> one[KEPT<As::WIDTH>], other[KEPT<As::WIDTH>];
};

// The gradient of `layer_norm`: out0 = that of v, out1 = that of y before dropout, out2 = that
// of the result before its own dropout, the last two where they are wanted. in0 the
// result's gradient, in1 normalized, in2 scale, in3 gain, in5 starts, in6 places.
template <class As> BODY void layer_norm_backward_of(const Arrays &arrays, const Norm &n, int64_t row) {
    constexpr int WIDTH = As::WIDTH;
    using Rows = typename As::Rows;
    const Rows dout = input<Rows>(arrays, 0), normalized = input<Rows>(arrays, 1);
    const Rows dv = output<Rows>(arrays, 0), dy = output<Rows>(arrays, 1), undropped = output<Rows>(arrays, 2);
    const auto gain = input<typename As::Vectors>(arrays, 3);
    const int64_t start = row * n.columns;
    const int columns = (int)n.columns;
    TwoRows<As> found;
    load_kept<WIDTH>(columns, [&](int turn, int column) {
        found.one[turn] = read<WIDTH>(dout, start + column);
        found.other[turn] = read<WIDTH>(normalized, start + column);
    });
    const NormMasks masks = masks_of(arrays, n, row);
    const auto gradient = [&](int turn, int column) {
        const bool known = turn < KEPT<WIDTH>;
        Few<WIDTH> g = widened(known ? found.one[turn % KEPT<WIDTH>] : read<WIDTH>(dout, start + column));
        drop(g, n.has_after, n.after, masks.after, column);
        return g;
    };
    const auto values = [&](int turn, int column) {
        const bool known = turn < KEPT<WIDTH>;
        return widened(known ? found.other[turn % KEPT<WIDTH>] : read<WIDTH>(normalized, start + column));
    };
    float total = 0.0f, products = 0.0f;
    each_turn<WIDTH>(columns, [&](int turn, int column) {
        const Few<WIDTH> g = gradient(turn, column), x = values(turn, column);
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
    each_turn<WIDTH>(columns, [&](int turn, int column) {
        Few<WIDTH> g = gradient(turn, column);
        const Few<WIDTH> x = values(turn, column), factors = few<WIDTH>(gain, column);
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
ROWS_KERNEL(layer_norm_backward, Norm, IN<0> | IN<1> | OUT<0> | OUT<1> | OUT<2>, IN<3>)
