// AdamW over all tensors that train, in one launch.

#pragma once

#include "lanes.cuh"

// A tensor that trains: addresses of its elements, gradient and moments, and the
// factors of src/kernels/adamw.rs.
struct Trained {
    float *parameter;
    const float *gradient;
    float *first, *second;
    int64_t elements;
    // The first of its pieces among those of all tensors.
    int64_t first_piece;
    float decay, beta1, rest1, beta2, rest2, step_size, root_correction, epsilon;
};

struct AdamW {
    // Pieces of all tensors together.
    int64_t rows;
    int64_t tensors, piece;
};

// One step of all tensors. in0 [tensors] what trains, in1 [1] what gradients are
// multiplied by.
BODY void adamw_row(const Arrays &arrays, const AdamW &n, int64_t row) {
    const Trained tensor = entry_of((const Trained *)arrays.in[0], n.tensors, row);
    const float scale = floats(arrays, 1)[0];
    const int64_t start = (row - tensor.first_piece) * n.piece;
    const int64_t end = start + n.piece < tensor.elements ? start + n.piece : tensor.elements;
    for (int64_t place = start + lane(); place < end; place += LANES) {
        const float g = tensor.gradient[place] * scale;
        const float m = tensor.beta1 * tensor.first[place] + tensor.rest1 * g;
        const float v = tensor.beta2 * tensor.second[place] + tensor.rest2 * g * g;
        tensor.first[place] = m;
        tensor.second[place] = v;
        tensor.parameter[place] = tensor.parameter[place] * tensor.decay -
                                  tensor.step_size * m / (sqrtf(v) * tensor.root_correction + tensor.epsilon);
    }
}
KERNEL(adamw, AdamW)
