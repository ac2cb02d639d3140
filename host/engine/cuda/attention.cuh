// Attention within the sequences of a packed batch, or from each to its one of another
// packing, which are not padded (after Dao et al. 2022 and Dao 2023): a block takes 64
// queries, or 64 keys, of a head of one sequence and goes over the tiles of the others.
// Probabilities are in no array; the backward pass computes them again from the scores'
// log-sum-exp. What a block writes no other one does, so that the same sums come out each
// time.
//
// Heads have at most 64 columns. Products of tiles are made in fp32, or by tensor cores
// of numbers rounded to TF32; all else is in fp32.

#pragma once

#include "dropout.cuh"
#include "tiles.cuh"

struct Attention {
    // Blocks: tiles by heads.
    int64_t rows;
    // Columns of a head, and rows of queries.
    int64_t heads, size, queries;
    // Numbers from row to row of queries, and of keys and values; the first column of keys.
    int64_t query_pitch, memory_pitch, first_key;
    // Distances from a query to a key that have biases, and those of them below 0.
    int64_t distances, before;
    Mask mask;
    float scale;
    int32_t has_mask;
    // Whether a query sees no key behind its own place.
    int32_t causal;
    uint32_t unused;
};

// What a block works on: 64 queries or keys of a sequence, or those that are left of it, in
// a head.
struct Place {
    // The sequence's first rows of queries and of keys, how many it has, and the place that
    // its masks are drawn for.
    int query_start, key_start, queries, keys;
    uint32_t number;
    // The first row of the tile in the sequence, and its rows.
    int first, rows;
    int head;
};

// The rows of a tile that begins at such a row of a sequence.
BODY int rows_from(int length, int first) {
    return length - first < TILE ? length - first : TILE;
}

// in2 [tiles, 2] the sequence and the first row of each tile, of queries or of keys, in3
// starts of queries and in4 of keys, in5 places.
BODY Place place_of(const Arrays &arrays, const Attention &n, int64_t block, bool of_keys) {
    const uint32_t heads = (uint32_t)n.heads;
    const uint32_t *tile = integers(arrays, 2) + (uint32_t)block / heads * 2;
    const uint32_t *queries = integers(arrays, 3) + tile[0], *keys = integers(arrays, 4) + tile[0];
    Place at;
    at.query_start = (int)queries[0];
    at.key_start = (int)keys[0];
    at.queries = (int)(queries[1] - queries[0]);
    at.keys = (int)(keys[1] - keys[0]);
    at.number = integers(arrays, 5)[tile[0]];
    at.first = (int)tile[1];
    at.rows = rows_from(of_keys ? at.keys : at.queries, at.first);
    at.head = (int)((uint32_t)block % heads);
    return at;
}

// Where a head's columns begin, of a query of the sequence, of a key, and of a query's
// context.
BODY int64_t query_at(const Attention &n, const Place &at, int query) {
    return (int64_t)(at.query_start + query) * (int)n.query_pitch + at.head * (int)n.size;
}

BODY int64_t key_at(const Attention &n, const Place &at, int key) {
    return (int64_t)(at.key_start + key) * (int)n.memory_pitch + (int)n.first_key + at.head * (int)n.size;
}

BODY int64_t context_at(const Attention &n, const Place &at, int query) {
    return ((int64_t)(at.query_start + query) * (int)n.heads + at.head) * (int)n.size;
}

// Where what is known of a query and a head is, in [heads, queries].
BODY int64_t of_query(const Attention &n, const Place &at, int query) {
    return at.head * n.queries + at.query_start + query;
}

// BY_PLACE says that scores may depend on the places of query and key: that a query may see
// no key behind its own, and that scores may have biases by the distance.

// Keys that queries of a tile see.
template <bool BY_PLACE> BODY int keys_seen(const Attention &n, const Place &at) {
    const int last = at.first + at.rows;
    return BY_PLACE && n.causal && last < at.keys ? last : at.keys;
}

