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
    return 3 * HALF_TILE<COLUMNS>;
}

// As `attention`.
template <int COLUMNS>
BODY void attention_halves_tile(const Arrays &arrays, const Attention &n, int64_t block, float *shared) {
    uint16_t *queries = (uint16_t *)shared, *keys = (uint16_t *)(shared + HALF_TILE<COLUMNS>);
    uint16_t *values = (uint16_t *)(shared + 2 * HALF_TILE<COLUMNS>);
    const Place at = place_of(arrays, n, block);
    const int size = (int)n.size, columns = (int)n.heads * size, pitch = 3 * columns;
    const Numbers qkv = input(arrays, 0);
    const int64_t first = at.start * pitch + at.head * size;
    load_halves<COLUMNS>(queries, qkv, first + (int64_t)at.first * pitch, pitch, at.rows, size);
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
    for (int key = 0; key < at.length; key += TILE) {
        const int there = rows_from(at.length, key);
        const int64_t memory = first + columns + (int64_t)key * pitch;
        NEXT_PHASE();
        load_halves<COLUMNS>(keys, qkv, memory, pitch, there, size);
        load_halves<COLUMNS>(values, qkv, memory + columns, pitch, there, size);
        NEXT_PHASE();
        EACH_HALF(thread) {
            if (top_of(thread) < at.rows) {
                Attending<COLUMNS> &own = all.of(thread);
                own.scores = {};
                own.found[0] = own.found[1] = -INFINITY;
                add_across<COLUMNS>(own.scores, queries, keys, top_of(thread), there, lane_of(thread));
                each_sum(own.scores, lane_of(thread), [&](float &score, int i, int column) {
                    score = column < there ? score * n.scale : -INFINITY;
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
    const int64_t corner = (at.start + at.first) * columns + at.head * size;
    float *log_sums = results(arrays, 1) + at.head * n.tokens + at.start + at.first;
    EACH_HALF(thread) {
        if (top_of(thread) < at.rows) {
            Attending<COLUMNS> &own = all.of(thread);
            float total[2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                total[i] = sum_of_row(thread, [&](int other) { return all.of(other).total[i]; });
                const int row = top_of(thread) + row_of_part(lane_of(thread), 2 * i);
                if (row < at.rows && lane_of(thread) % 4 == 0)
                    log_sums[row] = logf(total[i]) + own.most[i];
            }
            each_sum(own.context, lane_of(thread), [&](float &sum, int i, int) { sum /= total[i]; });
            store_sums(context, corner, own.context, top_of(thread), columns, at.rows, size, lane_of(thread));
        }
    }
}
HALVES_KERNEL(attention, 32, 4, Attention)
HALVES_KERNEL(attention, 64, 4, Attention)
