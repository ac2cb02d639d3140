// Attention (attention.cuh) whose products are of numbers rounded to bf16, by tensor cores,
// and its gradients: scores and probabilities stay in registers (after Dao 2023).

#pragma once

#include "attention.cuh"
#include "fragments.cuh"

// The first row of a thread's warp in a tile.
BODY int top_of(int thread) {
    return thread / WARP * WARP_ROWS;
}

// The mask of a query.
BODY RowMask mask_of_query(const Attention &n, const Place &at, int query) {
    if (!n.has_mask)
        return {};
    return row_mask(mix(n.mask.base ^ (uint64_t)at.head), at.number, (uint32_t)query);
}

BODY float kept_of(const Attention &n, RowMask mask, int key) {
    return n.has_mask ? factor(n.mask, mask, (uint32_t)key) : 1.0f;
}

// Of a tile's first `there` keys, from `key` on, those that a thread's two queries see. They are
// counted before scores are visited, which leaves these in registers.
struct Seen {
    int keys[2];
};

template <bool BY_PLACE>
BODY Seen seen_of(const Attention &n, const Place &at, int thread, int key, int there) {
    Seen seen;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int row = top_of(thread) + row_of_part(lane_of(thread), 2 * i);
        seen.keys[i] = keys_seen<BY_PLACE>(n, at.first + row, key, there);
    }
    return seen;
}

// What a thread has of two queries.
template <int COLUMNS> struct Attending {
    Sums<COLUMNS> context;
    Sums<TILE> scores;
    Pairs<TILE> p;
    RowMask masks[2];
    // The largest score so far, and that of a tile; the sum of exponentials.
    float most[2], found[2], total[2];
};

template <int COLUMNS> constexpr int attention_halves_floats() {
    return 3 * HALF_TILE<COLUMNS> + BIASES;
}

// As `attention`.
template <int COLUMNS, bool BY_PLACE = false>
BODY void attention_halves_tile(const Arrays &arrays, const Attention &n, int64_t block, float *shared) {
    uint16_t *queries = (uint16_t *)shared, *keys = (uint16_t *)(shared + HALF_TILE<COLUMNS>);
    uint16_t *values = (uint16_t *)(shared + 2 * HALF_TILE<COLUMNS>);
    float *biases = shared + 3 * HALF_TILE<COLUMNS>;
    const Place at = place_of(arrays, n, block, false);
    const int size = (int)n.size, columns = (int)n.heads * size, pitch = (int)n.memory_pitch;
    const int all_keys = keys_seen<BY_PLACE>(n, at);
    const Numbers memory = input(arrays, 1);
    const Corner of_queries = {input(arrays, 0), query_at(n, at, at.first), (int)n.query_pitch};
    load_halves<COLUMNS>({{queries, of_queries, at.rows}}, size);
    Own<Attending<COLUMNS>> all;
    EACH_HALF(thread) {
        Attending<COLUMNS> &own = all.of(thread) = {};
#pragma unroll
        for (int i = 0; i < 2; i++) {
            own.most[i] = -INFINITY;
            const int row = top_of(thread) + row_of_part(lane_of(thread), 2 * i);
            own.masks[i] = mask_of_query(n, at, at.first + row);
        }
    }
    for (int key = 0; key < all_keys; key += TILE) {
        const int there = rows_from(all_keys, key);
        const int64_t place = key_at(n, at, key);
        NEXT_PHASE();
        load_halves<COLUMNS>(
            {{keys, {memory, place, pitch}, there}, {values, {memory, place + columns, pitch}, there}}, size);
        EACH_HALF(thread) {
            if (BY_PLACE)
                put_biases(biases, arrays, n, at.head, at.first, key, thread);
        }
        NEXT_PHASE();
        EACH_HALF(thread) {
            if (top_of(thread) < at.rows) {
                Attending<COLUMNS> &own = all.of(thread);
                own.scores = {};
                own.found[0] = own.found[1] = -INFINITY;
                add_across<COLUMNS>(own.scores, queries, keys, top_of(thread), there, lane_of(thread));
                const Seen seen = seen_of<BY_PLACE>(n, at, thread, key, there);
                each_sum(own.scores, lane_of(thread), [&](float &score, int i, int column) {
                    const int row = top_of(thread) + row_of_part(lane_of(thread), 2 * i);
                    const float all = score_of<BY_PLACE>(score, n, biases, row, column);
                    score = column < seen.keys[i] ? all : -INFINITY;
                    own.found[i] = fmaxf(own.found[i], score);
                });
            }
        }
        EACH_HALF(thread) {
            if (top_of(thread) < at.rows) {
                Attending<COLUMNS> &own = all.of(thread);
                float now[2], fade[2];
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const float found =
                        largest_of_row(thread, [&](int other) { return all.of(other).found[i]; });
                    now[i] = fmaxf(own.most[i], found);
                    fade[i] = fast_exponential(own.most[i] - now[i]);
                    own.total[i] *= fade[i];
                    own.most[i] = now[i];
                }
                each_sum(own.scores, lane_of(thread), [&](float &score, int i, int column) {
                    const float p = fast_exponential(score - now[i]);
                    own.total[i] += p;
                    score = p * kept_of(n, own.masks[i], key + column);
                });
                own.p = rounded(own.scores);
                each_sum(own.context, lane_of(thread), [&](float &sum, int i, int) { sum *= fade[i]; });
            }
        }
        EACH_HALF(thread) {
            if (top_of(thread) < at.rows) {
                const int warp = thread / WARP * WARP;
                const auto p = [&](int lane) -> const Pairs<TILE> & { return all.of(warp + lane).p; };
                add_product(all.of(thread).context, p, values, there, lane_of(thread));
            }
        }
    }
    const Numbers context = output(arrays, 0);
    const int64_t corner = context_at(n, at, at.first);
    float *log_sums = results(arrays, 1) + of_query(n, at, at.first);
    EACH_HALF(thread) {
        if (top_of(thread) < at.rows) {
            Attending<COLUMNS> &own = all.of(thread);
            float factors[2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const float total = sum_of_row(thread, [&](int other) { return all.of(other).total[i]; });
                factors[i] = 1.0f / total_of(total);
                const int row = top_of(thread) + row_of_part(lane_of(thread), 2 * i);
                if (row < at.rows && lane_of(thread) % 4 == 0)
                    log_sums[row] = logf(total) + own.most[i];
            }
            each_sum(own.context, lane_of(thread), [&](float &sum, int i, int) { sum *= factors[i]; });
            store_sums(context, corner, own.context, top_of(thread), columns, at.rows, size, lane_of(thread));
        }
    }
}
HALVES_KERNEL(attention, 32, 4, Attention)
HALVES_KERNEL(attention, 64, 4, Attention)
PLACED_HALVES_KERNEL(attention, 64, 4, Attention)
