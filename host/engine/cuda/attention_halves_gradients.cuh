// The gradients of attention whose products are of numbers of bf16 (attention_halves.cuh):
// one kernel for queries, and one for keys and values.

#pragma once

#include "attention_gradients.cuh"
#include "attention_halves.cuh"

// What a thread has of two queries, or of two keys: of a tile, the probabilities and their
// gradients, behind dropout.
struct Tile {
    Sums<TILE> p, dp;
};

// What a thread has of two queries.
template <int COLUMNS> struct OfQueries {
    Sums<COLUMNS> dq;
    Tile tile;
    Pairs<TILE> scores;
    RowMask masks[2];
    // Of each query the log-sum-exp, the lane's part of the sum of p dp, and all of it.
    float log_sums[2], part[2], inner[2];
};

template <int COLUMNS> constexpr int attention_queries_halves_floats() {
    return 4 * HALF_TILE<COLUMNS> + BIASES;
}

// As `attention_queries`, but that the gradient of a score, p (dp - sum of p dp), is made
// before it is rounded: tiles are gone over once for the sum and once more, from the last
// one back, for the gradient.
template <int COLUMNS, bool BY_PLACE = false>
BODY void attention_queries_halves_tile(const Arrays &arrays, const Attention &n, int64_t block, float *shared) {
    uint16_t *queries = (uint16_t *)shared, *gradients = (uint16_t *)(shared + HALF_TILE<COLUMNS>);
    uint16_t *keys = (uint16_t *)(shared + 2 * HALF_TILE<COLUMNS>);
    uint16_t *values = (uint16_t *)(shared + 3 * HALF_TILE<COLUMNS>);
    float *biases = shared + 4 * HALF_TILE<COLUMNS>;
    const Place at = place_of(arrays, n, block, false);
    const int size = (int)n.size, columns = (int)n.heads * size, pitch = (int)n.memory_pitch;
    const int all_keys = keys_seen<BY_PLACE>(n, at);
    const Numbers memory = input(arrays, 1);
    const int64_t own_rows = query_at(n, at, at.first), row_place = of_query(n, at, at.first);
    const int64_t first_key = key_at(n, at, 0);
    load_halves<COLUMNS>({{queries, {input(arrays, 0), own_rows, (int)n.query_pitch}, at.rows},
                          {gradients, {input(arrays, 7), context_at(n, at, at.first), columns}, at.rows}},
                         size);
    Own<OfQueries<COLUMNS>> all;
    EACH_HALF(thread) {
        OfQueries<COLUMNS> &own = all.of(thread) = {};
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int row = top_of(thread) + row_of_part(lane_of(thread), 2 * i);
            own.masks[i] = mask_of_query(n, at, at.first + row);
            own.log_sums[i] = row < at.rows ? floats(arrays, 8)[row_place + row] : 0.0f;
        }
    }
    const auto make_tile = [&](int key) {
        const int there = rows_from(all_keys, key);
        const int64_t place = first_key + (int64_t)key * pitch;
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
                const int top = top_of(thread), lane = lane_of(thread);
                OfQueries<COLUMNS> &own = all.of(thread);
                own.tile = {};
                add_across<COLUMNS>(own.tile.p, queries, keys, top, there, lane);
                add_across<COLUMNS>(own.tile.dp, gradients, values, top, there, lane);
                const Seen seen = seen_of<BY_PLACE>(n, at, thread, key, there);
                each_sum(own.tile.p, lane, [&](float &p, int i, int column) {
                    const int row = top + row_of_part(lane, 2 * i);
                    const float score = score_of<BY_PLACE>(p, n, biases, row, column);
                    p = probability<Tf32>(score, own.log_sums[i], column < seen.keys[i]);
                });
                each_sum(own.tile.dp, lane, [&](float &dp, int i, int column) {
                    dp *= kept_of(n, own.masks[i], key + column);
                });
            }
        }
    };
    for (int key = 0; key < all_keys; key += TILE) {
        make_tile(key);
        EACH_HALF(thread) {
            OfQueries<COLUMNS> &own = all.of(thread);
#pragma unroll
            for (int tile = 0; tile < TILE / 8; tile++)
#pragma unroll
                for (int part = 0; part < 4; part++)
                    own.part[part / 2] += own.tile.p.x[tile][part] * own.tile.dp.x[tile][part];
        }
    }
    EACH_HALF(thread) {
        OfQueries<COLUMNS> &own = all.of(thread);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            own.inner[i] = sum_of_row(thread, [&](int other) { return all.of(other).part[i]; });
            const int row = top_of(thread) + row_of_part(lane_of(thread), 2 * i);
            if (row < at.rows && lane_of(thread) % 4 == 0)
                results(arrays, 1)[row_place + row] = own.inner[i];
        }
    }
    const int last = (all_keys - 1) / TILE * TILE;
    for (int key = last; key >= 0; key -= TILE) {
        if (key != last)
            make_tile(key);
        EACH_HALF(thread) {
            OfQueries<COLUMNS> &own = all.of(thread);
            each_sum(own.tile.dp, lane_of(thread), [&](float &dp, int i, int) { dp -= own.inner[i]; });
#pragma unroll
            for (int tile = 0; tile < TILE / 8; tile++)
#pragma unroll
                for (int part = 0; part < 4; part++)
                    own.tile.p.x[tile][part] *= own.tile.dp.x[tile][part] * n.scale;
            own.scores = rounded(own.tile.p);
        }
        EACH_HALF(thread) {
            if (top_of(thread) < at.rows) {
                const int warp = thread / WARP * WARP;
                const auto scores = [&](int lane) -> const Pairs<TILE> & { return all.of(warp + lane).scores; };
                add_product(all.of(thread).dq, scores, keys, rows_from(all_keys, key), lane_of(thread));
            }
        }
    }
    EACH_HALF(thread) {
        store_sums(output(arrays, 0), own_rows, all.of(thread).dq, top_of(thread), (int)n.query_pitch, at.rows,
                   size, lane_of(thread));
    }
}
HALVES_KERNEL(attention_queries, 32, 3, Attention)
HALVES_KERNEL(attention_queries, 64, 3, Attention)
PLACED_HALVES_KERNEL(attention_queries, 64, 3, Attention)

