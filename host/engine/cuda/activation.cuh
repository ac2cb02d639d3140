// Bias and activation in one pass, and its gradient.

#pragma once

#include "layouts.cuh"

// In the order of program::instruction::Activation.
enum { GELU, GELU_TANH, RELU, SILU, TANH };

struct Activate {
    int64_t rows, columns;
    int64_t activation;
};

const float TANH_SCALE = 0.7978845608028654f; // sqrt(2 / pi)
const float DENSITY = 0.3989422804014327f;    // 1 / sqrt(2 pi)

struct Gelu {
    BODY float of(float x) {
        return 0.5f * x * (1.0f + erff(x * 0.7071067811865476f));
    }

    BODY float slope(float x) {
        return 0.5f * (1.0f + erff(x * 0.7071067811865476f)) + x * expf(-0.5f * x * x) * DENSITY;
    }
};

// The same of numbers of bf16: the normal distribution by Abramowitz and Stegun 1964, 26.2.17,
// at most 7.5e-8 off, from its density, which the slope needs as well.
struct GeluOfHalves {
    BODY float density(float x) {
        return fast_exponential(-0.5f * x * x) * DENSITY;
    }

    BODY float below(float x, float density) {
        const float t = fast_reciprocal(1.0f + 0.2316419f * fabsf(x));
        const float sum = 0.319381530f +
                          t * (-0.356563782f + t * (1.781477937f + t * (-1.821255978f + t * 1.330274429f)));
        const float tail = density * t * sum;
        return x < 0.0f ? tail : 1.0f - tail;
    }

    BODY float of(float x) {
        return x * below(x, density(x));
    }

    BODY float slope(float x) {
        const float here = density(x);
        return below(x, here) + x * here;
    }
};

struct GeluTanh {
    BODY float of(float x) {
        return 0.5f * x * (1.0f + tanhf(TANH_SCALE * (x + 0.044715f * x * x * x)));
    }

    BODY float slope(float x) {
        const float tangent = tanhf(TANH_SCALE * (x + 0.044715f * x * x * x));
        const float inner = TANH_SCALE * (1.0f + 3.0f * 0.044715f * x * x);
        return 0.5f * (1.0f + tangent) + 0.5f * x * (1.0f - tangent * tangent) * inner;
    }
};

struct Relu {
    BODY float of(float x) {
        return x < 0.0f ? 0.0f : x;
    }

    BODY float slope(float x) {
        return x > 0.0f ? 1.0f : 0.0f;
    }
};

struct Silu {
    BODY float of(float x) {
        return x / (1.0f + expf(-x));
    }

    BODY float slope(float x) {
        const float sigmoid = 1.0f / (1.0f + expf(-x));
        return sigmoid * (1.0f + x * (1.0f - sigmoid));
    }
};

struct Tanh {
    BODY float of(float x) {
        return tanhf(x);
    }

    BODY float slope(float x) {
        const float tangent = tanhf(x);
        return 1.0f - tangent * tangent;
    }
};

// Calls `work` with an activation, of numbers that are read so.
template <class As, class Work> BODY void by_activation(int64_t activation, Work work) {
    switch (activation) {
    case GELU:
        if constexpr (As::HALVES)
            return work(GeluOfHalves());
        else
            return work(Gelu());
    case GELU_TANH:
        return work(GeluTanh());
    case RELU:
        return work(Relu());
    case SILU:
        return work(Silu());
    default:
        return work(Tanh());
    }
}

BODY int64_t steps_of(const Activate &n) {
    return n.columns;
}

// out0 = activation(x + bias). in0 x, in1 bias.
template <class As> BODY void activate_of(const Arrays &arrays, const Activate &n, int64_t row, Strip strip) {
    constexpr int WIDTH = As::WIDTH;
    const auto from = input<typename As::Rows>(arrays, 0);
    const auto bias = input<typename As::Vectors>(arrays, 1);
    const auto to = output<typename As::Rows>(arrays, 0);
    const int64_t start = row * n.columns;
    Read<As> found[AT_ONCE];
    each_few<WIDTH>(
        (int)n.columns, strip, [&](int turn, int column) { found[turn] = read<WIDTH>(from, start + column); },
        [&](int turn, int column) {
            Few<WIDTH> x = widened(found[turn]);
            add(x, bias, column);
            by_activation<As>(n.activation, [&](auto activation) {
#pragma unroll
                for (int next = 0; next < WIDTH; next++)
                    x.x[next] = activation.of(x.x[next]);
            });
            put_few(to, start + column, x);
        });
}
STRIPS_KERNEL(activate, Activate, IN<0> | OUT<0>, IN<1>)

// out0 = dout * activation'(x + bias). in0 x, in1 bias, in2 dout, which is out0's where it is
// left out.
template <class As> BODY void activate_backward_of(const Arrays &arrays, const Activate &n, int64_t row, Strip strip) {
    constexpr int WIDTH = As::WIDTH;
    const auto from = input<typename As::Rows>(arrays, 0);
    const auto bias = input<typename As::Vectors>(arrays, 1);
    const auto dx = output<typename As::Rows>(arrays, 0);
    const auto dout = arrays.in[2] ? input<typename As::Rows>(arrays, 2) : dx;
    const int64_t start = row * n.columns;
    Read<As> found[AT_ONCE], gradients[AT_ONCE];
    each_few<WIDTH>(
        (int)n.columns, strip,
        [&](int turn, int column) {
            found[turn] = read<WIDTH>(from, start + column);
            gradients[turn] = read<WIDTH>(dout, start + column);
        },
        [&](int turn, int column) {
            Few<WIDTH> x = widened(found[turn]), gradient = widened(gradients[turn]);
            add(x, bias, column);
            by_activation<As>(n.activation, [&](auto activation) {
#pragma unroll
                for (int next = 0; next < WIDTH; next++)
                    gradient.x[next] *= activation.slope(x.x[next]);
            });
            put_few(dx, start + column, gradient);
        });
}
STRIPS_KERNEL(activate_backward, Activate, IN<0> | IN<2> | OUT<0>, IN<1>)
