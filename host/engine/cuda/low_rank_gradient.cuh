// Gradients of factors: rows of [rank], across, times rows of a wide matrix.

#pragma once

// Rows of a piece at most, and columns of a block.
const int GRADIENT_ROWS = 512, GRADIENT_COLUMNS = 64;

template <int RANKS, class Array> struct Gradient {
    // Of a lane's four rows, and of each two of them a pair of places in the rank.
    Eight<Array> next[4];
    uint32_t next_low[RANKS / 16][4];
    Left low[RANKS / 16];
    Right rows[8];
    Sums<GRADIENT_COLUMNS> sums[RANKS / 16];
    // By which columns are recovered.
    Few<8> gain, shift;
};

template <int RANKS> constexpr int low_rank_gradient_floats() {
    return HALF_WARPS * 16 * GRADIENT_COLUMNS + 2 * GRADIENT_ROWS;
}

BODY ReadArrays low_rank_gradient_arrays(const Arrays &arrays) {
    return {input(arrays, 0), 0, 3, {6, 9}};
}

// out0 [pieces, updates, rank, columns] = of each piece of rows and each update, scale times the
// products of its rows [tokens, rank], in3 and behind it, read across, with what a dropout leaves
// of columns of in0 [tokens, pitch]; or, across, [pieces, updates, columns, rank]. Where in0 is to
// be recovered, its columns are multiplied by those of in6 before, and those of in9 are added. in1,
// in2 see load_masks. Warps share the rows.
template <int RANKS, class Array>
BODY void low_rank_gradient_tile(const Arrays &arrays, const LowRank &all_of_them, int64_t number, float *shared) {
    const int updates = (int)all_of_them.updates, update = (int)number % updates, block = (int)number / updates;
    const LowRank n = update_of(all_of_them, update);
    RowMask *masks = (RowMask *)(shared + HALF_WARPS * 16 * GRADIENT_COLUMNS);
    const WideRows<Array> x(n, input<Array>(arrays, 0));
    const LowRows<Array> low(n, input_of(arrays, 3, update));
    const int columns = (int)n.columns, rank = (int)n.rank, span = n.span;
    const int strips = (columns + GRADIENT_COLUMNS - 1) / GRADIENT_COLUMNS, piece = block / strips;
    const int first = piece * span, strip = block % strips * GRADIENT_COLUMNS;
    const int of_warp = (int)((uint32_t)span / HALF_WARPS);
    Own<Gradient<RANKS, Array>> all;
    // Four rows side by side are the places of a lane.
    const auto top_at = [&](int thread, int step) {
        return thread / WARP * of_warp + step + lane_of(thread) % 4 * 4;
    };
    const auto column_of = [&](int thread) { return strip + lane_of(thread) / 4 * 8; };
    const auto load = [&](int thread, int step) {
        Gradient<RANKS, Array> &own = all.of(thread);
        const int lane = lane_of(thread);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int row = first + top_at(thread, step) + i;
            own.next[i] = x.eight(row, column_of(thread));
#pragma unroll
            for (int part = 0; part < RANKS / 16; part++)
                own.next_low[part][i] = low.template few<2>(row, 16 * part + lane / 4 * 2).x[0];
        }
    };
    EACH_HALF(thread) {
        Gradient<RANKS, Array> &own = all.of(thread);
#pragma unroll
        for (int part = 0; part < RANKS / 16; part++)
            own.sums[part] = {};
        load(thread, 0);
        if (n.recovers) {
            own.gain = Vector<Array>(n, input(arrays, 6)).eight(column_of(thread));
            own.shift = Vector<Array>(n, input(arrays, 9)).eight(column_of(thread));
        }
    }
    load_masks(arrays, n, 0, 1, first, span, 0, masks);
    NEXT_PHASE();
    for (int step = 0; step < of_warp; step += 16) {
        EACH_HALF(thread) {
            Gradient<RANKS, Array> &own = all.of(thread);
            // Of each two rows, pairs of the numbers of a column.
            const auto take = [&](auto left_of) {
#pragma unroll
                for (int half = 0; half < 2; half++)
                    left_of(2 * half, [&](int tile, uint32_t pair) { own.rows[tile].pairs[half] = pair; });
            };
            if (IS_HALVES<Array> && !n.has_mask && !n.recovers)
                take([&](int i, auto put) {
                    const FewPairs<8> upper = pairs_of(own.next[i]), lower = pairs_of(own.next[i + 1]);
#pragma unroll
                    for (int k = 0; k < 4; k++) {
                        put(2 * k, lower_of(upper.x[k], lower.x[k]));
                        put(2 * k + 1, upper_of(upper.x[k], lower.x[k]));
                    }
                });
            else
                take([&](int i, auto put) {
                    Few<8> found[2];
#pragma unroll
                    for (int k = 0; k < 2; k++) {
                        found[k] = widened(own.next[i + k]);
                        if (n.recovers)
                            multiply_add(found[k], own.gain, own.shift);
                        if (n.has_mask)
                            drop(found[k], 1, n.masks[0], masks[top_at(thread, step) + i + k], column_of(thread));
                    }
#pragma unroll
                    for (int tile = 0; tile < 8; tile++)
                        put(tile, pair_of(found[0].x[tile], found[1].x[tile]));
                });
#pragma unroll
            for (int part = 0; part < RANKS / 16; part++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const auto pair = [&](int i) {
                        return first + top_at(thread, step) + i < (int)n.tokens ? own.next_low[part][i] : 0;
                    };
                    const uint32_t upper = pair(2 * half), lower = pair(2 * half + 1);
                    own.low[part].pairs[2 * half] = lower_of(upper, lower);
                    own.low[part].pairs[2 * half + 1] = upper_of(upper, lower);
                }
            if (step + 16 < of_warp)
                load(thread, step + 16);
        }
        EACH_HALF(thread) {
            const int warp = thread / WARP * WARP;
#pragma unroll
            for (int part = 0; part < RANKS / 16; part++)
                if (16 * part < rank) {
#pragma unroll
                    for (int tile = 0; tile < 8; tile++)
                        multiply(
                            all.of(thread).sums[part].x[tile], lane_of(thread),
                            [&](int lane) { return all.of(warp + lane).low[part]; },
                            [&](int lane) { return all.of(warp + lane).rows[tile]; });
                }
        }
    }
    float *out = results(arrays, 0) + ((int64_t)piece * updates + update) * rank * columns;
    const bool by_four = columns % 4 == 0 && (uintptr_t)out % 16 == 0;
