// Cross-entropy over the columns of logits, and its gradient.

#pragma once

#include "lanes.cuh"

struct CrossEntropy {
    int64_t rows, columns;
};

// out0 [rows] = -log softmax(logits)[label], out1 [rows] = the logits' log-sum-exp. in0
// logits, in1 labels.
BODY void cross_entropy_row(const Arrays &arrays, const CrossEntropy &n, int64_t row) {
    const float *logits = floats(arrays, 0) + row * n.columns;
    float most = -INFINITY;
    for (int64_t column = lane(); column < n.columns; column += LANES)
        most = fmaxf(most, logits[column]);
    most = largest(most);
    float total = 0.0f;
    for (int64_t column = lane(); column < n.columns; column += LANES)
        total += expf(logits[column] - most);
    const float log_sum = logf(sum(total)) + most;
    if (lane() == 0) {
        // A label that no column has ends the training, as a loss that is no number.
        const uint32_t label = integers(arrays, 1)[row];
        results(arrays, 0)[row] = label < n.columns ? log_sum - logits[label] : NAN;
        results(arrays, 1)[row] = log_sum;
    }
}
KERNEL(cross_entropy, CrossEntropy)

// out0 = (softmax(logits) - one at the label) * dlosses[row]. in0 logits, in1 labels,
// in2 log-sum-exp, in3 dlosses.
BODY void cross_entropy_backward_row(const Arrays &arrays, const CrossEntropy &n, int64_t row) {
    const float log_sum = floats(arrays, 2)[row], weight = floats(arrays, 3)[row];
    const int64_t label = integers(arrays, 1)[row];
    for (int64_t column = lane(); column < n.columns; column += LANES) {
        const int64_t place = row * n.columns + column;
        const float p = expf(floats(arrays, 0)[place] - log_sum);
        results(arrays, 0)[place] = (p - (column == label ? 1.0f : 0.0f)) * weight;
    }
}
KERNEL(cross_entropy_backward, CrossEntropy)