// What a thread has of two keys.
template <int COLUMNS> struct OfKeys {
    Sums<COLUMNS> dk, dv;
    Pairs<TILE> p, scores;
};

template <int COLUMNS> constexpr int attention_keys_halves_floats() {
    return 4 * HALF_TILE<COLUMNS> + 4 * TILE + BIASES;
}

// As `attention_keys`: a row of the products is a key here, and a column a query.
template <int COLUMNS, bool BY_PLACE = false>
BODY void attention_keys_halves_tile(const Arrays &arrays, const Attention &n, int64_t block, float *shared) {
    uint16_t *queries = (uint16_t *)shared, *gradients = (uint16_t *)(shared + HALF_TILE<COLUMNS>);
    uint16_t *keys = (uint16_t *)(shared + 2 * HALF_TILE<COLUMNS>);
    uint16_t *values = (uint16_t *)(shared + 3 * HALF_TILE<COLUMNS>);
    float *log_sums = shared + 4 * HALF_TILE<COLUMNS>, *inner = log_sums + TILE;
    RowMask *masks = (RowMask *)(inner + TILE);
    float *biases = inner + 3 * TILE;
    const Place at = place_of(arrays, n, block, true);
    const int size = (int)n.size, columns = (int)n.heads * size, pitch = (int)n.memory_pitch;
    const Numbers memory = input(arrays, 1);
    const int64_t own_rows = key_at(n, at, at.first);
    load_halves<COLUMNS>({{keys, {memory, own_rows, pitch}, at.rows}, {values, {memory, own_rows + columns, pitch}, at.rows}},
                         size);
    Own<OfKeys<COLUMNS>> all;
    EACH_HALF(thread) all.of(thread) = {};
    for (int query = first_query<BY_PLACE>(n, at); query < at.queries; query += TILE) {
        const int there = rows_from(at.queries, query);
        const int64_t row_place = of_query(n, at, query);
        NEXT_PHASE();
        load_halves<COLUMNS>({{queries, {input(arrays, 0), query_at(n, at, query), (int)n.query_pitch}, there},
                              {gradients, {input(arrays, 7), context_at(n, at, query), columns}, there}},
                             size);
        EACH_HALF(thread) {
            if (thread < TILE) {
                log_sums[thread] = thread < there ? floats(arrays, 8)[row_place + thread] : 0.0f;
                inner[thread] = thread < there ? floats(arrays, 9)[row_place + thread] : 0.0f;
                masks[thread] = mask_of_query(n, at, query + thread);
            }
            if (BY_PLACE)
                put_biases(biases, arrays, n, at.head, query, at.first, thread);
        }
        NEXT_PHASE();
        EACH_HALF(thread) {
            if (top_of(thread) < at.rows) {
                const int top = top_of(thread), lane = lane_of(thread);
                Tile tile;
                add_across<COLUMNS>(tile.p, keys, queries, top, there, lane);
                add_across<COLUMNS>(tile.dp, values, gradients, top, there, lane);
#pragma unroll
                for (int eight = 0; eight < TILE / 8; eight++)
#pragma unroll
                    for (int part = 0; part < 4; part++) {
                        const int row = top + row_of_part(lane, part), column = column_of_lane(lane, eight, part);
                        float &p = tile.p.x[eight][part], &dp = tile.dp.x[eight][part];
                        const bool both =
                            row < at.rows && column < there && sees<BY_PLACE>(n, query + column, at.first + row);
                        const float kept = kept_of(n, masks[column], at.first + row);
                        const float score = score_of<BY_PLACE>(p, n, biases, column, row);
                        const float probable = probability<Tf32>(score, log_sums[column], both);
                        p = probable * kept;
                        dp = probable * (dp * kept - inner[column]) * n.scale;
                    }
                all.of(thread).p = rounded(tile.p);
                all.of(thread).scores = rounded(tile.dp);
            }
        }
        EACH_HALF(thread) {
            if (top_of(thread) < at.rows) {
                const int warp = thread / WARP * WARP, lane = lane_of(thread);
                const auto p = [&](int lane) -> const Pairs<TILE> & { return all.of(warp + lane).p; };
                const auto scores = [&](int lane) -> const Pairs<TILE> & { return all.of(warp + lane).scores; };
                add_product(all.of(thread).dv, p, gradients, there, lane);
                add_product(all.of(thread).dk, scores, queries, there, lane);
            }
        }
    }
    const Numbers out = output(arrays, 0);
    EACH_HALF(thread) {
        const int top = top_of(thread), lane = lane_of(thread);
        store_sums(out, own_rows, all.of(thread).dk, top, pitch, at.rows, size, lane);
        store_sums(out, own_rows + columns, all.of(thread).dv, top, pitch, at.rows, size, lane);
    }
}
HALVES_KERNEL(attention_keys, 32, 3, Attention)
HALVES_KERNEL(attention_keys, 64, 3, Attention)
PLACED_HALVES_KERNEL(attention_keys, 64, 3, Attention)
