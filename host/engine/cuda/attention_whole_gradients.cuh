// The gradients of attention over whole sequences (attention_whole.cuh), all by one block.

#pragma once

#include "attention_whole.cuh"

// A probability, which is no less than 0, has its sign set where dropout has left nothing of it.
const uint32_t DROPPED = 0x80008000u;

// What is kept, and 0 where something is dropped.
template <int COLUMNS> BODY Pairs<COLUMNS> only_kept(Pairs<COLUMNS> pairs) {
#pragma unroll
    for (int eight = 0; eight < COLUMNS / 8; eight++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint32_t &pair = pairs.x[eight][half];
            pair &= ~(((pair & DROPPED) >> 15) * 0xffffu);
        }
    return pairs;
}

// What a thread has of two queries, and of two keys.
template <int ROWS, int COLUMNS> struct WholeGradients {
    Lefts<COLUMNS> queries, gradients;
    Pairs<ROWS> p, scores;
    Sums<COLUMNS> dq, dk, dv;
    RowMask masks[2];
    // Of each query the log-sum-exp to base 2, and the lane's part of the sum of p dp.
    float log_sums[2], part[2];
};

// Probabilities and gradients of scores take the place of keys and values.
template <int ROWS, int COLUMNS> constexpr int attention_whole_gradients_floats() {
    const int BROUGHT = 2 * WHOLE_FLOATS<ROWS, COLUMNS>, MADE = 2 * WHOLE_FLOATS<ROWS, ROWS>;
    return BROUGHT + (BROUGHT > MADE ? BROUGHT : MADE);
}

// Puts what a lane holds of a warp's rows into a tile.
template <int COLUMNS> BODY void put_pairs(uint16_t *tile, const Pairs<COLUMNS> &pairs, int row, int columns, int lane) {
#pragma unroll
    for (int eight = 0; eight < COLUMNS / 8; eight++)
#pragma unroll
        for (int half = 0; half < 2; half++)
            if (8 * eight < columns) {
                const int at = (row + row_of_part(lane, 2 * half)) * HALF_WIDTH<COLUMNS> + column_of_lane(lane, eight, 0);
                at_once<uint32_t>(tile + at) = pairs.x[eight][half];
            }
}