#pragma unroll
    for (int part = 0; part < RANKS / 16; part++) {
        // Of each warp and tile, what lanes hold lies side by side.
        EACH_HALF(thread) {
#pragma unroll
            for (int tile = 0; tile < 8; tile++) {
                const float *sums = all.of(thread).sums[part].x[tile];
                at_once<Few<4>>(shared + ((thread / WARP * 8 + tile) * WARP + lane_of(thread)) * 4) =
                    Few<4>{{sums[0], sums[1], sums[2], sums[3]}};
            }
        }
        NEXT_PHASE();
        EACH_HALF(thread) {
            // One of the four numbers of a lane, of each tile: eight columns side by side.
            const int lane = thread / 4, k = thread % 4, of = 16 * part + lane / 4 * 2 + k / 2;
            const int column = strip + (lane % 4 * 2 + k % 2) * 8;
            Few<8> total = {};
#pragma unroll
            for (int tile = 0; tile < 8; tile++) {
                for (int warp = 0; warp < HALF_WARPS; warp++)
                    total.x[tile] += shared[(warp * 8 + tile) * WARP * 4 + thread];
                total.x[tile] *= n.scale;
            }
#pragma unroll
            for (int tile = 0; tile < 8; tile += 4)
                if (of < rank && !n.across && by_four && column + tile < columns)
                    put_few(Floats{out, false}, of * columns + column + tile,
                            Few<4>{{total.x[tile], total.x[tile + 1], total.x[tile + 2], total.x[tile + 3]}});
#pragma unroll
            for (int tile = 0; tile < 8; tile++)
                if (of < rank && !(by_four && !n.across) && column + tile < columns)
                    out[n.across ? (column + tile) * rank + of : of * columns + column + tile] = total.x[tile];
        }
        if (part + 1 < RANKS / 16)
            NEXT_PHASE();
    }
}
RANK_KERNEL(low_rank_gradient, 16, 4)
RANK_KERNEL(low_rank_gradient, 64, 2)
