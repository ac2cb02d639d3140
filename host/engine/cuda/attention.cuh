// Attention within the sequences of a packed batch, which are not padded (after Dao et
// al. 2022 and Dao 2023): a block takes 64 queries, or 64 keys, of a head of one sequence
// and goes over the tiles of the others. Probabilities are in no array; the backward
// pass computes them again from the scores' log-sum-exp. What a block writes no other one
// does, so that the same sums come out each time.
//
// Heads have at most 64 columns. All is computed in fp32.

#pragma once

#include "dropout.cuh"
#include "tiles.cuh"

struct Attention {
    // Blocks: tiles by heads.
    int64_t rows;
    // Columns of a head, and rows of the batch.
    int64_t heads, size, tokens;
    Mask mask;
    float scale;
    int32_t has_mask;
};

// What a block works on: 64 rows of a sequence, or those that are left of it, in a head.
struct Place {
    // The sequence's first row, its rows, and the place that its masks are drawn for.
    int64_t start;
    int64_t length;
    uint32_t number;
    // The first row of the tile in the sequence, and its rows.
    int64_t first, rows;
    int64_t head;
};

// in1 [tiles, 2] the sequence and the first row of each tile, in2 starts, in3 places.
BODY Place place_of(const Arrays &arrays, const Attention &n, int64_t block) {
    const uint32_t *tile = integers(arrays, 1) + block / n.heads * 2;
    const uint32_t *starts = integers(arrays, 2) + tile[0];
    Place at;
    at.start = starts[0];
    at.length = starts[1] - starts[0];
    at.number = integers(arrays, 3)[tile[0]];
    at.first = tile[1];
    at.rows = at.length - at.first < TILE ? at.length - at.first : TILE;
    at.head = block % n.heads;
    return at;
}

// The masks of the queries of a tile, in shared memory.
BODY void masks_of(uint32_t *masks, const Attention &n, const Place &at, int64_t first) {
    EACH_THREAD(thread) {
        if (n.has_mask && thread < TILE) {
            const uint64_t base = mix(n.mask.base ^ (uint64_t)at.head);
            const RowMask mask = row_mask(base, at.number, (uint32_t)(first + thread));
            masks[2 * thread] = mask.low;
            masks[2 * thread + 1] = mask.high;
        }
    }
}

BODY float factor_of(const uint32_t *masks, const Attention &n, int row, int64_t key) {
    return n.has_mask ? factor(n.mask, {masks[2 * row], masks[2 * row + 1]}, (uint32_t)key) : 1.0f;
}

template <int COLUMNS> constexpr int attention_floats() {
    return 2 * TILE * WIDTH<COLUMNS> + TILE * PITCH + 2 * TILE * PARTS + 3 * TILE + 2 * TILE;
}

