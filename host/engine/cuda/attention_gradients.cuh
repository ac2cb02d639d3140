// The gradients of attention (attention.cuh): one kernel for queries, and one for keys and
// values.

#pragma once

#include "attention.cuh"

// Tiles of queries, the context's gradient, keys and values; two products; a tile's
// log-sum-exps, inner products and masks.
template <int COLUMNS> constexpr int gradient_floats() {
    return 4 * TILE * WIDTH<COLUMNS> + 2 * TILE * PITCH + 2 * TILE + 2 * TILE;
}

// A probability, exp(score - log-sum-exp); 0 where there is no query or no key.
template <class Products> BODY float probability(float score, float log_sum, bool there) {
    const float exponential = Products::exponential(score - log_sum);
    return there ? exponential : 0.0f;
}

template <int COLUMNS> constexpr int attention_queries_floats() {
    return gradient_floats<COLUMNS>() + TILE * PARTS;
}

// out0 [tokens, 3 * heads * size] gets the queries' gradient, out1 [heads, tokens] the sums of
// p dp over keys, where p are the probabilities and dp their gradients behind dropout. in0 to
// in3 as in `attention`, in4 the context's gradient, in5 log-sum-exps.
//
// The gradient of a score is p (dp - sum of p dp), of which the sum is known at the end:
// so sums of p dp k and of p k are kept apart until then.
template <class Products, int COLUMNS>
BODY void attention_queries_tile(const Arrays &arrays, const Attention &n, int64_t block, float *shared) {
    float *queries = shared, *gradients = queries + TILE * WIDTH<COLUMNS>;
    float *keys = gradients + TILE * WIDTH<COLUMNS>, *values = keys + TILE * WIDTH<COLUMNS>;
    float *p = values + TILE * WIDTH<COLUMNS>, *weighted = p + TILE * PITCH;
    float *log_sums = weighted + TILE * PITCH, *inner = log_sums + TILE;
    uint32_t *masks = (uint32_t *)(inner + TILE);
    float *parts = inner + 3 * TILE;
    const Place at = place_of(arrays, n, block);
    const int size = (int)n.size, columns = (int)n.heads * size, pitch = 3 * columns;
    const Numbers qkv = input(arrays, 0), dout = input(arrays, 4);
    const int64_t first = at.start * pitch + at.head * size;
    const int64_t corner = (at.start + at.first) * columns + at.head * size;
    const int64_t row_place = at.head * n.tokens + at.start + at.first;
    load<Products, COLUMNS>(queries, qkv, first + (int64_t)at.first * pitch, pitch, at.rows, size);
    load<Products, COLUMNS>(gradients, dout, corner, columns, at.rows, size);
    masks_of(masks, n, at, at.first);
    Own<Share<COLUMNS>> plain, mixed;
    EACH_THREAD(thread) {
        parts[thread] = 0.0f;
        if (thread < TILE)
            log_sums[thread] = thread < at.rows ? floats(arrays, 5)[row_place + thread] : 0.0f;
    }
    for (int key = 0; key < at.length; key += TILE) {
        const int there = rows_from(at.length, key);
        const int64_t memory = first + columns + (int64_t)key * pitch;
        NEXT_PHASE();
        load<Products, COLUMNS>(keys, qkv, memory, pitch, there, size);
        load<Products, COLUMNS>(values, qkv, memory + columns, pitch, there, size);
        NEXT_PHASE();
        EACH_THREAD(thread) {
            Share<TILE> own = product<Products, COLUMNS>(queries, keys, thread);
            Share<TILE> dp = product<Products, COLUMNS>(gradients, values, thread);
            each<TILE>(thread, [&](int i, int j, int row, int column) {
                const bool both = row < at.rows && column < there;
                const float probable = probability<Products>(own.x[i][j] * n.scale, log_sums[row], both);
                const float kept = factor_of(masks, n, row, key + column);
                own.x[i][j] = Products::held(probable);
                dp.x[i][j] = Products::held(probable * (dp.x[i][j] * kept));
            });
            keep(p, own, thread);
            keep(weighted, dp, thread);
        }
        NEXT_PHASE();
        EACH_THREAD(thread) {
            const Part own = part_of(weighted, thread);
            float sum = parts[thread];
#pragma unroll
            for (int k = 0; k < TILE / PARTS; k++)
                sum += own.x[k];
            parts[thread] = sum;
            Share<COLUMNS> *const sums[] = {&plain.of(thread), &mixed.of(thread)};
            add_products<Products, COLUMNS, 2>(sums, {p, weighted}, keys, there, thread);
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
                results(arrays, 1)[row_place + thread] = sum;
        }
    }
    NEXT_PHASE();
    EACH_THREAD(thread) {
        Share<COLUMNS> &own = mixed.of(thread);
        const Share<COLUMNS> &rest = plain.of(thread);
        each<COLUMNS>(thread, [&](int i, int j, int row, int) {
            own.x[i][j] = (own.x[i][j] - inner[row] * rest.x[i][j]) * n.scale;
        });
        store<COLUMNS>(output(arrays, 0), first + (int64_t)at.first * pitch, own, pitch, at.rows, size, thread);
    }
}
TILE_KERNEL(attention_queries, 32, 2, Attention)
TILE_KERNEL(attention_queries, 64, 2, Attention)

