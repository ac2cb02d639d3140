// Attention of a generation's rows to what was said before. Keys and values of tokens lie in
// rows of a memory that outlives a step; a list names those that a row sees, in the order of
// the tokens, its own the last. A warp takes a head of a row.

#pragma once

#include "heads.cuh"

struct Recall {
    // Rows of the step by heads, or rows alone.
    int64_t rows;
    // Columns of a head.
    int64_t heads, size;
    float scale;
    uint32_t unused;
};

// Puts keys and values of in0 [rows, 3 * heads * size], behind its queries, into the rows in1
// of out0 [memory rows, 2 * heads * size].
BODY void remember_row(const Arrays &arrays, const Recall &n, int64_t row) {
    const Numbers qkv = input(arrays, 0), memory = output(arrays, 0);
    const int64_t columns = n.heads * n.size, own = integers(arrays, 1)[row];
    for (int64_t column = lane(); column < 2 * columns; column += LANES)
        put(memory, own * 2 * columns + column, one(qkv, (3 * row + 1) * columns + column));
}
KERNEL(remember, Recall)

// out0 [rows, heads * size] the context. in0 as in `remember`, in1 the memory, in2 [rows + 1]
// where each row's list begins in in3, in4 [distances, heads] the biases of keys by how far they
// are back, if scores have any.
BODY void recall_row(const Arrays &arrays, const Recall &n, int64_t row) {
    const Numbers qkv = input(arrays, 0), memory = input(arrays, 1);
    const int64_t columns = n.heads * n.size, number = row / n.heads, head = row % n.heads;
    const uint32_t *bounds = integers(arrays, 2) + number, *list = integers(arrays, 3);
    const OfHead query = head_at(n.size, qkv, 3 * number * columns + head * n.size);
    OfHead context = {};
    float most = -INFINITY, total = 0.0f;
    for (uint32_t key = bounds[0]; key < bounds[1]; key++) {
        const int64_t place = list[key] * 2 * columns + head * n.size, back = bounds[1] - 1 - key;
        const float bias = floats(arrays, 4) ? floats(arrays, 4)[back * n.heads + head] : 0.0f;
        const OfHead of_key = head_at(n.size, memory, place), value = head_at(n.size, memory, place + columns);
        add_key(context, most, total, inner(query, of_key) * n.scale + bias, value, 1.0f);
    }
    put_head(n.size, output(arrays, 0), number * columns + head * n.size, context, 1.0f / total);
}
KERNEL(recall, Recall)
