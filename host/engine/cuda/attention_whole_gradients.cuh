// The gradients of attention over whole sequences (attention_whole.cuh), all by one block. What is
// done for each 16 keys or queries is a loop, not one long text, which would be brought to the
// multiprocessors again for each block.

#pragma once

#include "attention_whole.cuh"

// A probability, which is no less than 0, has its sign set where dropout has left nothing of it.
const uint32_t DROPPED = 0x80008000u;

// What is kept, and 0 where something is dropped.
BODY Left only_kept(Left left) {
#pragma unroll
    for (int part = 0; part < 4; part++)
        left.pairs[part] &= ~(((left.pairs[part] & DROPPED) >> 15) * 0xffffu);
    return left;
}

// What a thread has of two queries, and of two keys.
template <int COLUMNS> struct WholeGradients {
    Lefts<COLUMNS> queries, gradients;
    Left scores;
    Sums<COLUMNS> sums;
    RowMask masks[2];
    // Of each query the log-sum-exp to base 2, the lane's part of the sum of p dp, and all of it.
    float log_sums[2], part[2], inner[2];
};

template <int ROWS, int COLUMNS> constexpr int attention_whole_gradients_floats() {
    return 4 * WHOLE_FLOATS<ROWS, COLUMNS> + WHOLE_FLOATS<ROWS, ROWS>;
}

// Where a lane's pair of a row and 16 columns of a tile lies.
template <int COLUMNS> BODY uint16_t *place_of_pair(uint16_t *tile, int row, int column, int lane, int eight, int half) {
    return tile + (row + row_of_part(lane, 2 * half)) * HALF_WIDTH<COLUMNS> + column + column_of_lane(lane, eight, 0);
}

// What tiles a block has, and of what.
template <int ROWS, int COLUMNS> struct WholeTiles {
    uint16_t *queries, *gradients, *keys, *values;
    // First probabilities, then gradients of scores, [queries, keys].
    uint16_t *products;

    OF_THREAD WholeTiles(float *shared) {
        queries = (uint16_t *)shared;
        gradients = queries + WHOLE_TILE<ROWS, COLUMNS>;
        keys = gradients + WHOLE_TILE<ROWS, COLUMNS>;
        values = keys + WHOLE_TILE<ROWS, COLUMNS>;
        products = values + WHOLE_TILE<ROWS, COLUMNS>;
    }
};

// Of two queries and 16 keys from a first one on: probabilities to the tile of products, and their
// part of the sum of p dp.
template <int ROWS, int COLUMNS>
BODY void put_probabilities(const Attention &n, const Place &at, const WholeTiles<ROWS, COLUMNS> &tiles,
                            Own<WholeGradients<COLUMNS>> &all, int thread, int first) {
    WholeGradients<COLUMNS> &own = all.of(thread);
    const int lane = lane_of(thread), warp = thread / WARP * WARP, corner = first * HALF_WIDTH<COLUMNS>;
    const float scale = n.scale * LOG2_E, kept_scale = scale_of_kept(n);
    Sums<16> p, dp;
    add_across<COLUMNS>(
        p, [&](int lane) -> const Lefts<COLUMNS> & { return all.of(warp + lane).queries; }, tiles.keys + corner, lane);
    add_across<COLUMNS>(
        dp, [&](int lane) -> const Lefts<COLUMNS> & { return all.of(warp + lane).gradients; }, tiles.values + corner,
        lane);
#pragma unroll
    for (int eight = 0; eight < 2; eight++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float x[2], part = 0.0f;
#pragma unroll
            for (int next = 0; next < 2; next++) {
                const int key = first + column_of_lane(lane, eight, next);
                const float exponent = fmaf(p.x[eight][2 * half + next], scale, -own.log_sums[half]);
                const float probable = key < at.keys ? fast_power_of_two(exponent) : 0.0f;
                const bool kept = keeps(n, own.masks[half], key);
                part += kept ? probable * dp.x[eight][2 * half + next] : 0.0f;
                x[next] = kept ? probable : -probable;
            }
            own.part[half] += part * kept_scale;
            uint16_t *place = place_of_pair<ROWS>(tiles.products, top_of(thread), first, lane, eight, half);
            at_once<uint32_t>(place) = pair_of(x[0], x[1]);
        }
}

// Of the same the gradients of scores, to where the probabilities are, but for the scores' scale.
template <int ROWS, int COLUMNS>
BODY void put_scores(const Attention &n, const WholeTiles<ROWS, COLUMNS> &tiles, Own<WholeGradients<COLUMNS>> &all,
                     int thread, int first) {
    WholeGradients<COLUMNS> &own = all.of(thread);
    const int lane = lane_of(thread), warp = thread / WARP * WARP;
    const float kept_scale = scale_of_kept(n);
    Sums<16> dp;
    add_across<COLUMNS>(
        dp, [&](int lane) -> const Lefts<COLUMNS> & { return all.of(warp + lane).gradients; },
        tiles.values + first * HALF_WIDTH<COLUMNS>, lane);
#pragma unroll
    for (int eight = 0; eight < 2; eight++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint16_t *place = place_of_pair<ROWS>(tiles.products, top_of(thread), first, lane, eight, half);
            const uint32_t pair = pair_at(place);
            float x[2];
#pragma unroll
            for (int next = 0; next < 2; next++) {
                const float p = widened((uint16_t)(next == 0 ? pair & 0xffffu : pair >> 16));
                const float factor = p < 0.0f ? 0.0f : kept_scale;
                x[next] = fabsf(p) * fmaf(dp.x[eight][2 * half + next], factor, -own.inner[half]);
            }
            own.scores.pairs[2 * eight + half] = pair_of(x[0], x[1]);
            at_once<uint32_t>(place) = own.scores.pairs[2 * eight + half];
        }
}