template <int COLUMNS> constexpr int attention_keys_floats() {
    return gradient_floats<COLUMNS>();
}

// out0 [tokens, 3 * heads * size] gets the gradients of keys and values. in0 to in5 as in
// `attention_queries`, in6 the sums of p dp that it gives.
//
// A row of the products is a key here, and a column a query.
template <class Products, int COLUMNS>
BODY void attention_keys_tile(const Arrays &arrays, const Attention &n, int64_t block, float *shared) {
    float *queries = shared, *gradients = queries + TILE * WIDTH<COLUMNS>;
    float *keys = gradients + TILE * WIDTH<COLUMNS>, *values = keys + TILE * WIDTH<COLUMNS>;
    float *p = values + TILE * WIDTH<COLUMNS>, *scores = p + TILE * PITCH;
    float *log_sums = scores + TILE * PITCH, *inner = log_sums + TILE;
    uint32_t *masks = (uint32_t *)(inner + TILE);
    const Place at = place_of(arrays, n, block);
    const int size = (int)n.size, columns = (int)n.heads * size, pitch = 3 * columns;
    const Numbers qkv = input(arrays, 0), dout = input(arrays, 4);
    const int64_t first = at.start * pitch + at.head * size;
    const int64_t memory = first + columns + (int64_t)at.first * pitch;
    load<Products, COLUMNS>(keys, qkv, memory, pitch, at.rows, size);
    load<Products, COLUMNS>(values, qkv, memory + columns, pitch, at.rows, size);
    Own<Share<COLUMNS>> of_keys, of_values;
    for (int query = 0; query < at.length; query += TILE) {
        const int there = rows_from(at.length, query);
        const int64_t row_place = at.head * n.tokens + at.start + query;
        const int64_t of_query = (at.start + query) * columns + at.head * size;
        NEXT_PHASE();
        load<Products, COLUMNS>(queries, qkv, first + (int64_t)query * pitch, pitch, there, size);
        load<Products, COLUMNS>(gradients, dout, of_query, columns, there, size);
        masks_of(masks, n, at, query);
        EACH_THREAD(thread) {
            if (thread < TILE) {
                log_sums[thread] = thread < there ? floats(arrays, 5)[row_place + thread] : 0.0f;
                inner[thread] = thread < there ? floats(arrays, 6)[row_place + thread] : 0.0f;
            }
        }
        NEXT_PHASE();
        EACH_THREAD(thread) {
            Share<TILE> own = product<Products, COLUMNS>(keys, queries, thread);
            Share<TILE> dp = product<Products, COLUMNS>(values, gradients, thread);
            each<TILE>(thread, [&](int i, int j, int row, int column) {
                const bool both = row < at.rows && column < there;
                const float probable = probability<Products>(own.x[i][j] * n.scale, log_sums[column], both);
                const float kept = factor_of(masks, n, column, at.first + row);
                own.x[i][j] = Products::held(probable * kept);
                dp.x[i][j] = Products::held(probable * (dp.x[i][j] * kept - inner[column]) * n.scale);
            });
            keep(p, own, thread);
            keep(scores, dp, thread);
        }
        NEXT_PHASE();
        EACH_THREAD(thread) {
            add_products<Products, COLUMNS, 1>({&of_keys.of(thread)}, {scores}, queries, there, thread);
            add_products<Products, COLUMNS, 1>({&of_values.of(thread)}, {p}, gradients, there, thread);
        }
    }
    const Numbers out = output(arrays, 0);
    EACH_THREAD(thread) {
        store<COLUMNS>(out, memory, of_keys.of(thread), pitch, at.rows, size, thread);
        store<COLUMNS>(out, memory + columns, of_values.of(thread), pitch, at.rows, size, thread);
    }
}
TILE_KERNEL(attention_keys, 32, 2, Attention)
TILE_KERNEL(attention_keys, 64, 2, Attention)
