// Attention within the sequences of a packed batch, which are not padded (after Dao et
// al. 2022 and Dao 2023): a block takes 64 queries, or 64 keys, of a head of one sequence
// and goes over the tiles of the others. Probabilities are in no array; the backward
// pass computes them again from the scores' log-sum-exp. What a block writes no other one
// does, so that the same sums come out each time.
//
// Heads have at most 64 columns. Products of tiles are made in fp32, or by tensor cores
// of numbers rounded to TF32; all else is in fp32.

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
    int length;
    uint32_t number;
    // The first row of the tile in the sequence, and its rows.
    int first, rows;
    int head;
};

// The rows of a tile that begins at such a row of a sequence.
BODY int rows_from(int length, int first) {
    return length - first < TILE ? length - first : TILE;
}

// in1 [tiles, 2] the sequence and the first row of each tile, in2 starts, in3 places.
BODY Place place_of(const Arrays &arrays, const Attention &n, int64_t block) {
    const uint32_t heads = (uint32_t)n.heads;
    const uint32_t *tile = integers(arrays, 1) + (uint32_t)block / heads * 2;
    const uint32_t *starts = integers(arrays, 2) + tile[0];
    Place at;
    at.start = starts[0];
    at.length = (int)(starts[1] - starts[0]);
    at.number = integers(arrays, 3)[tile[0]];
    at.first = (int)tile[1];
    at.rows = rows_from(at.length, at.first);
    at.head = (int)((uint32_t)block % heads);
    return at;
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
    return 2 * TILE * WIDTH<COLUMNS> + TILE * PITCH + 2 * TILE * PARTS + 3 * TILE + 2 * TILE;
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

// out0 [tokens, heads * size] the context, out1 [heads, tokens] the scores' log-sum-exp.
// in0 [tokens, 3 * heads * size] queries, keys and values; in1 to in3 see place_of.
template <class Products, int COLUMNS>
BODY void attention_tile(const Arrays &arrays, const Attention &n, int64_t block, float *shared) {
    float *queries = shared, *others = queries + TILE * WIDTH<COLUMNS>;
    float *p = others + TILE * WIDTH<COLUMNS>;
    float *parts_most = p + TILE * PITCH, *parts_sum = parts_most + TILE * PARTS;
    float *most = parts_sum + TILE * PARTS, *total = most + TILE, *fade = total + TILE;
    uint32_t *masks = (uint32_t *)(fade + TILE);
    const Place at = place_of(arrays, n, block);
    const int size = (int)n.size, columns = (int)n.heads * size, pitch = 3 * columns;
    const Numbers qkv = input(arrays, 0);
    const int64_t first = at.start * pitch + at.head * size;
    load<Products, COLUMNS>(queries, qkv, first + (int64_t)at.first * pitch, pitch, at.rows, size);
    masks_of(masks, n, at, at.first);
    Own<Share<COLUMNS>> sums;
    Own<Part> parts;
    EACH_THREAD(thread) {
        if (thread < TILE) {
            most[thread] = -INFINITY;
            total[thread] = 0.0f;
        }
    }
    for (int key = 0; key < at.length; key += TILE) {
        const int keys = rows_from(at.length, key);
        const int64_t memory = first + columns + (int64_t)key * pitch;
        NEXT_PHASE();
        load<Products, COLUMNS>(others, qkv, memory, pitch, keys, size);
        NEXT_PHASE();
        EACH_THREAD(thread) {
            Share<TILE> scores = product<Products, COLUMNS>(queries, others, thread);
            each<TILE>(thread, [&](int i, int j, int, int column) {
                scores.x[i][j] = column < keys ? scores.x[i][j] * n.scale : -INFINITY;
            });
            keep(p, scores, thread);
        }
        NEXT_PHASE();
        load<Products, COLUMNS>(others, qkv, memory + columns, pitch, keys, size);
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
    const int64_t corner = (at.start + at.first) * columns + at.head * size;
    float *log_sums = results(arrays, 1) + at.head * n.tokens + at.start + at.first;
    EACH_THREAD(thread) {
        Share<COLUMNS> &own = sums.of(thread);
        each<COLUMNS>(thread, [&](int i, int j, int row, int) { own.x[i][j] /= total[row]; });
        store<COLUMNS>(context, corner, own, columns, at.rows, size, thread);
        if (thread < at.rows)
            log_sums[thread] = logf(total[thread]) + most[thread];
    }
}
TILE_KERNEL(attention, 32, 3, Attention)
TILE_KERNEL(attention, 64, 3, Attention)
