// A gated layer in one pass (Shazeer 2020), and its gradient: half of a row's columns is put
// through an activation, and multiplies the other half.

#pragma once

#include "activation.cuh"

// Whether four columns of either half are read at once.
BODY bool gates_together(const Arrays &arrays, const Activate &n) {
    return together(input(arrays, 0), n.columns) && together(input(arrays, 1), n.columns) &&
           together(output(arrays, 0), n.columns);
}

template <int WIDTH> BODY void gate_of(const Arrays &arrays, const Activate &n, int64_t row) {
    const Numbers x = input(arrays, 0), out = output(arrays, 0);
    each_few<WIDTH>((int)n.columns, [&](int column) {
        const int64_t place = 2 * row * n.columns + column;
        Few<WIDTH> gate = few<WIDTH>(x, place);
        const Few<WIDTH> linear = few<WIDTH>(x, place + n.columns);
#pragma unroll
        for (int next = 0; next < WIDTH; next++)
            gate.x[next] = activated(n.activation, gate.x[next]) * linear.x[next];
        put_few(out, row * n.columns + column, gate);
    });
}

// out0 [rows, columns] = activation(first half) * second half of in0 [rows, 2 * columns].
BODY void gate_row(const Arrays &arrays, const Activate &n, int64_t row) {
    if (gates_together(arrays, n))
        gate_of<4>(arrays, n, row);
    else
        gate_of<1>(arrays, n, row);
}
KERNEL(gate, Activate)

template <int WIDTH> BODY void gate_backward_of(const Arrays &arrays, const Activate &n, int64_t row) {
    const Numbers x = input(arrays, 0), dout = input(arrays, 1), dx = output(arrays, 0);
    each_few<WIDTH>((int)n.columns, [&](int column) {
        const int64_t place = 2 * row * n.columns + column;
        const Few<WIDTH> gate = few<WIDTH>(x, place), linear = few<WIDTH>(x, place + n.columns);
        const Few<WIDTH> gradient = few<WIDTH>(dout, row * n.columns + column);
        Few<WIDTH> of_gate, of_linear;
#pragma unroll
        for (int next = 0; next < WIDTH; next++) {
            of_gate.x[next] = gradient.x[next] * linear.x[next] * slope(n.activation, gate.x[next]);
            of_linear.x[next] = gradient.x[next] * activated(n.activation, gate.x[next]);
        }
        put_few(dx, place, of_gate);
        put_few(dx, place + n.columns, of_linear);
    });
}

// out0 [rows, 2 * columns] = the gradient of in0, of which in1 [rows, columns] is that of the
// result.
BODY void gate_backward_row(const Arrays &arrays, const Activate &n, int64_t row) {
    if (gates_together(arrays, n))
        gate_backward_of<4>(arrays, n, row);
    else
        gate_backward_of<1>(arrays, n, row);
}
KERNEL(gate_backward, Activate)
