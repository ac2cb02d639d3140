// Bias and activation in one pass, and its gradient.

#pragma once

#include "numbers.cuh"

// In the order of program::instruction::Activation.
enum { GELU, GELU_TANH, RELU, SILU, TANH };

struct Activate {
    int64_t rows, columns;
    int64_t activation;
};

const float TANH_SCALE = 0.7978845608028654f; // sqrt(2 / pi)

BODY float activated(int64_t activation, float x) {
    switch (activation) {
    case GELU:
        return 0.5f * x * (1.0f + erff(x * 0.7071067811865476f));
    case GELU_TANH:
        return 0.5f * x * (1.0f + tanhf(TANH_SCALE * (x + 0.044715f * x * x * x)));
    case RELU:
        return x < 0.0f ? 0.0f : x;
    case SILU:
        return x / (1.0f + expf(-x));
    default:
        return tanhf(x);
    }
}

BODY float slope(int64_t activation, float x) {
    switch (activation) {
    case GELU:
        return 0.5f * (1.0f + erff(x * 0.7071067811865476f)) + x * expf(-0.5f * x * x) * 0.3989422804014327f;
    case GELU_TANH: {
        const float tangent = tanhf(TANH_SCALE * (x + 0.044715f * x * x * x));
        const float inner = TANH_SCALE * (1.0f + 3.0f * 0.044715f * x * x);
        return 0.5f * (1.0f + tangent) + 0.5f * x * (1.0f - tangent * tangent) * inner;
    }
    case RELU:
        return x > 0.0f ? 1.0f : 0.0f;
    case SILU: {
        const float sigmoid = 1.0f / (1.0f + expf(-x));
        return sigmoid * (1.0f + x * (1.0f - sigmoid));
    }
    default: {
        const float tangent = tanhf(x);
        return 1.0f - tangent * tangent;
    }
    }
}

// x + bias, where there is one.
template <int WIDTH> BODY Few<WIDTH> biased(const Arrays &arrays, int64_t start, int column) {
    Few<WIDTH> x = few<WIDTH>(input(arrays, 0), start + column);
    add(x, input(arrays, 1), column);
    return x;
}

template <int WIDTH> BODY void activate_of(const Arrays &arrays, const Activate &n, int64_t row) {
    const Numbers out = output(arrays, 0);
    each_few<WIDTH>((int)n.columns, [&](int column) {
        Few<WIDTH> x = biased<WIDTH>(arrays, row * n.columns, column);
#pragma unroll
        for (int next = 0; next < WIDTH; next++)
            x.x[next] = activated(n.activation, x.x[next]);
        put_few(out, row * n.columns + column, x);
    });
}

// Whether four columns are read at once.
BODY bool activates_together(const Arrays &arrays, const Activate &n) {
    return together(input(arrays, 0), n.columns) && together(input(arrays, 1), n.columns) &&
           together(input(arrays, 2), n.columns) && together(output(arrays, 0), n.columns);
}

// out0 = activation(x + bias). in0 x, in1 bias.
BODY void activate_row(const Arrays &arrays, const Activate &n, int64_t row) {
    if (activates_together(arrays, n))
        activate_of<4>(arrays, n, row);
    else
        activate_of<1>(arrays, n, row);
}
KERNEL(activate, Activate)

template <int WIDTH> BODY void activate_backward_of(const Arrays &arrays, const Activate &n, int64_t row) {
    const Numbers dx = output(arrays, 0), dout = arrays.in[2] ? input(arrays, 2) : dx;
    each_few<WIDTH>((int)n.columns, [&](int column) {
        const int64_t place = row * n.columns + column;
        const Few<WIDTH> x = biased<WIDTH>(arrays, row * n.columns, column);
        Few<WIDTH> gradient = few<WIDTH>(dout, place);
#pragma unroll
        for (int next = 0; next < WIDTH; next++)
            gradient.x[next] *= slope(n.activation, x.x[next]);
        put_few(dx, place, gradient);
    });
}

// out0 = dout * activation'(x + bias). in0 x, in1 bias, in2 dout, which is out0's where it is
// left out.
BODY void activate_backward_row(const Arrays &arrays, const Activate &n, int64_t row) {
    if (activates_together(arrays, n))
        activate_backward_of<4>(arrays, n, row);
    else
        activate_backward_of<1>(arrays, n, row);
}
KERNEL(activate_backward, Activate)