// out0 [tokens, heads * size] the context, out1 [heads, tokens] the scores' log-sum-exp.
// in0 [tokens, 3 * heads * size] queries, keys and values; in1 to in3 see place_of.
template <int COLUMNS>
BODY void attention_tile(const Arrays &arrays, const Attention &n, int64_t block, float *shared) {
    float *queries = shared, *others = queries + TILE * WIDTH<COLUMNS>;
    float *p = others + TILE * WIDTH<COLUMNS>;
    float *parts_most = p + TILE * PITCH, *parts_sum = parts_most + TILE * PARTS;
    float *most = parts_sum + TILE * PARTS, *total = most + TILE, *fade = total + TILE;
    uint32_t *masks = (uint32_t *)(fade + TILE);
    const Place at = place_of(arrays, n, block);
    const int64_t columns = n.heads * n.size, pitch = 3 * columns;
    const float *qkv = floats(arrays, 0) + at.start * pitch + at.head * n.size;
    load<COLUMNS>(queries, qkv + at.first * pitch, pitch, at.rows, n.size);
    masks_of(masks, n, at, at.first);
    Own<SHARE * COLUMNS / SIDE> sums;
    EACH_THREAD(thread) {
        float *own = sums.of(thread);
#pragma unroll
        for (int place = 0; place < SHARE * COLUMNS / SIDE; place++)
            own[place] = 0.0f;
        if (thread < TILE) {
            most[thread] = -INFINITY;
            total[thread] = 0.0f;
        }
    }
    for (int64_t key = 0; key < at.length; key += TILE) {
        const int64_t keys = at.length - key < TILE ? at.length - key : TILE;
        const float *memory = qkv + columns + key * pitch;
        NEXT_PHASE();
        load<COLUMNS>(others, memory, pitch, keys, n.size);
        NEXT_PHASE();
        EACH_THREAD(thread) {
            float scores[SHARE][SHARE];
            product<COLUMNS>(scores, queries, others, thread);
#pragma unroll
            for (int i = 0; i < SHARE; i++)
#pragma unroll
                for (int j = 0; j < SHARE; j++) {
                    const int row = own_row(thread) + SIDE * i, column = own_column(thread) + SIDE * j;
                    p[row * PITCH + column] = column < keys ? scores[i][j] * n.scale : -INFINITY;
                }
        }
        NEXT_PHASE();
        load<COLUMNS>(others, memory + columns, pitch, keys, n.size);
        EACH_THREAD(thread) {
            const float *scores = p + thread / PARTS * PITCH;
            float found = -INFINITY;
            for (int column = thread % PARTS; column < TILE; column += PARTS)
                found = fmaxf(found, scores[column]);
            parts_most[thread] = found;
        }
        NEXT_PHASE();
        EACH_THREAD(thread) {
            const int row = thread / PARTS;
            float now = most[row];
            for (int part = 0; part < PARTS; part++)
                now = fmaxf(now, parts_most[row * PARTS + part]);
            float sum = 0.0f;
            for (int column = thread % PARTS; column < TILE; column += PARTS) {
                float *score = p + row * PITCH + column;
                const float exponential = expf(*score - now);
                sum += exponential;
                *score = exponential * factor_of(masks, n, row, key + column);
            }
            parts_sum[thread] = sum;
        }
        NEXT_PHASE();
        EACH_THREAD(thread) {
            if (thread < TILE) {
                float now = most[thread], sum = 0.0f;
                for (int part = 0; part < PARTS; part++) {
                    now = fmaxf(now, parts_most[thread * PARTS + part]);
                    sum += parts_sum[thread * PARTS + part];
                }
                fade[thread] = expf(most[thread] - now);
                total[thread] = total[thread] * fade[thread] + sum;
                most[thread] = now;
            }
        }
        NEXT_PHASE();
        EACH_THREAD(thread) {
            float *own = sums.of(thread);
#pragma unroll
            for (int i = 0; i < SHARE; i++)
#pragma unroll
                for (int j = 0; j < COLUMNS / SIDE; j++)
                    own[i * (COLUMNS / SIDE) + j] *= fade[own_row(thread) + SIDE * i];
            add_product<COLUMNS, false>(own, p, others, (int)keys, thread);
        }
    }
    float *context = arrays.out[0] + (at.start + at.first) * columns + at.head * n.size;
    float *log_sums = arrays.out[1] + at.head * n.tokens + at.start + at.first;
    EACH_THREAD(thread) {
        float *own = sums.of(thread);
#pragma unroll
        for (int i = 0; i < SHARE; i++)
#pragma unroll
            for (int j = 0; j < COLUMNS / SIDE; j++)
                own[i * (COLUMNS / SIDE) + j] /= total[own_row(thread) + SIDE * i];
        store<COLUMNS>(context, own, columns, at.rows, n.size, thread);
        if (thread < at.rows)
            log_sums[thread] = logf(total[thread]) + most[thread];
    }
}
TILE_KERNEL(attention, 32, Attention)
TILE_KERNEL(attention, 64, Attention)

// ---- The gradients.

// Tiles of queries, the context's gradient, keys and values; two products; a tile's
// log-sum-exps, inner products and masks.
template <int COLUMNS> constexpr int gradient_floats() {
    return 4 * TILE * WIDTH<COLUMNS> + 2 * TILE * PITCH + 2 * TILE + 2 * TILE;
}

// What a thread has of the probabilities of a tile of queries and one of keys, and of the
// gradients of these: p = exp(score - log-sum-exp), 0 where there is no query or no key;
// dp that of p behind its dropout, whose factors it is multiplied by.
struct Shares {
    float p[SHARE][SHARE], dp[SHARE][SHARE];
};

template <int COLUMNS>
BODY Shares shares_of(const Attention &n, const float *queries, const float *keys, const float *gradients,
                      const float *values, const float *log_sums, int64_t rows, int64_t columns, int thread) {
    Shares out;
    product<COLUMNS>(out.p, queries, keys, thread);
    product<COLUMNS>(out.dp, gradients, values, thread);
#pragma unroll
    for (int i = 0; i < SHARE; i++)
#pragma unroll
        for (int j = 0; j < SHARE; j++) {
            const int row = own_row(thread) + SIDE * i, column = own_column(thread) + SIDE * j;
            const bool there = row < rows && column < columns;
            out.p[i][j] = there ? expf(out.p[i][j] * n.scale - log_sums[row]) : 0.0f;
        }
    return out;
}

