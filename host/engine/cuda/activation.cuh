// Bias and activation in one pass, and its gradient.

#pragma once

#include "lanes.cuh"

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

// out0 = activation(x + bias). in0 x, in1 bias.
BODY void activate_row(const Arrays &arrays, const Activate &n, int64_t row) {
    const float *bias = floats(arrays, 1);
    for (int64_t column = lane(); column < n.columns; column += LANES) {
        const int64_t place = row * n.columns + column;
        const float x = floats(arrays, 0)[place] + (bias ? bias[column] : 0.0f);
        arrays.out[0][place] = activated(n.activation, x);
    }
}
KERNEL(activate, Activate)

// out0 = dout * activation'(x + bias). in0 x, in1 bias, in2 dout.
BODY void activate_backward_row(const Arrays &arrays, const Activate &n, int64_t row) {
    const float *bias = floats(arrays, 1);
    for (int64_t column = lane(); column < n.columns; column += LANES) {
        const int64_t place = row * n.columns + column;
        const float x = floats(arrays, 0)[place] + (bias ? bias[column] : 0.0f);
        arrays.out[0][place] = floats(arrays, 2)[place] * slope(n.activation, x);
    }
}
KERNEL(activate_backward, Activate)