// out0 the gradients of queries, and of keys and values where they lie behind them; or those in
// out1, if they are wanted. in0 to in5 as in `attention_whole`, in7 the context's gradient, in8
// log-sum-exps.
template <int ROWS, int COLUMNS>
BODY void attention_whole_gradients_tile(const Arrays &arrays, const Attention &n, int64_t block, float *shared) {
    uint16_t *queries = (uint16_t *)shared, *gradients = queries + WHOLE_TILE<ROWS, COLUMNS>;
    uint16_t *keys = gradients + WHOLE_TILE<ROWS, COLUMNS>, *values = keys + WHOLE_TILE<ROWS, COLUMNS>;
    uint16_t *p = keys, *scores = p + WHOLE_TILE<ROWS, ROWS>;
    const Place at = whole_place_of(arrays, n, block);
    const int size = (int)n.size, columns = (int)n.heads * size, pitch = (int)n.memory_pitch;
    const Numbers memory = input(arrays, 1);
    const int64_t of_queries = query_at(n, at, 0), of_keys = key_at(n, at, 0);
    const float scale = n.scale * LOG2_E, kept_scale = scale_of_kept(n);
    load_halves<COLUMNS, ROWS>({{queries, {input(arrays, 0), of_queries, (int)n.query_pitch}, at.queries},
                                {gradients, {input(arrays, 7), context_at(n, at, 0), columns}, at.queries},
                                {keys, {memory, of_keys, pitch}, at.keys},
                                {values, {memory, of_keys + columns, pitch}, at.keys}},
                               size);
    Own<WholeGradients<ROWS, COLUMNS>> all;
    EACH_OF(2 * ROWS, thread) {
        WholeGradients<ROWS, COLUMNS> &own = all.of(thread) = {};
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int row = top_of(thread) + row_of_part(lane_of(thread), 2 * i);
            own.masks[i] = mask_of_query(n, at, row);
            own.log_sums[i] = row < at.queries ? floats(arrays, 8)[of_query(n, at, row)] * LOG2_E : 0.0f;
        }
    }
    NEXT_PHASE();
    EACH_OF(2 * ROWS, thread) {
        if (top_of(thread) < at.queries) {
            all.of(thread).queries = lefts_of<COLUMNS>(queries, top_of(thread), lane_of(thread));
            all.of(thread).gradients = lefts_of<COLUMNS>(gradients, top_of(thread), lane_of(thread));
        }
    }
    // The gradients of 16 probabilities, before dropout's.
    const auto gradients_of = [&](int thread, int first) {
        Sums<16> dp;
        const auto rows = [&](int lane) -> const Lefts<COLUMNS> & {
            return all.of(thread / WARP * WARP + lane).gradients;
        };
        add_across<COLUMNS>(dp, rows, values + first * HALF_WIDTH<COLUMNS>, 16, lane_of(thread));
        return dp;
    };
    EACH_OF(2 * ROWS, thread) {
        if (top_of(thread) < at.queries) {
            WholeGradients<ROWS, COLUMNS> &own = all.of(thread);
            const int lane = lane_of(thread);
            const auto rows = [&](int lane) -> const Lefts<COLUMNS> & {
                return all.of(thread / WARP * WARP + lane).queries;
            };
#pragma unroll
            for (int first = 0; first < ROWS; first += 16)
                if (first < at.keys) {
                    Sums<16> p, dp = gradients_of(thread, first);
                    add_across<COLUMNS>(p, rows, keys + first * HALF_WIDTH<COLUMNS>, 16, lane);
                    float part[2] = {};
#pragma unroll
                    for (int eight = 0; eight < 2; eight++)
#pragma unroll
                        for (int k = 0; k < 4; k++) {
                            const int key = first + column_of_lane(lane, eight, k);
                            float &x = p.x[eight][k];
                            x = fast_power_of_two(fmaf(x, scale, -own.log_sums[k / 2]));
                            x = key < at.keys ? x : 0.0f;
                            const bool kept = keeps(n, own.masks[k / 2], key);
                            part[k / 2] += kept ? x * dp.x[eight][k] : 0.0f;
                            x = kept ? x : -x;
                        }
                    own.part[0] += part[0] * kept_scale;
                    own.part[1] += part[1] * kept_scale;
                    const Pairs<16> pairs = rounded(p);
#pragma unroll
                    for (int eight = 0; eight < 2; eight++)
#pragma unroll
                        for (int half = 0; half < 2; half++)
                            own.p.x[first / 8 + eight][half] = pairs.x[eight][half];
                }
        }
    }
    EACH_OF(2 * ROWS, thread) {
        if (top_of(thread) < at.queries) {
            WholeGradients<ROWS, COLUMNS> &own = all.of(thread);
            float inner[2];
#pragma unroll
            for (int i = 0; i < 2; i++)
                inner[i] = sum_of_row(thread, [&](int other) { return all.of(other).part[i]; });
#pragma unroll
            for (int first = 0; first < ROWS; first += 16)
                if (first < at.keys) {
                    Sums<16> dp = gradients_of(thread, first);
#pragma unroll
                    for (int eight = 0; eight < 2; eight++)
#pragma unroll
                        for (int k = 0; k < 4; k++) {
                            const uint32_t pair = own.p.x[first / 8 + eight][k / 2];
                            const float p = widened((uint16_t)(k % 2 == 0 ? pair & 0xffffu : pair >> 16));
                            const float factor = p < 0.0f ? 0.0f : kept_scale;
                            dp.x[eight][k] = fabsf(p) * fmaf(dp.x[eight][k], factor, -inner[k / 2]);
                        }
                    const Pairs<16> pairs = rounded(dp);
#pragma unroll
                    for (int eight = 0; eight < 2; eight++)
#pragma unroll
                        for (int half = 0; half < 2; half++)
                            own.scores.x[first / 8 + eight][half] = pairs.x[eight][half];
                }
        }
    }
    EACH_OF(2 * ROWS, thread) {
        if (top_of(thread) < at.queries) {
            Sums<COLUMNS> &dq = all.of(thread).dq;
            const int warp = thread / WARP * WARP, lane = lane_of(thread);
            const auto scores = [&](int lane) -> const Pairs<ROWS> & { return all.of(warp + lane).scores; };
            add_product<COLUMNS, ROWS>(dq, scores, keys, at.keys, lane);
            each_sum(dq, lane, [&](float &sum, int, int) { sum *= n.scale; });
            store_sums(output(arrays, 0), of_queries, dq, top_of(thread), (int)n.query_pitch, at.queries, size, lane);
        }
    }
    const bool side_by_side = n.first_key > 0;
    if (!side_by_side && !arrays.out[1])
        return;
    NEXT_PHASE();
    EACH_OF(2 * ROWS, thread) {
        if (top_of(thread) < at.queries) {
            const WholeGradients<ROWS, COLUMNS> &own = all.of(thread);
            put_pairs(p, only_kept(own.p), top_of(thread), at.keys, lane_of(thread));
            put_pairs(scores, own.scores, top_of(thread), at.keys, lane_of(thread));
        }
    }
    NEXT_PHASE();
    const Numbers out = output(arrays, side_by_side ? 0 : 1);
    EACH_OF(2 * ROWS, thread) {
        const int top = top_of(thread), lane = lane_of(thread);
        if (top < at.keys) {
            WholeGradients<ROWS, COLUMNS> &own = all.of(thread);
#pragma unroll 1
            for (int query = 0; query < at.queries; query += 16) {
                const auto of_values = [=](int lane) { return left_across<ROWS>(p, top, query, lane); };
                const auto of_keys = [=](int lane) { return left_across<ROWS>(scores, top, query, lane); };
                add_rows_of(own.dv, held_of(lane, of_values), gradients, query, lane);
                add_rows_of(own.dk, held_of(lane, of_keys), queries, query, lane);
            }
            each_sum(own.dk, lane, [&](float &sum, int, int) { sum *= n.scale; });
            each_sum(own.dv, lane, [&](float &sum, int, int) { sum *= kept_scale; });
            store_sums(out, of_keys, own.dk, top, pitch, at.keys, size, lane);
            store_sums(out, of_keys + columns, own.dv, top, pitch, at.keys, size, lane);
        }
    }
}
WHOLE_KERNELS(attention_whole_gradients, 512)