template <int COLUMNS> constexpr int attention_queries_floats() {
    return gradient_floats<COLUMNS>() + TILE * PARTS;
}

// out0 [tokens, heads * size] the queries' gradient, out1 [heads, tokens] the sums of p dp
// over keys. in0 to in3 as in `attention`, in4 the context's gradient, in5 log-sum-exps.
//
// The gradient of a score is p (dp - sum of p dp), of which the sum is known at the end:
// so sums of p dp k and of p k are kept apart until then.
template <int COLUMNS>
BODY void attention_queries_tile(const Arrays &arrays, const Attention &n, int64_t block, float *shared) {
    float *queries = shared, *gradients = queries + TILE * WIDTH<COLUMNS>;
    float *keys = gradients + TILE * WIDTH<COLUMNS>, *values = keys + TILE * WIDTH<COLUMNS>;
    float *p = values + TILE * WIDTH<COLUMNS>, *weighted = p + TILE * PITCH;
    float *log_sums = weighted + TILE * PITCH, *inner = log_sums + TILE;
    uint32_t *masks = (uint32_t *)(inner + TILE);
    float *parts = inner + 3 * TILE;
    const Place at = place_of(arrays, n, block);
    const int64_t columns = n.heads * n.size, pitch = 3 * columns;
    const float *qkv = floats(arrays, 0) + at.start * pitch + at.head * n.size;
    const int64_t corner = (at.start + at.first) * columns + at.head * n.size;
    const int64_t row_place = at.head * n.tokens + at.start + at.first;
    load<COLUMNS>(queries, qkv + at.first * pitch, pitch, at.rows, n.size);
    load<COLUMNS>(gradients, floats(arrays, 4) + corner, columns, at.rows, n.size);
    masks_of(masks, n, at, at.first);
    Own<SHARE * COLUMNS / SIDE> plain, mixed;
    EACH_THREAD(thread) {
#pragma unroll
        for (int place = 0; place < SHARE * COLUMNS / SIDE; place++)
            plain.of(thread)[place] = mixed.of(thread)[place] = 0.0f;
        parts[thread] = 0.0f;
        if (thread < TILE)
            log_sums[thread] = thread < at.rows ? floats(arrays, 5)[row_place + thread] : 0.0f;
    }
    for (int64_t key = 0; key < at.length; key += TILE) {
        const int64_t there = at.length - key < TILE ? at.length - key : TILE;
        const float *memory = qkv + columns + key * pitch;
        NEXT_PHASE();
        load<COLUMNS>(keys, memory, pitch, there, n.size);
        load<COLUMNS>(values, memory + columns, pitch, there, n.size);
        NEXT_PHASE();
        EACH_THREAD(thread) {
            const Shares own =
                shares_of<COLUMNS>(n, queries, keys, gradients, values, log_sums, at.rows, there, thread);
#pragma unroll
            for (int i = 0; i < SHARE; i++)
#pragma unroll
                for (int j = 0; j < SHARE; j++) {
                    const int row = own_row(thread) + SIDE * i, column = own_column(thread) + SIDE * j;
                    const float dp = own.dp[i][j] * factor_of(masks, n, row, key + column);
                    p[row * PITCH + column] = own.p[i][j];
                    weighted[row * PITCH + column] = own.p[i][j] * dp;
                }
        }
        NEXT_PHASE();
        EACH_THREAD(thread) {
            for (int column = thread % PARTS; column < TILE; column += PARTS)
                parts[thread] += weighted[thread / PARTS * PITCH + column];
            add_product<COLUMNS, false>(plain.of(thread), p, keys, (int)there, thread);
            add_product<COLUMNS, false>(mixed.of(thread), weighted, keys, (int)there, thread);
        }
    }
    NEXT_PHASE();
    EACH_THREAD(thread) {
        if (thread < TILE) {
            float sum = 0.0f;
            for (int part = 0; part < PARTS; part++)
                sum += parts[thread * PARTS + part];
            inner[thread] = sum;
            if (thread < at.rows)
                arrays.out[1][row_place + thread] = sum;
        }
    }
    NEXT_PHASE();
    EACH_THREAD(thread) {
        float *own = mixed.of(thread);
        const float *rest = plain.of(thread);
#pragma unroll
        for (int i = 0; i < SHARE; i++)
#pragma unroll
            for (int j = 0; j < COLUMNS / SIDE; j++) {
                const int place = i * (COLUMNS / SIDE) + j;
                own[place] = (own[place] - inner[own_row(thread) + SIDE * i] * rest[place]) * n.scale;
            }
        store<COLUMNS>(arrays.out[0] + corner, own, columns, at.rows, n.size, thread);
    }
}
TILE_KERNEL(attention_queries, 32, Attention)
TILE_KERNEL(attention_queries, 64, Attention)

