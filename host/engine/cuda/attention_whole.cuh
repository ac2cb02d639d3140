// Attention (attention.cuh) of sequences whose queries and keys a block takes all at once, of
// numbers rounded to bf16: nothing is brought to shared memory twice. Scores are made twice, for
// the largest of them first; they would take more registers than leave room for enough warps. What
// is done for each 16 keys is a loop, not one long text, which would be brought to the
// multiprocessors again for each block.

#pragma once

#include "attention_halves.cuh"

// Numbers of a tile of so many rows, and floats that it takes.
template <int ROWS, int COLUMNS> constexpr int WHOLE_TILE = ROWS * HALF_WIDTH<COLUMNS>;
template <int ROWS, int COLUMNS> constexpr int WHOLE_FLOATS = WHOLE_TILE<ROWS, COLUMNS> / 2;

// A kernel for sequences of so many rows at most and heads of so many columns, with four threads for
// each two rows; of a multiprocessor, so many threads are to run at once.
#define WHOLE_KERNEL(NAME, ROWS, COLUMNS, AT_ONCE)                                                \
    BLOCK_KERNEL(NAME##_##ROWS##_##COLUMNS, 2 * ROWS, AT_ONCE / (2 * ROWS), Attention,            \
                 (NAME##_floats<ROWS, COLUMNS>()), NAME##_tile<ROWS, COLUMNS>)

#define WHOLE_KERNELS(NAME, AT_ONCE)                                                              \
    WHOLE_KERNEL(NAME, 64, 32, AT_ONCE)                                                           \
    WHOLE_KERNEL(NAME, 64, 64, AT_ONCE)                                                           \
    WHOLE_KERNEL(NAME, 128, 32, AT_ONCE)                                                          \
    WHOLE_KERNEL(NAME, 128, 64, AT_ONCE)

// A head of a sequence. in3 starts of queries and in4 of keys, in5 places.
BODY Place whole_place_of(const Arrays &arrays, const Attention &n, int64_t block) {
    const uint32_t sequence = (uint32_t)block / (uint32_t)n.heads;
    const uint32_t *queries = integers(arrays, 3) + sequence, *keys = integers(arrays, 4) + sequence;
    Place at;
    at.query_start = (int)queries[0];
    at.key_start = (int)keys[0];
    at.queries = (int)(queries[1] - queries[0]);
    at.keys = (int)(keys[1] - keys[0]);
    at.number = integers(arrays, 5)[sequence];
    at.first = 0;
    at.rows = at.queries;
    at.head = (int)((uint32_t)block % (uint32_t)n.heads);
    return at;
}

const float LOG2_E = 1.44269504f;

// Whether a dropout keeps a key, and what is kept is multiplied by.
BODY bool keeps(const Attention &n, RowMask mask, int key) {
    return !n.has_mask || keeps(n.mask, mask, (uint32_t)key);
}

BODY float scale_of_kept(const Attention &n) {
    return n.has_mask ? n.mask.scale : 1.0f;
}

// What a thread has of two queries.
template <int COLUMNS> struct Whole {
    Lefts<COLUMNS> queries;
    Left p;
    Sums<COLUMNS> context;
    RowMask masks[2];
    // The lane's largest score, that of the row, and the lane's part of the sum of exponentials.
    float found[2], most[2], total[2];
};

// A thread's scores of 16 keys from a first one on, but for their scale; none where there is no key.
template <int COLUMNS>
BODY Sums<16> scores_of(const uint16_t *keys, Own<Whole<COLUMNS>> &all, const Place &at, int thread, int first) {
    Sums<16> scores;
    const auto rows = [&](int lane) -> const Lefts<COLUMNS> & { return all.of(thread / WARP * WARP + lane).queries; };
    add_across<COLUMNS>(scores, rows, keys + first * HALF_WIDTH<COLUMNS>, lane_of(thread));
    each_sum(scores, lane_of(thread),
             [&](float &score, int, int column) { score = first + column < at.keys ? score : -INFINITY; });
    return scores;
}

template <int ROWS, int COLUMNS> constexpr int attention_whole_floats() {
    return 3 * WHOLE_FLOATS<ROWS, COLUMNS>;
}

// As `attention`, of a whole head of a sequence.
template <int ROWS, int COLUMNS>
BODY void attention_whole_tile(const Arrays &arrays, const Attention &n, int64_t block, float *shared) {
    uint16_t *queries = (uint16_t *)shared, *keys = queries + WHOLE_TILE<ROWS, COLUMNS>;
    uint16_t *values = keys + WHOLE_TILE<ROWS, COLUMNS>;
    const Place at = whole_place_of(arrays, n, block);
    const int size = (int)n.size, columns = (int)n.heads * size, pitch = (int)n.memory_pitch;
    const Numbers memory = input(arrays, 1);
    const int64_t place = key_at(n, at, 0);
    const float scale = n.scale * LOG2_E;
    load_halves<COLUMNS, ROWS>({{queries, {input(arrays, 0), query_at(n, at, 0), (int)n.query_pitch}, at.queries},
                                {keys, {memory, place, pitch}, at.keys},
                                {values, {memory, place + columns, pitch}, at.keys}},
                               size);
    Own<Whole<COLUMNS>> all;
    EACH_OF(2 * ROWS, thread) {
        Whole<COLUMNS> &own = all.of(thread) = {};
#pragma unroll
        for (int i = 0; i < 2; i++) {
            own.masks[i] = mask_of_query(n, at, top_of(thread) + row_of_part(lane_of(thread), 2 * i));
            own.found[i] = -INFINITY;
        }
    }
    NEXT_PHASE();
    EACH_OF(2 * ROWS, thread) all.of(thread).queries = lefts_of<COLUMNS>(queries, top_of(thread), lane_of(thread));
    EACH_OF(2 * ROWS, thread) {
        if (top_of(thread) < at.queries) {
            Whole<COLUMNS> &own = all.of(thread);
#pragma unroll 1
            for (int first = 0; first < at.keys; first += 16) {
                Sums<16> scores = scores_of(keys, all, at, thread, first);
                each_sum(scores, lane_of(thread),
                         [&](float &score, int i, int) { own.found[i] = fmaxf(own.found[i], score); });
            }
        }
    }
    float *log_sums = results(arrays, 1) + of_query(n, at, 0);
    EACH_OF(2 * ROWS, thread) {
#pragma unroll
        for (int i = 0; i < 2; i++)
            all.of(thread).most[i] = largest_of_row(thread, [&](int other) { return all.of(other).found[i]; });
    }
#pragma unroll 1
    for (int first = 0; first < at.keys; first += 16) {
        EACH_OF(2 * ROWS, thread) {
            if (top_of(thread) < at.queries) {
                Whole<COLUMNS> &own = all.of(thread);
                Sums<16> scores = scores_of(keys, all, at, thread, first);
                each_sum(scores, lane_of(thread), [&](float &score, int i, int column) {
                    const float p = fast_power_of_two((score - own.most[i]) * scale);
                    own.total[i] += p;
                    score = keeps(n, own.masks[i], first + column) ? p : 0.0f;
                });
                own.p = left_of(rounded(scores), 0);
            }
        }
        EACH_OF(2 * ROWS, thread) {
            if (top_of(thread) < at.queries) {
                const int warp = thread / WARP * WARP;
                add_rows_of(
                    all.of(thread).context, [&](int lane) { return all.of(warp + lane).p; }, values, first,
                    lane_of(thread));
            }
        }
    }
    EACH_OF(2 * ROWS, thread) {
        if (top_of(thread) < at.queries) {
            Whole<COLUMNS> &own = all.of(thread);
            const int lane = lane_of(thread);
            float factors[2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const float total = sum_of_row(thread, [&](int other) { return all.of(other).total[i]; });
                const int row = top_of(thread) + row_of_part(lane, 2 * i);
                if (row < at.queries && lane % 4 == 0)
                    log_sums[row] = logf(total) + own.most[i] * n.scale;
                factors[i] = scale_of_kept(n) / total_of(total);
            }
            each_sum(own.context, lane, [&](float &sum, int i, int) { sum *= factors[i]; });
            store_sums(output(arrays, 0), context_at(n, at, 0), own.context, top_of(thread), columns, at.queries, size,
                       lane);
        }
    }
}
WHOLE_KERNELS(attention_whole, 768)