// Adds up for two keys the rows of a tile, by products of which `left_of_query` gives the left
// factor that a lane holds, and writes the sums times a factor from a place on.
template <int COLUMNS, class Make>
BODY void write_of_keys(const Numbers &out, int64_t place, int pitch, int size, const Place &at, float factor,
                        const uint16_t *rows, int thread, Make left_of_query) {
    const int lane = lane_of(thread);
    if (top_of(thread) >= at.keys)
        return;
    Sums<COLUMNS> sums;
#pragma unroll 1
    for (int query = 0; query < at.queries; query += 16)
        add_rows_of(sums, held_of(lane, [&](int lane) { return left_of_query(query, lane); }), rows, query, lane);
    each_sum(sums, lane, [&](float &sum, int, int) { sum *= factor; });
    store_sums(out, place, sums, top_of(thread), pitch, at.keys, size, lane);
}

// out0 the gradients of queries, and of keys and values where they lie behind them; or those in
// out1, if they are wanted. in0 to in5 as in `attention_whole`, in7 the context's gradient, in8
// log-sum-exps.
template <int ROWS, int COLUMNS>
BODY void attention_whole_gradients_tile(const Arrays &arrays, const Attention &n, int64_t block, float *shared) {
    const WholeTiles<ROWS, COLUMNS> tiles(shared);
    const Place at = whole_place_of(arrays, n, block);
    const int size = (int)n.size, columns = (int)n.heads * size, pitch = (int)n.memory_pitch;
    const Numbers memory = input(arrays, 1);
    const int64_t of_queries = query_at(n, at, 0), of_keys = key_at(n, at, 0);
    load_halves<COLUMNS, ROWS>({{tiles.queries, {input(arrays, 0), of_queries, (int)n.query_pitch}, at.queries},
                                {tiles.gradients, {input(arrays, 7), context_at(n, at, 0), columns}, at.queries},
                                {tiles.keys, {memory, of_keys, pitch}, at.keys},
                                {tiles.values, {memory, of_keys + columns, pitch}, at.keys}},
                               size);
    Own<WholeGradients<COLUMNS>> all;
    EACH_OF(2 * ROWS, thread) {
        WholeGradients<COLUMNS> &own = all.of(thread) = {};
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int row = top_of(thread) + row_of_part(lane_of(thread), 2 * i);
            own.masks[i] = mask_of_query(n, at, row);
            own.log_sums[i] = row < at.queries ? floats(arrays, 8)[of_query(n, at, row)] * LOG2_E : 0.0f;
        }
    }
    NEXT_PHASE();
    EACH_OF(2 * ROWS, thread) {
        all.of(thread).queries = lefts_of<COLUMNS>(tiles.queries, top_of(thread), lane_of(thread));
        all.of(thread).gradients = lefts_of<COLUMNS>(tiles.gradients, top_of(thread), lane_of(thread));
    }
    EACH_OF(2 * ROWS, thread) {
        if (top_of(thread) < at.queries) {
#pragma unroll 1
            for (int first = 0; first < at.keys; first += 16)
                put_probabilities(n, at, tiles, all, thread, first);
        }
    }
    EACH_OF(2 * ROWS, thread) {
#pragma unroll
        for (int i = 0; i < 2; i++)
            all.of(thread).inner[i] = sum_of_row(thread, [&](int other) { return all.of(other).part[i]; });
    }
    const bool side_by_side = n.first_key > 0, wants_memory = side_by_side || arrays.out[1];
    const Numbers out = output(arrays, side_by_side ? 0 : 1);
    NEXT_PHASE();
    if (wants_memory) {
        EACH_OF(2 * ROWS, thread) {
            write_of_keys<COLUMNS>(out, of_keys + columns, pitch, size, at, scale_of_kept(n), tiles.gradients, thread,
                                   [&](int query, int lane) {
                                       return only_kept(left_across<ROWS>(tiles.products, top_of(thread), query, lane));
                                   });
        }
        NEXT_PHASE();
    }
#pragma unroll 1
    for (int first = 0; first < at.keys; first += 16) {
        EACH_OF(2 * ROWS, thread) {
            if (top_of(thread) < at.queries)
                put_scores(n, tiles, all, thread, first);
        }
        EACH_OF(2 * ROWS, thread) {
            if (top_of(thread) < at.queries) {
                const int warp = thread / WARP * WARP, lane = lane_of(thread);
                add_rows_of(
                    all.of(thread).sums, [&](int lane) { return all.of(warp + lane).scores; }, tiles.keys, first, lane);
            }
        }
    }
    EACH_OF(2 * ROWS, thread) {
        if (top_of(thread) < at.queries) {
            Sums<COLUMNS> &sums = all.of(thread).sums;
            const int lane = lane_of(thread);
            each_sum(sums, lane, [&](float &sum, int, int) { sum *= n.scale; });
            store_sums(output(arrays, 0), of_queries, sums, top_of(thread), (int)n.query_pitch, at.queries, size, lane);
        }
    }
    NEXT_PHASE();
    if (wants_memory) {
        EACH_OF(2 * ROWS, thread) {
            write_of_keys<COLUMNS>(out, of_keys, pitch, size, at, n.scale, tiles.queries, thread,
                                   [&](int query, int lane) {
                                       return left_across<ROWS>(tiles.products, top_of(thread), query, lane);
                                   });
        }
    }
}
WHOLE_KERNELS(attention_whole_gradients, 512)