// Those of a tile's first `there` keys, from `key` on, that a query sees.
template <bool BY_PLACE> BODY int keys_seen(const Attention &n, int query, int key, int there) {
    if constexpr (BY_PLACE) {
        const int own = query - key + 1;
        return n.causal && own < there ? own : there;
    }
    return there;
}

// Biases that distances from the queries to the keys of two tiles have.
const int BIASES = 2 * TILE;

// A thread's part of them, in shared memory. in6 [distances, heads] are all biases, if any.
BODY void put_biases(float *biases, const Arrays &arrays, const Attention &n, int head, int query, int key,
                     int thread) {
    if (thread < BIASES) {
        const int64_t place = n.before + key - query + thread - (TILE - 1);
        const bool there = place >= 0 && place < n.distances;
        // There are no distances where there are no biases.
        biases[thread] = there ? floats(arrays, 6)[place * n.heads + head] : 0.0f;
    }
}

// The score of a query and a key of two tiles, from the product of both.
template <bool BY_PLACE>
BODY float score_of(float product, const Attention &n, const float *biases, int query, int key) {
    if constexpr (BY_PLACE)
        return product * n.scale + biases[key - query + TILE - 1];
    return product * n.scale;
}

// What exponentials are divided by: a query that sees no key has a context of zeros.
BODY float total_of(float sum) {
    return sum > 0.0f ? sum : 1.0f;
}

// The masks of the queries of a tile, in shared memory.
BODY void masks_of(uint32_t *masks, const Attention &n, const Place &at, int first) {
    EACH_THREAD(thread) {
        if (n.has_mask && thread < TILE) {
            const uint64_t base = mix(n.mask.base ^ (uint64_t)at.head);
            const RowMask mask = row_mask(base, at.number, (uint32_t)(first + thread));
            masks[2 * thread] = mask.low;
            masks[2 * thread + 1] = mask.high;
        }
    }
}

BODY float factor_of(const uint32_t *masks, const Attention &n, int row, int key) {
    return n.has_mask ? factor(n.mask, {masks[2 * row], masks[2 * row + 1]}, (uint32_t)key) : 1.0f;
}

template <int COLUMNS> constexpr int attention_floats() {
    return 2 * TILE * WIDTH<COLUMNS> + TILE * PITCH + 2 * TILE * PARTS + 3 * TILE + 2 * TILE + BIASES;
}

// What a thread has of its row of a product, where threads share rows: two columns side by
// side of every eight.
struct Part {
    float x[TILE / PARTS];
};

BODY int column_of_part(int thread, int k) {
    return k / 2 * (2 * PARTS) + thread % PARTS * 2 + k % 2;
}

BODY Part part_of(const float *p, int thread) {
    Part part;
#pragma unroll
    for (int k = 0; k < TILE / PARTS; k++)
        part.x[k] = p[thread / PARTS * PITCH + column_of_part(thread, k)];
    return part;
}

