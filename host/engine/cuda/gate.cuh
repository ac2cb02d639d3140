// A gated layer in one pass (Shazeer 2020), and its gradient: half of a row's columns is put
// through an activation, and multiplies the other half.

#pragma once

#include "activation.cuh"

// out0 [rows, columns] = activation(first half) * second half of in0 [rows, 2 * columns].
template <class As> BODY void gate_of(const Arrays &arrays, const Activate &n, int64_t row) {
    constexpr int WIDTH = As::WIDTH;
    const auto x = input<typename As::Rows>(arrays, 0);
    const auto to = output<typename As::Rows>(arrays, 0);
    const int64_t start = row * n.columns;
    Read<As> gates[AT_ONCE], others[AT_ONCE];
    each_few<WIDTH>(
        (int)n.columns,
        [&](int turn, int column) {
            gates[turn] = read<WIDTH>(x, 2 * start + column);
            others[turn] = read<WIDTH>(x, 2 * start + n.columns + column);
        },
        [&](int turn, int column) {
            Few<WIDTH> gate = widened(gates[turn]);
            const Few<WIDTH> linear = widened(others[turn]);
            by_activation<As>(n.activation, [&](auto activation) {
#pragma unroll
                for (int next = 0; next < WIDTH; next++)
                    gate.x[next] = activation.of(gate.x[next]) * linear.x[next];
            });
            put_few(to, start + column, gate);
        });
}
ROWS_KERNEL(gate, Activate, IN<0> | OUT<0>, 0)

// out0 [rows, 2 * columns] = the gradient of in0, of which in1 [rows, columns] is that of the
// result.
template <class As> BODY void gate_backward_of(const Arrays &arrays, const Activate &n, int64_t row) {
    constexpr int WIDTH = As::WIDTH;
    const auto x = input<typename As::Rows>(arrays, 0), dout = input<typename As::Rows>(arrays, 1);
    const auto dx = output<typename As::Rows>(arrays, 0);
    const int64_t start = row * n.columns;
    Read<As> gates[AT_ONCE], others[AT_ONCE], gradients[AT_ONCE];
    each_few<WIDTH>(
        (int)n.columns,
        [&](int turn, int column) {
            gates[turn] = read<WIDTH>(x, 2 * start + column);
            others[turn] = read<WIDTH>(x, 2 * start + n.columns + column);
            gradients[turn] = read<WIDTH>(dout, start + column);
        },
        [&](int turn, int column) {
            const Few<WIDTH> gate = widened(gates[turn]), linear = widened(others[turn]);
            const Few<WIDTH> gradient = widened(gradients[turn]);
            Few<WIDTH> of_gate, of_linear;
            by_activation<As>(n.activation, [&](auto activation) {
#pragma unroll
                for (int next = 0; next < WIDTH; next++) {
                    of_gate.x[next] = gradient.x[next] * linear.x[next] * activation.slope(gate.x[next]);
                    of_linear.x[next] = gradient.x[next] * activation.of(gate.x[next]);
                }
            });
            put_few(dx, 2 * start + column, of_gate);
            put_few(dx, 2 * start + n.columns + column, of_linear);
        });
}
ROWS_KERNEL(gate_backward, Activate, IN<0> | IN<1> | OUT<0>, 0)
