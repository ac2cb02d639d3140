// The gradient of attention of one query a sequence (one_query.cuh), in two passes over keys: what
// is summed up over all of them takes part in the gradient of each. Of the first keys the second
// pass reads nothing again.

#pragma once

#include "one_query.cuh"

// Keys whose probabilities a block keeps for the second pass; those of others it computes again.
const int KEPT_KEYS = 1024;

// What a thread has of its group: p are probabilities of a step's keys, and `gradients` those of
// p, behind dropout.
template <class As> struct Answering {
    LaneNumbers query, dout;
    LaneRead<As::WIDTH, typename As::Rows> keys[KEYS_AT_ONCE<As>];
    float parts[KEYS_AT_ONCE<As>], gradient_parts[KEYS_AT_ONCE<As>];
    float p[KEYS_AT_ONCE<As>], gradients[KEYS_AT_ONCE<As>];
    // The sums of keys by p, and by p and its gradient, and of p by its gradient.
    LaneNumbers by_p, by_both;
    float total;
};

// Computes p and its gradients of a step's keys.
template <class As>
BODY void look_at_keys(const Arrays &arrays, const OneQuery &n, const OneQueryPlace &at, float log_sum, int step,
                       Own<Answering<As>> &all) {
    constexpr int WIDTH = As::WIDTH;
    const auto memory = input<typename As::Rows>(arrays, 1);
    const int size = (int)n.size;
    EACH_QUERY(thread) {
        Answering<As> &own = all.of(thread);
        LaneRead<WIDTH, typename As::Rows> values[KEYS_AT_ONCE<As>];
#pragma unroll
        for (int i = 0; i < KEYS_AT_ONCE<As>; i++) {
            const int64_t place = key_at(at, key_of(thread, step, i));
            own.keys[i] = read_columns<WIDTH>(memory, place, size, thread);
            values[i] = read_columns<WIDTH>(memory, place + at.pitch / 2, size, thread);
        }
#pragma unroll
        for (int i = 0; i < KEYS_AT_ONCE<As>; i++) {
            own.parts[i] = inner(own.query, numbers_of(own.keys[i]));
            own.gradient_parts[i] = inner(own.dout, numbers_of(values[i]));
        }
    }
    EACH_QUERY(thread) {
        Answering<As> &own = all.of(thread);
#pragma unroll
        for (int i = 0; i < KEYS_AT_ONCE<As>; i++) {
            const int key = key_of(thread, step, i);
            const float score = sum_of_group(thread, [&](int other) { return all.of(other).parts[i]; });
            const float gradient =
                sum_of_group(thread, [&](int other) { return all.of(other).gradient_parts[i]; });
            own.p[i] = key < at.keys ? expf(score * n.scale - log_sum) : 0.0f;
            own.gradients[i] = gradient * kept_of(n, at, key);
        }
    }
}

constexpr int one_query_backward_floats() {
    return GROUPS * (2 * HEAD_COLUMNS + 1) + 2 * KEPT_KEYS;
}

// out0 the queries' gradient, out1 that of keys and values, where they are wanted. in0 to
// in3 as in `one_query`, in4 the context's gradient, in5 log-sum-exps.
template <class As>
BODY void one_query_backward_of(const Arrays &arrays, const OneQuery &n, int64_t row, float *shared) {
    constexpr int WIDTH = As::WIDTH;
    const auto queries = input<typename As::Vectors>(arrays, 0), douts = input<typename As::Vectors>(arrays, 4);
    const auto dmemory = output<typename As::Rows>(arrays, 1);
    const OneQueryPlace at = place_of(arrays, n, row);
    const float log_sum = floats(arrays, 5)[at.log_sum];
    const int size = (int)n.size;
    float *by_p = columns_of_groups(shared, 0), *by_both = columns_of_groups(shared, 1);
    float *p_of = columns_of_groups(shared, 2), *gradient_of = p_of + KEPT_KEYS;
    float *total_of = gradient_of + KEPT_KEYS;
    Own<Answering<As>> all;
    EACH_QUERY(thread) {
        Answering<As> &own = all.of(thread) = {};
        own.query = query_columns<WIDTH>(queries, at.query, size, thread);
        own.dout = query_columns<WIDTH>(douts, at.query, size, thread);
    }
    for (int step = 0; step < at.keys; step += KEY_STEP<As>) {
        look_at_keys<As>(arrays, n, at, log_sum, step, all);
        EACH_QUERY(thread) {
            Answering<As> &own = all.of(thread);
#pragma unroll
            for (int i = 0; i < KEYS_AT_ONCE<As>; i++) {
                const LaneNumbers key = numbers_of(own.keys[i]);
                const float product = own.p[i] * own.gradients[i];
                own.total += product;
                add_multiple(own.by_p, key, own.p[i]);
                add_multiple(own.by_both, key, product);
                if (step < KEPT_KEYS && thread % GROUP == 0) {
                    p_of[key_of(thread, step, i)] = own.p[i];
                    gradient_of[key_of(thread, step, i)] = own.gradients[i];
                }
            }
        }
    }
    EACH_QUERY(thread) {
        const Answering<As> &own = all.of(thread);
        keep_columns<WIDTH>(by_p, thread, own.by_p);
        keep_columns<WIDTH>(by_both, thread, own.by_both);
        if (thread % GROUP == 0)
            total_of[thread / GROUP] = own.total;
    }
    NEXT_PHASE();
    EACH_QUERY(thread) {
        float total = 0.0f;
        for (int group = 0; group < GROUPS; group++)
            total += total_of[group];
        all.of(thread).total = total;
        if (arrays.out[0] && thread < size) {
            float sum = 0.0f, sum_of_both = 0.0f;
            for (int group = 0; group < GROUPS; group++) {
                sum += by_p[group * HEAD_COLUMNS + thread];
                sum_of_both += by_both[group * HEAD_COLUMNS + thread];
            }
            put(output(arrays, 0), at.query + thread, (sum_of_both - total * sum) * n.scale);
        }
    }
    for (int step = 0; dmemory.at && step < at.keys; step += KEY_STEP<As>) {
        if (step >= KEPT_KEYS)
            look_at_keys<As>(arrays, n, at, log_sum, step, all);
        EACH_QUERY(thread) {
            const Answering<As> &own = all.of(thread);
#pragma unroll
            for (int i = 0; i < KEYS_AT_ONCE<As>; i++) {
                const int key = key_of(thread, step, i);
                const float p = step < KEPT_KEYS ? p_of[key] : own.p[i];
                const float gradient = step < KEPT_KEYS ? gradient_of[key] : own.gradients[i];
                const float kept = kept_of(n, at, key);
                if (key < at.keys) {
                    const int64_t place = key_at(at, key);
                    const float dscore = p * (gradient - own.total) * n.scale;
                    put_columns<WIDTH>(dmemory, place, size, thread, own.query, dscore);
                    put_columns<WIDTH>(dmemory, place + at.pitch / 2, size, thread, own.dout, p * kept);
                }
            }
        }
    }
}
#define ONE_QUERY_BACKWARD_ENTRY(NAME, NUMBERS, ROW)                                              \
    BLOCK_ENTRY(NAME, QUERY_THREADS, QUERY_BLOCKS, NUMBERS, one_query_backward_floats(), ROW)
BY_LAYOUT(ONE_QUERY_BACKWARD_ENTRY, one_query_backward, OneQuery, IN<1> | OUT<1>, IN<0> | IN<4> | OUT<0>,
          one_query_backward_floats() * sizeof(float), 1)