template <int COLUMNS> constexpr int attention_keys_floats() {
    return gradient_floats<COLUMNS>();
}

// out0 [tokens, 3 * heads * size] the gradient of queries, keys and values, the first from
// in7. in0 to in5 as in `attention_queries`, in6 the sums of p dp that it gives.
template <int COLUMNS>
BODY void attention_keys_tile(const Arrays &arrays, const Attention &n, int64_t block, float *shared) {
    float *queries = shared, *gradients = queries + TILE * WIDTH<COLUMNS>;
    float *keys = gradients + TILE * WIDTH<COLUMNS>, *values = keys + TILE * WIDTH<COLUMNS>;
    float *p = values + TILE * WIDTH<COLUMNS>, *scores = p + TILE * PITCH;
    float *log_sums = scores + TILE * PITCH, *inner = log_sums + TILE;
    uint32_t *masks = (uint32_t *)(inner + TILE);
    const Place at = place_of(arrays, n, block);
    const int64_t columns = n.heads * n.size, pitch = 3 * columns;
    const float *qkv = floats(arrays, 0) + at.start * pitch + at.head * n.size;
    const float *memory = qkv + columns + at.first * pitch;
    load<COLUMNS>(keys, memory, pitch, at.rows, n.size);
    load<COLUMNS>(values, memory + columns, pitch, at.rows, n.size);
    Own<SHARE * COLUMNS / SIDE> of_keys, of_values;
    EACH_THREAD(thread) {
#pragma unroll
        for (int place = 0; place < SHARE * COLUMNS / SIDE; place++)
            of_keys.of(thread)[place] = of_values.of(thread)[place] = 0.0f;
    }
    for (int64_t query = 0; query < at.length; query += TILE) {
        const int64_t there = at.length - query < TILE ? at.length - query : TILE;
        const int64_t row_place = at.head * n.tokens + at.start + query;
        const float *dout = floats(arrays, 4) + (at.start + query) * columns + at.head * n.size;
        NEXT_PHASE();
        load<COLUMNS>(queries, qkv + query * pitch, pitch, there, n.size);
        load<COLUMNS>(gradients, dout, columns, there, n.size);
        masks_of(masks, n, at, query);
        EACH_THREAD(thread) {
            if (thread < TILE) {
                log_sums[thread] = thread < there ? floats(arrays, 5)[row_place + thread] : 0.0f;
                inner[thread] = thread < there ? floats(arrays, 6)[row_place + thread] : 0.0f;
            }
        }
        NEXT_PHASE();
        EACH_THREAD(thread) {
            const Shares own =
                shares_of<COLUMNS>(n, queries, keys, gradients, values, log_sums, there, at.rows, thread);
#pragma unroll
            for (int i = 0; i < SHARE; i++)
#pragma unroll
                for (int j = 0; j < SHARE; j++) {
                    const int row = own_row(thread) + SIDE * i, column = own_column(thread) + SIDE * j;
                    const float kept = factor_of(masks, n, row, at.first + column);
                    p[row * PITCH + column] = own.p[i][j] * kept;
                    scores[row * PITCH + column] = own.p[i][j] * (own.dp[i][j] * kept - inner[row]) * n.scale;
                }
        }
        NEXT_PHASE();
        EACH_THREAD(thread) {
            add_product<COLUMNS, true>(of_keys.of(thread), scores, queries, (int)there, thread);
            add_product<COLUMNS, true>(of_values.of(thread), p, gradients, (int)there, thread);
        }
    }
    const int64_t corner = (at.start + at.first) * columns + at.head * n.size;
    float *out = arrays.out[0] + (at.start + at.first) * pitch + at.head * n.size;
    EACH_THREAD(thread) {
        for (int64_t place = thread; place < at.rows * n.size; place += THREADS) {
            const int64_t row = place / n.size, column = place % n.size;
            out[row * pitch + column] = floats(arrays, 7)[corner + row * columns + column];
        }
        store<COLUMNS>(out + columns, of_keys.of(thread), pitch, at.rows, n.size, thread);
        store<COLUMNS>(out + 2 * columns, of_values.of(thread), pitch, at.rows, n.size, thread);
    }
}
TILE_KERNEL(attention_keys, 32, Attention)
TILE_KERNEL(attention_keys, 64, Attention)
