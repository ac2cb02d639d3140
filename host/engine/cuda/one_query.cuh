// Attention of one query a sequence to all rows of its sequence, as the last block has below
// a head of classes, and its gradient: a warp takes a head of a sequence.

#pragma once

#include "dropout.cuh"
#include "heads.cuh"

struct OneQuery {
    // Sequences by heads.
    int64_t rows;
    // Columns of a head.
    int64_t heads, size;
    Mask mask;
    float scale;
    int32_t has_mask;
};

// What a warp works on: its keys and their first row, and where those of the query and of
// the keys begin.
struct OneQueryPlace {
    int64_t sequence, head, start, keys, query, memory, pitch;
    RowMask mask;
};

// in2 starts, in3 places.
BODY OneQueryPlace place_of(const Arrays &arrays, const OneQuery &n, int64_t row) {
    OneQueryPlace at = {};
    at.sequence = row / n.heads;
    at.head = row % n.heads;
    const uint32_t *starts = integers(arrays, 2) + at.sequence;
    at.start = starts[0];
    at.keys = starts[1] - starts[0];
    at.query = row * n.size;
    at.pitch = 2 * n.heads * n.size;
    at.memory = at.start * at.pitch + at.head * n.size;
    if (n.has_mask)
        at.mask = row_mask(mix(n.mask.base ^ (uint64_t)at.head), integers(arrays, 3)[at.sequence], 0);
    return at;
}

BODY float kept_of(const OneQuery &n, const OneQueryPlace &at, int64_t key) {
    return n.has_mask ? factor(n.mask, at.mask, (uint32_t)key) : 1.0f;
}

// out0 [sequences, heads * size] the context, out1 [heads, sequences] the scores'
// log-sum-exp. in0 [sequences, heads * size] queries, in1 [tokens, 2 * heads * size] keys and
// values; in2, in3 see place_of.
BODY void one_query_row(const Arrays &arrays, const OneQuery &n, int64_t row) {
    const Numbers memory = input(arrays, 1);
    const OneQueryPlace at = place_of(arrays, n, row);
    const OfHead query = head_at(n.size, input(arrays, 0), at.query);
    OfHead context = {};
    float most = -INFINITY, total = 0.0f;
    for (int64_t key = 0; key < at.keys; key++) {
        const int64_t place = at.memory + key * at.pitch;
        const OfHead of_key = head_at(n.size, memory, place), value = head_at(n.size, memory, place + at.pitch / 2);
        add_key(context, most, total, inner(query, of_key) * n.scale, value, kept_of(n, at, key));
    }
    put_head(n.size, output(arrays, 0), at.query, context, 1.0f / total);
    if (lane() == 0)
        results(arrays, 1)[at.head * (n.rows / n.heads) + at.sequence] = logf(total) + most;
}
KERNEL(one_query, OneQuery)

// out0 the queries' gradient, out1 that of keys and values, where they are wanted. in0 to
// in3 as in `one_query`, in4 the context's gradient, in5 log-sum-exps.
BODY void one_query_backward_row(const Arrays &arrays, const OneQuery &n, int64_t row) {
    const Numbers memory = input(arrays, 1), dmemory = output(arrays, 1);
    const OneQueryPlace at = place_of(arrays, n, row);
    const OfHead query = head_at(n.size, input(arrays, 0), at.query), dout = head_at(n.size, input(arrays, 4), at.query);
    const float log_sum = floats(arrays, 5)[at.head * (n.rows / n.heads) + at.sequence];
    const auto probability = [&](int64_t place) {
        return expf(inner(query, head_at(n.size, memory, place)) * n.scale - log_sum);
    };
    // The gradient of a probability, behind dropout.
    const auto gradient = [&](int64_t place, int64_t key) {
        return inner(dout, head_at(n.size, memory, place + at.pitch / 2)) * kept_of(n, at, key);
    };
    float total = 0.0f;
    for (int64_t key = 0; key < at.keys; key++) {
        const int64_t place = at.memory + key * at.pitch;
        total += probability(place) * gradient(place, key);
    }
    OfHead dquery = {};
    for (int64_t key = 0; key < at.keys; key++) {
        const int64_t place = at.memory + key * at.pitch;
        const float p = probability(place), dscore = p * (gradient(place, key) - total) * n.scale;
        add_head(dquery, head_at(n.size, memory, place), dscore);
        if (dmemory.at) {
            put_head(n.size, dmemory, place, query, dscore);
            put_head(n.size, dmemory, place + at.pitch / 2, dout, p * kept_of(n, at, key));
        }
    }
    if (arrays.out[0])
        put_head(n.size, output(arrays, 0), at.query, dquery, 1.0f);
}
KERNEL(one_query_backward, OneQuery)
