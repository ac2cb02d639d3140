// The gradients of attention (attention.cuh): one kernel for queries, one for keys and
// values, and one for biases.

#pragma once

#include "attention.cuh"

// Tiles of queries, the context's gradient, keys and values; two products; a tile's
// log-sum-exps, inner products and masks; biases.
template <int COLUMNS> constexpr int gradient_floats() {
    return 4 * TILE * WIDTH<COLUMNS> + 2 * TILE * PITCH + 2 * TILE + 2 * TILE + BIASES;
}

// A probability, exp(score - log-sum-exp); 0 where there is no query or no key.
template <class Products> BODY float probability(float score, float log_sum, bool there) {
    const float exponential = Products::exponential(score - log_sum);
    return there ? exponential : 0.0f;
}

// Whether a query sees a key, both by their places.
template <bool BY_PLACE> BODY bool sees(const Attention &n, int query, int key) {
    return !BY_PLACE || !n.causal || key <= query;
}

// The first query, of a tile, that sees any of a tile of keys.
template <bool BY_PLACE> BODY int first_query(const Attention &n, const Place &at) {
    return BY_PLACE && n.causal ? at.first : 0;
}

template <int COLUMNS> constexpr int attention_queries_floats() {
    return gradient_floats<COLUMNS>() + TILE * PARTS;
}

