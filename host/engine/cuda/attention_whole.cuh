// Attention (attention.cuh) of sequences whose queries and keys a block takes all at once, of
// numbers rounded to bf16: a warp has 16 queries and their scores of all keys in registers, so
// that nothing is brought twice and no score is made twice.

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
template <int ROWS, int COLUMNS> struct Whole {
    Sums<ROWS> scores;
    Pairs<ROWS> p;
    Sums<COLUMNS> context;
    RowMask masks[2];
    float most[2], total[2];
};

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
    Own<Whole<ROWS, COLUMNS>> all;
    EACH_OF(2 * ROWS, thread) {
        Whole<ROWS, COLUMNS> &own = all.of(thread) = {};
#pragma unroll
        for (int i = 0; i < 2; i++)
            own.masks[i] = mask_of_query(n, at, top_of(thread) + row_of_part(lane_of(thread), 2 * i));
    }
    NEXT_PHASE();
    EACH_OF(2 * ROWS, thread) {
        if (top_of(thread) < at.queries) {
            Whole<ROWS, COLUMNS> &own = all.of(thread);
            const int lane = lane_of(thread);
            add_across<COLUMNS>(own.scores, queries, keys, top_of(thread), at.keys, lane);
            own.most[0] = own.most[1] = -INFINITY;
            each_sum(own.scores, lane, [&](float &score, int i, int column) {
                score = column < at.keys ? score : -INFINITY;
                own.most[i] = fmaxf(own.most[i], score);
            });
        }
    }
    EACH_OF(2 * ROWS, thread) {
        if (top_of(thread) < at.queries) {
            Whole<ROWS, COLUMNS> &own = all.of(thread);
            float most[2], least[2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                most[i] = largest_of_row(thread, [&](int other) { return all.of(other).most[i]; });
                least[i] = most[i] == -INFINITY ? 0.0f : most[i] * scale;
            }
            each_sum(own.scores, lane_of(thread), [&](float &score, int i, int column) {
                const float p = fast_power_of_two(fmaf(score, scale, -least[i]));
                own.total[i] += p;
                score = keeps(n, own.masks[i], column) ? p : 0.0f;
            });
            own.p = rounded(own.scores);
        }
    }
    EACH_OF(2 * ROWS, thread) {
        if (top_of(thread) < at.queries) {
            const int warp = thread / WARP * WARP;
            const auto p = [&](int lane) -> const Pairs<ROWS> & { return all.of(warp + lane).p; };
            add_product<COLUMNS, ROWS>(all.of(thread).context, p, values, at.keys, lane_of(thread));
        }
    }
    float *log_sums = results(arrays, 1) + of_query(n, at, 0);
    EACH_OF(2 * ROWS, thread) {
        if (top_of(thread) < at.queries) {
            Whole<ROWS, COLUMNS> &own = all.of(thread);
            const int lane = lane_of(thread);
            float factors[2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const float most = largest_of_row(thread, [&](int other) { return all.of(other).most[i]; });
                const float total = sum_of_row(thread, [&](int other) { return all.of(other).total[i]; });
                const int row = top_of(thread) + row_of_part(lane, 2 * i);
                if (row < at.queries && lane % 4 == 0)
                    log_sums[row] = logf(total) + most * n.scale;
                factors[i] = scale_of_kept(n) / total_of(total);
            }
            each_sum(own.context, lane, [&](float &sum, int i, int) { sum *= factors[i]; });
            store_sums(output(arrays, 0), context_at(n, at, 0), own.context, top_of(thread), columns, at.queries, size,
                       lane);
        }
    }
}
WHOLE_KERNELS(attention_whole, 512)
