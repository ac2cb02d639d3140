// What is added to rows: rows of [rank] times factors.

#pragma once

// Rows of a block at most, and columns of a warp.
const int UP_ROWS = 64, UP_COLUMNS = 64;

// Updates at most that a block adds to the same columns.
template <int RANKS> constexpr int ADDED = RANKS == 16 ? UPDATES : 1;

template <int RANKS, class Array> struct Up {
    FewPairs<8> factor[RANKS / 4];
    Left low[RANKS / 16];
    Eight<Array> next[4];
    Few<8> total[4];
    Sums<8 * 8> sums;
};

// Numbers from row to row of rows of [rank] in shared memory: of what lanes read at once, no two
// lie in one bank.
template <int RANKS> constexpr int LOW_WIDTH = RANKS == 16 ? 16 : RANKS + 16;

// Floats of shared memory of each update: masks, rows, and what the lanes have of the factor.
template <int RANKS> constexpr int UP_LOW = UP_ROWS * LOW_WIDTH<RANKS> / 2;
template <int RANKS> constexpr int UP_FLOATS = 2 * UP_ROWS + UP_LOW<RANKS> + RANKS * HALF_THREADS;

template <int RANKS> constexpr int low_rank_up_floats() {
    return ADDED<RANKS> * UP_FLOATS<RANKS>;
}

BODY ReadArrays low_rank_up_arrays(const Arrays &arrays) {
    return {output(arrays, 0), 3, 6, {9}};
}