// out0 gets the queries' gradient, in the columns of queries in in0, out1 [heads, queries] the
// sums of p dp over keys, where p are the probabilities and dp their gradients behind dropout.
// in0 to in6 as in `attention`, in7 the context's gradient, in8 log-sum-exps.
//
// The gradient of a score is p (dp - sum of p dp), of which the sum is known at the end:
// so sums of p dp k and of p k are kept apart until then.
template <class Products, int COLUMNS, bool BY_PLACE = false>
BODY void attention_queries_tile(const Arrays &arrays, const Attention &n, int64_t block, float *shared) {
    float *queries = shared, *gradients = queries + TILE * WIDTH<COLUMNS>;
    float *keys = gradients + TILE * WIDTH<COLUMNS>, *values = keys + TILE * WIDTH<COLUMNS>;
    float *p = values + TILE * WIDTH<COLUMNS>, *weighted = p + TILE * PITCH;
    float *log_sums = weighted + TILE * PITCH, *inner = log_sums + TILE;
    uint32_t *masks = (uint32_t *)(inner + TILE);
    float *biases = inner + 3 * TILE, *parts = biases + BIASES;
    const Place at = place_of(arrays, n, block, false);
    const int size = (int)n.size, columns = (int)n.heads * size, pitch = (int)n.memory_pitch;
    const int all_keys = keys_seen<BY_PLACE>(n, at);
    const Numbers memory = input(arrays, 1);
    const int64_t own_rows = query_at(n, at, at.first), row_place = of_query(n, at, at.first);
    load<Products, COLUMNS>(queries, input(arrays, 0), own_rows, (int)n.query_pitch, at.rows, size);
    load<Products, COLUMNS>(gradients, input(arrays, 7), context_at(n, at, at.first), columns, at.rows, size);
    masks_of(masks, n, at, at.first);
    Own<Share<COLUMNS>> plain, mixed;
    EACH_THREAD(thread) {
        parts[thread] = 0.0f;
        if (thread < TILE)
            log_sums[thread] = thread < at.rows ? floats(arrays, 8)[row_place + thread] : 0.0f;
    }
    for (int key = 0; key < all_keys; key += TILE) {
        const int there = rows_from(all_keys, key);
        const int64_t place = key_at(n, at, key);
        NEXT_PHASE();
        load<Products, COLUMNS>(keys, memory, place, pitch, there, size);
        load<Products, COLUMNS>(values, memory, place + columns, pitch, there, size);
        EACH_THREAD(thread) {
            if (BY_PLACE)
                put_biases(biases, arrays, n, at.head, at.first, key, thread);
        }
        NEXT_PHASE();
        EACH_THREAD(thread) {
            Share<TILE> own = product<Products, COLUMNS>(queries, keys, thread);
            Share<TILE> dp = product<Products, COLUMNS>(gradients, values, thread);
            each<TILE>(thread, [&](int i, int j, int row, int column) {
                const bool both = row < at.rows && column < keys_seen<BY_PLACE>(n, at.first + row, key, there);
                const float score = score_of<BY_PLACE>(own.x[i][j], n, biases, row, column);
                const float probable = probability<Products>(score, log_sums[row], both);
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
        store<COLUMNS>(output(arrays, 0), own_rows, own, (int)n.query_pitch, at.rows, size, thread);
    }
}
TILE_KERNEL(attention_queries, 32, 2, Attention)
TILE_KERNEL(attention_queries, 64, 2, Attention)
PLACED_KERNEL(attention_queries, 64, 2, Attention)

template <int COLUMNS> constexpr int attention_keys_floats() {
    return gradient_floats<COLUMNS>();
}

// out0 gets the gradients of keys and values, in their columns in in1. in0 to in8 as in
// `attention_queries`, but that tiles are of keys; in9 the sums of p dp that it gives.
//
// A row of the products is a key here, and a column a query.
template <class Products, int COLUMNS, bool BY_PLACE = false>
BODY void attention_keys_tile(const Arrays &arrays, const Attention &n, int64_t block, float *shared) {
    float *queries = shared, *gradients = queries + TILE * WIDTH<COLUMNS>;
    float *keys = gradients + TILE * WIDTH<COLUMNS>, *values = keys + TILE * WIDTH<COLUMNS>;
    float *p = values + TILE * WIDTH<COLUMNS>, *scores = p + TILE * PITCH;
    float *log_sums = scores + TILE * PITCH, *inner = log_sums + TILE;
    uint32_t *masks = (uint32_t *)(inner + TILE);
    float *biases = inner + 3 * TILE;
    const Place at = place_of(arrays, n, block, true);
    const int size = (int)n.size, columns = (int)n.heads * size, pitch = (int)n.memory_pitch;
    const Numbers memory = input(arrays, 1);
    const int64_t own_rows = key_at(n, at, at.first);
    load<Products, COLUMNS>(keys, memory, own_rows, pitch, at.rows, size);
    load<Products, COLUMNS>(values, memory, own_rows + columns, pitch, at.rows, size);
    Own<Share<COLUMNS>> of_keys, of_values;
    for (int query = first_query<BY_PLACE>(n, at); query < at.queries; query += TILE) {
        const int there = rows_from(at.queries, query);
        const int64_t row_place = of_query(n, at, query);
        NEXT_PHASE();
        load<Products, COLUMNS>(queries, input(arrays, 0), query_at(n, at, query), (int)n.query_pitch, there, size);
        load<Products, COLUMNS>(gradients, input(arrays, 7), context_at(n, at, query), columns, there, size);
        masks_of(masks, n, at, query);
        EACH_THREAD(thread) {
            if (thread < TILE) {
                log_sums[thread] = thread < there ? floats(arrays, 8)[row_place + thread] : 0.0f;
                inner[thread] = thread < there ? floats(arrays, 9)[row_place + thread] : 0.0f;
            }
            if (BY_PLACE)
                put_biases(biases, arrays, n, at.head, query, at.first, thread);
        }
        NEXT_PHASE();
        EACH_THREAD(thread) {
            Share<TILE> own = product<Products, COLUMNS>(keys, queries, thread);
            Share<TILE> dp = product<Products, COLUMNS>(values, gradients, thread);
            each<TILE>(thread, [&](int i, int j, int row, int column) {
                const bool both = row < at.rows && column < there && sees<BY_PLACE>(n, query + column, at.first + row);
                const float score = score_of<BY_PLACE>(own.x[i][j], n, biases, column, row);
                const float probable = probability<Products>(score, log_sums[column], both);
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
        store<COLUMNS>(out, own_rows, of_keys.of(thread), pitch, at.rows, size, thread);
        store<COLUMNS>(out, own_rows + columns, of_values.of(thread), pitch, at.rows, size, thread);
    }
}
TILE_KERNEL(attention_keys, 32, 2, Attention)
TILE_KERNEL(attention_keys, 64, 2, Attention)
PLACED_KERNEL(attention_keys, 64, 2, Attention)

struct BiasedAttention {
    // Blocks: tiles by heads.
    int64_t rows;
    // Buckets of distances, at most as many as a block has threads.
    int64_t buckets;
    Attention attention;
};

struct BucketSum {
    float x;
};

// Of a distance that no pair of a query and a key has.
const uint32_t NO_BUCKET = ~0u;

template <int COLUMNS> constexpr int attention_biases_floats() {
    return gradient_floats<COLUMNS>() - TILE * PITCH + 2 * BIASES;
}

// out0 [tiles, heads * buckets] gets the gradient of a head's biases by the queries of a tile.
// in0 to in8 as in `attention_queries`, in9 the sums of p dp that it gives, in10 [distances]
// the bucket of each distance. out0's columns are `buckets` for each head.
//
// A tile's gradients of scores are summed up along their diagonals, each by a thread, and
// those then by buckets, each by a thread: in an order of their own.
template <class Products, int COLUMNS>
BODY void attention_biases_tile(const Arrays &arrays, const BiasedAttention &of, int64_t block, float *shared) {
    const Attention &n = of.attention;
    float *queries = shared, *gradients = queries + TILE * WIDTH<COLUMNS>;
    float *keys = gradients + TILE * WIDTH<COLUMNS>, *values = keys + TILE * WIDTH<COLUMNS>;
    float *scores = values + TILE * WIDTH<COLUMNS>;
    float *log_sums = scores + TILE * PITCH, *inner = log_sums + TILE;
    uint32_t *masks = (uint32_t *)(inner + TILE);
    float *biases = inner + 3 * TILE, *diagonals = biases + BIASES;
    uint32_t *buckets = (uint32_t *)(diagonals + BIASES);
    const Place at = place_of(arrays, n, block, false);
    const int size = (int)n.size, columns = (int)n.heads * size, pitch = (int)n.memory_pitch;
    const int all_keys = keys_seen<true>(n, at);
    const Numbers memory = input(arrays, 1);
    const int64_t own_rows = query_at(n, at, at.first), row_place = of_query(n, at, at.first);
    load<Products, COLUMNS>(queries, input(arrays, 0), own_rows, (int)n.query_pitch, at.rows, size);
    load<Products, COLUMNS>(gradients, input(arrays, 7), context_at(n, at, at.first), columns, at.rows, size);
    masks_of(masks, n, at, at.first);
    Own<BucketSum> sums;
    EACH_THREAD(thread) {
        sums.of(thread) = {};
        if (thread < TILE) {
            log_sums[thread] = thread < at.rows ? floats(arrays, 8)[row_place + thread] : 0.0f;
            inner[thread] = thread < at.rows ? floats(arrays, 9)[row_place + thread] : 0.0f;
        }
    }
    for (int key = 0; key < all_keys; key += TILE) {
        const int there = rows_from(all_keys, key);
        const int64_t place = key_at(n, at, key);
        NEXT_PHASE();
        load<Products, COLUMNS>(keys, memory, place, pitch, there, size);
        load<Products, COLUMNS>(values, memory, place + columns, pitch, there, size);
        EACH_THREAD(thread) {
            put_biases(biases, arrays, n, at.head, at.first, key, thread);
            if (thread < BIASES) {
                const int64_t distance = n.before + key - at.first + thread - (TILE - 1);
                const bool known = distance >= 0 && distance < n.distances;
                buckets[thread] = known ? integers(arrays, 10)[distance] : NO_BUCKET;
            }
        }
        NEXT_PHASE();
        EACH_THREAD(thread) {
            Share<TILE> own = product<Products, COLUMNS>(queries, keys, thread);
            const Share<TILE> dp = product<Products, COLUMNS>(gradients, values, thread);
            each<TILE>(thread, [&](int i, int j, int row, int column) {
                const bool both = row < at.rows && column < keys_seen<true>(n, at.first + row, key, there);
                const float score = score_of<true>(own.x[i][j], n, biases, row, column);
                const float probable = probability<Products>(score, log_sums[row], both);
                const float kept = factor_of(masks, n, row, key + column);
                own.x[i][j] = probable * (dp.x[i][j] * kept - inner[row]);
            });
            keep(scores, own, thread);
        }
        NEXT_PHASE();
        EACH_THREAD(thread) {
            if (thread < BIASES) {
                float sum = 0.0f;
                for (int row = 0; row < TILE; row++) {
                    const int column = row + thread - (TILE - 1);
                    if (column >= 0 && column < TILE)
                        sum += scores[row * PITCH + column];
                }
                diagonals[thread] = sum;
            }
        }
        NEXT_PHASE();
        EACH_THREAD(thread) {
            if (thread < of.buckets) {
                for (int diagonal = 0; diagonal < BIASES; diagonal++)
                    if (buckets[diagonal] == (uint32_t)thread)
                        sums.of(thread).x += diagonals[diagonal];
            }
        }
    }
    EACH_THREAD(thread) {
        if (thread < of.buckets)
            results(arrays, 0)[block * of.buckets + thread] = sums.of(thread).x;
    }
}
TILE_KERNEL(attention_biases, 64, 2, BiasedAttention)
