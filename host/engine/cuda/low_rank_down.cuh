// What factors make of rows, which are [rank] each.

#pragma once

// Rows of a block.
const int DOWN_ROWS = 32;

// Places in the rank of a lane's factor: of each tile of a product one, side by side.
template <int RANKS> constexpr int DOWN_PLACES = RANKS / 8;

template <int RANKS, class Array> struct Down {
    Sums<RANKS> sums[2];
    Eight<Array> next[4];
    Patch<DOWN_PLACES<RANKS>> next_factor;
    Left rows[2][2];
    FewPairs<8> factor[RANKS / 8];
};

template <int RANKS> constexpr int low_rank_down_floats() {
    return HALF_WARPS * DOWN_ROWS * RANKS + 2 * DOWN_ROWS;
}

BODY ReadArrays low_rank_down_arrays(const Arrays &arrays) {
    return {input(arrays, 0), 3, 0, {}};
}

// out0 [updates, tokens, rank] = of each update scale times what a dropout leaves of columns of
// in0 [tokens, pitch], times its factor, in3 and behind it. in1, in2 see load_masks. Warps share
// the columns.
template <int RANKS, class Array>
BODY void low_rank_down_tile(const Arrays &arrays, const LowRank &all_of_them, int64_t number, float *shared) {
    const int updates = (int)all_of_them.updates, update = (int)number % updates;
    const LowRank n = update_of(all_of_them, update);
    RowMask *masks = (RowMask *)(shared + HALF_WARPS * DOWN_ROWS * RANKS);
    const WideRows<Array> x(n, input<Array>(arrays, 0));
    const FactorOf<Array> by(n, input_of(arrays, 3, update));
    const int first = (int)number / updates * DOWN_ROWS;
    const int columns = (int)n.columns, rank = (int)n.rank, STEP = 32 * HALF_WARPS, PLACES = DOWN_PLACES<RANKS>;
    Own<Down<RANKS, Array>> all;
    const auto column_of = [](int thread) { return thread / WARP * 32 + lane_of(thread) % 4 * 8; };
    const auto load = [&](int thread, int step) {
        Down<RANKS, Array> &own = all.of(thread);
        const int lane = lane_of(thread), column = step + column_of(thread);
#pragma unroll
        for (int part = 0; part < 4; part++)
            own.next[part] = x.eight(first + lane / 4 + 8 * part, column);
        by.as_it_lies([&](auto lies) {
            by.template read_patch<decltype(lies)>(own.next_factor, lane / 4 * PLACES, column);
        });
    };
    EACH_HALF(thread) {
        all.of(thread).sums[0] = all.of(thread).sums[1] = {};
        load(thread, 0);
    }
    load_masks(arrays, n, 0, 1, first, DOWN_ROWS, 0, masks);
    NEXT_PHASE();
    for (int step = 0; step < columns; step += STEP) {
        EACH_HALF(thread) {
            Down<RANKS, Array> &own = all.of(thread);
            const int lane = lane_of(thread), column = step + column_of(thread);
            const auto take = [&](auto left_of) {
#pragma unroll
                for (int part = 0; part < 4; part++) {
                    const FewPairs<8> left = left_of(own.next[part], lane / 4 + 8 * part);
#pragma unroll
                    for (int k = 0; k < 4; k++)
                        own.rows[part / 2][k / 2].pairs[k % 2 * 2 + part % 2] = left.x[k];
                }
            };
            if (n.has_mask)
                take([&](const Eight<Array> &next, int row) {
                    Few<8> found = widened(next);
                    drop(found, 1, n.masks[0], masks[row], column);
                    return pairs_of(found);
                });
            else
                take([&](const Eight<Array> &next, int) { return pairs_of(next); });
            by.as_it_lies([&](auto lies) {
                using L = decltype(lies);
#pragma unroll
                for (int tile = 0; tile < RANKS / 8; tile++)
#pragma unroll
                    for (int k = 0; k < 4; k++) {
                        const auto number = [&](int column) { return number_of<L>(own.next_factor, tile, column); };
                        own.factor[tile].x[k] = column < columns ? pair_of(number(2 * k), number(2 * k + 1)) : 0;
                    }
            });
            if (step + STEP < columns)
                load(thread, step + STEP);
        }
        EACH_HALF(thread) {
            const int warp = thread / WARP * WARP;
#pragma unroll
            for (int tile = 0; tile < RANKS / 8; tile++)
#pragma unroll
                for (int part = 0; part < 4; part++)
                    multiply(
                        all.of(thread).sums[part / 2].x[tile], lane_of(thread),
                        [&](int lane) { return all.of(warp + lane).rows[part / 2][part % 2]; },
                        [&](int lane) {
                            const uint32_t *pairs = all.of(warp + lane).factor[tile].x + part % 2 * 2;
                            return Right{{pairs[0], pairs[1]}};
                        });
        }
    }
    // Of each warp, half of the rows, and tile, what lanes hold lies side by side.
    const auto part_at = [&](int warp, int half, int tile, int lane) {
        return shared + (((warp * 2 + half) * (RANKS / 8) + tile) * WARP + lane) * 4;
    };
    EACH_HALF(thread) {
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int tile = 0; tile < RANKS / 8; tile++) {
                const float *sums = all.of(thread).sums[half].x[tile];
                at_once<Few<4>>(part_at(thread / WARP, half, tile, lane_of(thread))) =
                    Few<4>{{sums[0], sums[1], sums[2], sums[3]}};
            }
    }
    NEXT_PHASE();
    const Numbers low = output(arrays, 0);
    const bool by_four = rank % 4 == 0 && (uintptr_t)low.at % 16 == 0;
    EACH_HALF(thread) {
        // A row, and of it the places of two columns of each tile, which are side by side.
        const int lane = lane_of(thread), half = thread / WARP / 2, below = thread / WARP % 2;
        const int row = first + 16 * half + 8 * below + lane / 4, from = lane % 4 * 2 * PLACES;
        float found[2 * PLACES];
#pragma unroll
        for (int tile = 0; tile < PLACES; tile++) {
            Few<2> total = {};
            for (int warp = 0; warp < HALF_WARPS; warp++)
                add(total, at_once<const Few<2>>(part_at(warp, half, tile, lane) + 2 * below));
#pragma unroll
            for (int k = 0; k < 2; k++)
                found[k * PLACES + tile] = total.x[k] * n.scale;
        }
        const int64_t at = ((int64_t)update * n.tokens + row) * rank + from;
#pragma unroll
        for (int k = 0; k < 2 * PLACES; k += 4)
            if (row < (int)n.tokens && by_four && from + k < rank)
                put_few(low, at + k, Few<4>{{found[k], found[k + 1], found[k + 2], found[k + 3]}});
#pragma unroll
        for (int k = 0; k < 2 * PLACES; k++)
            if (row < (int)n.tokens && !by_four && from + k < rank)
                put(low, at + k, found[k]);
    }
}
RANK_KERNEL(low_rank_down, 16, 4)
RANK_KERNEL(low_rank_down, 64, 2)