// Columns of out0 [tokens, pitch] = of each update what a dropout leaves of scale times its rows
// [tokens, rank], in6 and behind it, times its factor, in3 and behind it, plus a vector [columns]
// where it is given, in9 and behind it; or these added to what is there. Updates whose columns are
// the same are added up by one block. in1, in2 see load_masks.
template <int RANKS, class Array>
BODY void low_rank_up_tile(const Arrays &arrays, const LowRank &all_of_them, int64_t number, float *shared) {
    const int MOST = ADDED<RANKS>, COLUMNS = UP_COLUMNS * HALF_WARPS;
    const int count = all_of_them.step == 0 ? (int)all_of_them.updates : 1;
    const int apart = count > 1 ? 1 : (int)all_of_them.updates;
    const int update = (int)number % apart, block = (int)number / apart;
    const LowRank n = update_of(all_of_them, update);
    const WideRows<Array> out(n, output<Array>(arrays, 0));
    const int tokens = (int)n.tokens, rank = (int)n.rank, span = n.span;
    const int strips = ((int)n.columns + COLUMNS - 1) / COLUMNS;
    const int first = block / strips * span, strip = block % strips * COLUMNS;
    Own<Up<RANKS, Array>> all;
    // Of an update: its masks, its rows, and what a lane has of its factor, in four parts of each
    // 16 places in the rank.
    const auto masks_of = [&](int more) { return (RowMask *)(shared + more * UP_FLOATS<RANKS>); };
    const auto lows_of = [&](int more) { return (uint16_t *)(shared + more * UP_FLOATS<RANKS> + 2 * UP_ROWS); };
    const auto factor_at = [&](int more, int part, int thread) {
        return shared + more * UP_FLOATS<RANKS> + 2 * UP_ROWS + UP_LOW<RANKS> + (part * HALF_THREADS + thread) * 4;
    };
    // The row and the column of a lane's part of what is added: lanes that have a row have columns
    // side by side.
    const auto row_at = [](int thread, int part) { return lane_of(thread) / 4 + part / 2 * 8; };
    const auto column_at = [&](int thread, int part) {
        return strip + thread / WARP * UP_COLUMNS + (lane_of(thread) % 4 + part % 2 * 4) * 8;
    };
    const auto load = [&](int thread, int row) {
        if (n.adds) {
#pragma unroll
            for (int part = 0; part < 4; part++)
                all.of(thread).next[part] = out.eight(first + row + row_at(thread, part), column_at(thread, part));
        }
    };
    // What a lane has of a factor, of columns of which each is one of a tile, as column_at has them.
    const auto put_factor = [&](int thread, int more) {
        const FactorOf<Array> factor(n, input_of(arrays, 3, update + more));
        const int lane = lane_of(thread), group = lane / 8 + lane / 4 % 2 * 4;
        const int column = strip + thread / WARP * UP_COLUMNS + group * 8;
        factor.as_it_lies([&](auto lies) {
            using L = decltype(lies);
#pragma unroll
            for (int step = 0; step < RANKS / 16; step++) {
                Patch<4> patch;
                factor.template read_patch<L>(patch, 16 * step + lane % 4 * 4, column);
#pragma unroll
                for (int part = 0; part < 4; part++) {
                    FewPairs<8> pairs;
#pragma unroll
                    for (int k = 0; k < 4; k++) {
                        const auto number = [&](int place) { return number_of<L>(patch, place, 2 * part + k / 2); };
                        pairs.x[k] = pair_of(number(k % 2 * 2), number(k % 2 * 2 + 1));
                    }
                    at_once<FewPairs<8>>(factor_at(more, 4 * step + part, thread)) = pairs;
                }
            }
        });
    };
    EACH_HALF(thread) {
        load(thread, 0);
        // Rows of all updates are on their way while factors are read: those of the first for
        // others that there are not.
        const int FOURS = RANKS / 4, TURNS = UP_ROWS * FOURS / HALF_THREADS;
        const int of_rank = thread % FOURS * 4, top = thread / FOURS;
        FewPairs<4> found[MOST][TURNS];
#pragma unroll
        for (int more = 0; more < MOST; more++) {
            const LowRows<Array> low(n, input_of(arrays, 6, update + (more < count ? more : 0)));
#pragma unroll
            for (int turn = 0; turn < TURNS; turn++)
                found[more][turn] = low.template few<4>(first + top + turn * (HALF_THREADS / FOURS), of_rank);
        }
#pragma unroll 1
        for (int more = 0; more < count; more++)
            put_factor(thread, more);
#pragma unroll
        for (int more = 0; more < MOST; more++)
            if (more < count) {
#pragma unroll
                for (int turn = 0; turn < TURNS; turn++)
                    at_once<FewPairs<4>>(lows_of(more) + (top + turn * (HALF_THREADS / FOURS)) * LOW_WIDTH<RANKS> +
                                         of_rank) = of_rank < rank ? found[more][turn] : FewPairs<4>{};
            }
    }
    load_masks(arrays, all_of_them, update, count, first, span, UP_FLOATS<RANKS> / 2, masks_of(0));
    NEXT_PHASE();
    for (int row = 0; row < span && first + row < tokens; row += 16) {
        EACH_HALF(thread) {
            Up<RANKS, Array> &own = all.of(thread);
#pragma unroll
            for (int part = 0; part < 4; part++)
                own.total[part] = n.adds ? widened(own.next[part]) : Few<8>{};
            if (row + 16 < span)
                load(thread, row + 16);
        }
#pragma unroll 1
        for (int more = 0; more < count; more++) {
            EACH_HALF(thread) {
                Up<RANKS, Array> &own = all.of(thread);
                const int lane = lane_of(thread);
                own.sums = {};
#pragma unroll
                for (int part = 0; part < RANKS / 4; part++)
                    own.factor[part] = at_once<const FewPairs<8>>(factor_at(more, part, thread));
#pragma unroll
                for (int step = 0; step < RANKS / 16; step++)
#pragma unroll
                    for (int below = 0; below < 2; below++) {
                        const int of_row = row + lane / 4 + 8 * below, of_rank = 16 * step + lane % 4 * 4;
                        const uint16_t *at = lows_of(more) + of_row * LOW_WIDTH<RANKS> + of_rank;
                        const FewPairs<4> found = at_once<const FewPairs<4>>(at);
                        own.low[step].pairs[below] = found.x[0];
                        own.low[step].pairs[2 + below] = found.x[1];
                    }
            }
            EACH_HALF(thread) {
                const int warp = thread / WARP * WARP;
#pragma unroll
                for (int step = 0; step < RANKS / 16; step++)
#pragma unroll
                    for (int tile = 0; tile < 8; tile++)
                        multiply(
                            all.of(thread).sums.x[tile], lane_of(thread),
                            [&](int lane) { return all.of(warp + lane).low[step]; },
                            [&](int lane) {
                                const uint32_t *pairs =
                                    all.of(warp + lane).factor[4 * step + tile / 2].x + tile % 2 * 2;
                                return Right{{pairs[0], pairs[1]}};
                            });
            }
            EACH_HALF(thread) {
                Up<RANKS, Array> &own = all.of(thread);
                const LowRank of = update_of(all_of_them, update + more);
                const Vector<Array> bias(n, input_of(arrays, 9, update + more));
                if (bias.vector.at) {
#pragma unroll
                    for (int side = 0; side < 2; side++) {
                        const Few<8> found = bias.eight(column_at(thread, side));
                        add(own.total[side], found);
                        add(own.total[2 + side], found);
                    }
                }
                // Rounded once where a product is added, on each device.
                const auto add_times = [&](auto by) {
#pragma unroll
                    for (int part = 0; part < 4; part++) {
                        const Few<8> found = by(row + row_at(thread, part), column_at(thread, part));
#pragma unroll
                        for (int tile = 0; tile < 8; tile++)
                            own.total[part].x[tile] =
                                fmaf(own.sums.x[tile][part], found.x[tile], own.total[part].x[tile]);
                    }
                };
                if (n.has_mask)
                    add_times([&](int under, int column) {
                        return factors<8>(of.masks[0], masks_of(more)[under], column, n.scale * of.masks[0].scale);
                    });
                else
                    add_times([&](int, int) {
                        return Few<8>{{n.scale, n.scale, n.scale, n.scale, n.scale, n.scale, n.scale, n.scale}};
                    });
            }
        }
        EACH_HALF(thread) {
#pragma unroll
            for (int part = 0; part < 4; part++)
                out.write(first + row + row_at(thread, part), column_at(thread, part), all.of(thread).total[part]);
        }
    }
}
RANK_KERNEL(low_rank_up, 16, 4)
RANK_KERNEL(low_rank_up, 64, 2)