// out0 [queries, heads * size] the context, out1 [heads, queries] the scores' log-sum-exp.
// in0 has queries, in1 keys and behind them values, in some columns; in2 to in5 see
// place_of, in6 put_biases.
template <class Products, int COLUMNS, bool BY_PLACE = false>
BODY void attention_tile(const Arrays &arrays, const Attention &n, int64_t block, float *shared) {
    float *queries = shared, *others = queries + TILE * WIDTH<COLUMNS>;
    float *p = others + TILE * WIDTH<COLUMNS>;
    float *parts_most = p + TILE * PITCH, *parts_sum = parts_most + TILE * PARTS;
    float *most = parts_sum + TILE * PARTS, *total = most + TILE, *fade = total + TILE;
    uint32_t *masks = (uint32_t *)(fade + TILE);
    float *biases = fade + 3 * TILE;
    const Place at = place_of(arrays, n, block, false);
    const int size = (int)n.size, columns = (int)n.heads * size, pitch = (int)n.memory_pitch;
    const int all_keys = keys_seen<BY_PLACE>(n, at);
    const Numbers memory = input(arrays, 1);
    load<Products, COLUMNS>(queries, input(arrays, 0), query_at(n, at, at.first), (int)n.query_pitch, at.rows, size);
    masks_of(masks, n, at, at.first);
    Own<Share<COLUMNS>> sums;
    Own<Part> parts;
    EACH_THREAD(thread) {
        if (thread < TILE) {
            most[thread] = -INFINITY;
            total[thread] = 0.0f;
        }
    }
    for (int key = 0; key < all_keys; key += TILE) {
        const int keys = rows_from(all_keys, key);
        const int64_t place = key_at(n, at, key);
        NEXT_PHASE();
        load<Products, COLUMNS>(others, memory, place, pitch, keys, size);
        EACH_THREAD(thread) {
            if (BY_PLACE)
                put_biases(biases, arrays, n, at.head, at.first, key, thread);
        }
        NEXT_PHASE();
        EACH_THREAD(thread) {
            Share<TILE> scores = product<Products, COLUMNS>(queries, others, thread);
            each<TILE>(thread, [&](int i, int j, int row, int column) {
                const bool seen = column < keys_seen<BY_PLACE>(n, at.first + row, key, keys);
                const float score = score_of<BY_PLACE>(scores.x[i][j], n, biases, row, column);
                scores.x[i][j] = seen ? score : -INFINITY;
            });
            keep(p, scores, thread);
        }
        NEXT_PHASE();
        load<Products, COLUMNS>(others, memory, place + columns, pitch, keys, size);
        EACH_THREAD(thread) {
            Part &own = parts.of(thread) = part_of(p, thread);
            float found = -INFINITY;
#pragma unroll
            for (int k = 0; k < TILE / PARTS; k++)
                found = fmaxf(found, own.x[k]);
            parts_most[thread] = found;
        }
        NEXT_PHASE();
        EACH_THREAD(thread) {
            const int row = thread / PARTS;
            float now = most[row];
            for (int part = 0; part < PARTS; part++)
                now = fmaxf(now, parts_most[row * PARTS + part]);
            Part &own = parts.of(thread);
            float sum = 0.0f;
#pragma unroll
            for (int k = 0; k < TILE / PARTS; k++) {
                const float exponential = Products::exponential(own.x[k] - now);
                sum += exponential;
                const float kept = factor_of(masks, n, row, key + column_of_part(thread, k));
                own.x[k] = Products::held(exponential * kept);
            }
            parts_sum[thread] = sum;
#pragma unroll
            for (int k = 0; k < TILE / PARTS; k++)
                p[row * PITCH + column_of_part(thread, k)] = own.x[k];
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
            Share<COLUMNS> &own = sums.of(thread);
            each<COLUMNS>(thread, [&](int i, int j, int row, int) { own.x[i][j] *= fade[row]; });
            add_products<Products, COLUMNS, 1>({&own}, {p}, others, keys, thread);
        }
    }
    const Numbers context = output(arrays, 0);
    const int64_t corner = context_at(n, at, at.first);
    float *log_sums = results(arrays, 1) + of_query(n, at, at.first);
    EACH_THREAD(thread) {
        Share<COLUMNS> &own = sums.of(thread);
        each<COLUMNS>(thread, [&](int i, int j, int row, int) { own.x[i][j] /= total_of(total[row]); });
        store<COLUMNS>(context, corner, own, columns, at.rows, size, thread);
        if (thread < at.rows)
            log_sums[thread] = logf(total[thread]) + most[thread];
    }
}
TILE_KERNEL(attention, 32, 3, Attention)
TILE_KERNEL(attention, 64, 3, Attention)
PLACED_KERNEL(attention, 64, 3, Attention)
