// Low-rank updates of linear layers (Hu et al. 2021) and their gradients, of numbers rounded
// to bf16, by tensor cores: what a factor makes of rows, what is added to rows, and the
// gradient of a factor. Each reads its wide matrix once, and drops in registers.
//
// A sum's order is free, and so is that of columns, as long as both factors of a product
// agree on it: each lane has eight columns side by side, which are read at once, where an
// instruction asks for columns of eight tiles, or for four pairs of places. While a lane
// computes with what it has read, what it needs next is on its way.

#pragma once

#include "low_rank_reads.cuh"

const int HALF_WARPS = HALF_THREADS / WARP;
// Rows of a block that a factor makes less of; rows, and columns of a warp, of one that
// adds; rows of a piece of a gradient.
const int DOWN_ROWS = 32, UP_ROWS = 64, UP_COLUMNS = 64, GRADIENT_ROWS = 256;
// Columns of a factor that a block has in shared memory at a time, where it makes less of rows.
template <int RANKS> constexpr int CHUNK = RANKS == 16 ? 768 : 256;

// A kernel for ranks up to so many, for each way to read.
#define RANK_ENTRY(NAME, RANKS, BLOCKS, ARRAY)                                                    \
    BLOCK_ENTRY(NAME##_##RANKS##_##ARRAY, HALF_THREADS, BLOCKS, LowRank, NAME##_floats<RANKS>(),  \
                NAME##_tile<RANKS, ARRAY>)

#define RANK_KERNEL(NAME, RANKS, BLOCKS)                                                          \
    RANK_ENTRY(NAME, RANKS, BLOCKS, Halves)                                                       \
    RANK_ENTRY(NAME, RANKS, BLOCKS, Numbers)                                                      \
    CHOICE_OF_READS(NAME##_##RANKS, NAME##_arrays)                                      \
    KNOWN_BY_LAYOUT(NAME##_##RANKS, LowRank, NAME##_floats<RANKS>() * sizeof(float), NAME##_##RANKS##_suffix)

// The masks of a block's rows, by which the first update drops them. in1 starts, in2 places.
BODY void load_masks(const Arrays &arrays, const LowRank &n, int64_t first, int rows, RowMask *masks) {
    EACH_HALF(thread) {
        for (int row = thread; row < rows; row += HALF_THREADS) {
            const bool has = n.has_mask && first + row < n.tokens;
            masks[row] = has ? mask_of(n.masks[0], n.packing, integers(arrays, 1), integers(arrays, 2), first + row)
                             : RowMask{};
        }
    }
}

template <int RANKS, class Array> struct Down {
    Sums<RANKS> sums[2];
    Eight<Array> next[4];
    Left rows[2][2];
    FewPairs<8> ranks[RANKS / 8];
};

template <int RANKS> constexpr int low_rank_down_floats() {
    constexpr int PARTS = HALF_WARPS * DOWN_ROWS * RANKS, FACTOR = RANKS * BY_RANK<CHUNK<RANKS>> / 2;
    return (PARTS > FACTOR ? PARTS : FACTOR) + 2 * DOWN_ROWS;
}

BODY ReadArrays low_rank_down_arrays(const Arrays &arrays) {
    return {input(arrays, 0), 0, {}};
}

// out0 [updates, tokens, rank] = of each update scale times what a dropout leaves of columns of
// in0 [tokens, pitch], times its factor, in3 and behind it. in1, in2 see load_masks. Warps share
// the columns.
template <int RANKS, class Array>
BODY void low_rank_down_tile(const Arrays &arrays, const LowRank &all_of_them, int64_t number, float *shared) {
    const int update = (int)(number % all_of_them.updates);
    const int64_t block = number / all_of_them.updates;
    const LowRank n = update_of(all_of_them, update);
    RowMask *masks = (RowMask *)shared;
    uint16_t *factor = (uint16_t *)(shared + 2 * DOWN_ROWS);
    const WideRows<Array> x(n, input<Array>(arrays, 0));
    const int64_t first = block * DOWN_ROWS;
    const int columns = (int)n.columns, rank = (int)n.rank, STEP = 32 * HALF_WARPS;
    Own<Down<RANKS, Array>> all;
    const auto column_of = [](int thread) { return thread / WARP * 32 + lane_of(thread) % 4 * 8; };
    const auto load = [&](int thread, int step) {
#pragma unroll
        for (int part = 0; part < 4; part++)
            all.of(thread).next[part] = x.eight(first + lane_of(thread) / 4 + 8 * part, step + column_of(thread));
    };
    EACH_HALF(thread) {
        all.of(thread).sums[0] = all.of(thread).sums[1] = {};
        load(thread, 0);
    }
    load_masks(arrays, n, first, DOWN_ROWS, masks);
    for (int from = 0; from < columns; from += CHUNK<RANKS>) {
        NEXT_PHASE();
        put_by_rank<RANKS, CHUNK<RANKS>>(factor, input_of(arrays, 3, update), n, from);
        NEXT_PHASE();
        const int end = columns - from < CHUNK<RANKS> ? columns : from + CHUNK<RANKS>;
        for (int step = from; step < end; step += STEP) {
            EACH_HALF(thread) {
                Down<RANKS, Array> &own = all.of(thread);
                const int lane = lane_of(thread), column = step + column_of(thread);
#pragma unroll
                for (int part = 0; part < 4; part++) {
                    Few<8> found = widened(own.next[part]);
                    drop(found, n.has_mask, n.masks[0], masks[lane / 4 + 8 * part], column);
#pragma unroll
                    for (int k = 0; k < 4; k++)
                        own.rows[part / 2][k / 2].pairs[k % 2 * 2 + part % 2] =
                            pair_of(found.x[2 * k], found.x[2 * k + 1]);
                }
                load(thread, step + STEP);
#pragma unroll
                for (int tile = 0; tile < RANKS / 8; tile++)
                    if (8 * tile < rank)
                        own.ranks[tile] = by_rank<CHUNK<RANKS>>(factor, 8 * tile + lane / 4, column - from);
            }
            EACH_HALF(thread) {
                const int warp = thread / WARP * WARP;
#pragma unroll
                for (int tile = 0; tile < RANKS / 8; tile++)
                    if (8 * tile < rank) {
#pragma unroll
                        for (int part = 0; part < 4; part++)
                            multiply(
                                all.of(thread).sums[part / 2].x[tile], lane_of(thread),
                                [&](int lane) { return all.of(warp + lane).rows[part / 2][part % 2]; },
                                [&](int lane) {
                                    const uint32_t *pairs = all.of(warp + lane).ranks[tile].x + part % 2 * 2;
                                    return Right{{pairs[0], pairs[1]}};
                                });
                    }
            }
        }
    }
    NEXT_PHASE();
    float *parts = shared + 2 * DOWN_ROWS;
    EACH_HALF(thread) {
        float *own = parts + thread / WARP * DOWN_ROWS * RANKS;
#pragma unroll
        for (int half = 0; half < 2; half++)
            each_sum(all.of(thread).sums[half], lane_of(thread), [&](float &sum, int i, int column) {
                own[(16 * half + lane_of(thread) / 4 + 8 * i) * RANKS + column] = sum;
            });
    }
    NEXT_PHASE();
    EACH_HALF(thread) {
        for (int place = thread; place < DOWN_ROWS * RANKS; place += HALF_THREADS) {
            const int row = place / RANKS, column = place % RANKS;
            float total = 0.0f;
            for (int warp = 0; warp < HALF_WARPS; warp++)
                total += parts[warp * DOWN_ROWS * RANKS + place];
            if (first + row < n.tokens && column < rank)
                put(output(arrays, 0), (update * n.tokens + first + row) * rank + column, total * n.scale);
        }
    }
}
RANK_KERNEL(low_rank_down, 16, 4)
RANK_KERNEL(low_rank_down, 64, 2)

// Updates at most that a block adds to the same columns.
template <int RANKS> constexpr int ADDED = RANKS == 16 ? UPDATES : 1;

template <int RANKS, class Array> struct Up {
    Right factor[RANKS / 16][8];
    Left low[RANKS / 16], next_low[ADDED<RANKS>][RANKS / 16];
    Eight<Array> next[4];
    Few<8> total[4];
    Sums<8 * 8> sums;
};

template <int RANKS> constexpr int UP_FACTOR = UP_COLUMNS * HALF_WARPS * BY_COLUMN<RANKS>;

template <int RANKS> constexpr int low_rank_up_floats() {
    return ADDED<RANKS> * (2 * UP_ROWS + UP_FACTOR<RANKS> / 2);
}

BODY ReadArrays low_rank_up_arrays(const Arrays &arrays) {
    return {output(arrays, 0), 6, {9}};
}

// Columns of out0 [tokens, pitch] = of each update what a dropout leaves of scale times its rows
// [tokens, rank], in6 and behind it, times its factor, in3 and behind it, plus a vector [columns]
// where it is given, in9 and behind it; or these added to what is there. Updates whose columns are
// the same are added up by one block. in1, in2 see load_masks.
template <int RANKS, class Array>
BODY void low_rank_up_tile(const Arrays &arrays, const LowRank &all_of_them, int64_t number, float *shared) {
    const int MOST = ADDED<RANKS>;
    const int count = all_of_them.step == 0 ? (int)all_of_them.updates : 1;
    const int apart = count > 1 ? 1 : (int)all_of_them.updates;
    const int update = (int)(number % apart);
    const int64_t block = number / apart;
    const LowRank n = update_of(all_of_them, update);
    const int COLUMNS = UP_COLUMNS * HALF_WARPS;
    RowMask *masks = (RowMask *)shared;
    uint16_t *factors = (uint16_t *)(shared + MOST * 2 * UP_ROWS);
    const WideRows<Array> out(n, output<Array>(arrays, 0));
    const int64_t strips = (n.columns + COLUMNS - 1) / COLUMNS, first = block / strips * UP_ROWS;
    const int strip = (int)(block % strips) * COLUMNS, rank = (int)n.rank;
    Own<Up<RANKS, Array>> all;
    // The row and the column of a lane's part of what is added.
    const auto row_at = [](int thread, int part) { return lane_of(thread) / 4 + part / 2 * 8; };
    const auto column_at = [&](int thread, int part) {
        return strip + thread / WARP * UP_COLUMNS + (lane_of(thread) % 4 * 2 + part % 2) * 8;
    };
    const auto load = [&](int thread, int row) {
        Up<RANKS, Array> &own = all.of(thread);
        const int lane = lane_of(thread);
#pragma unroll
        for (int more = 0; more < MOST; more++)
            if (more < count) {
                const LowRows<Array> low(n, input_of<Array>(arrays, 6, update + more));
#pragma unroll
                for (int part = 0; part < RANKS / 4; part++)
                    own.next_low[more][part / 4].pairs[part % 4] =
                        low.two(first + row + lane / 4 + part % 2 * 8, part / 2 * 8 + lane % 4 * 2);
            }
        if (n.adds) {
#pragma unroll
            for (int part = 0; part < 4; part++)
                own.next[part] = out.eight(first + row + row_at(thread, part), column_at(thread, part));
        }
    };
    EACH_HALF(thread) {
        load(thread, 0);
    }
#pragma unroll
    for (int more = 0; more < MOST; more++)
        if (more < count) {
            put_by_column<RANKS, UP_COLUMNS * HALF_WARPS>(factors + more * UP_FACTOR<RANKS>,
                                                          input_of(arrays, 3, update + more), n, strip);
            load_masks(arrays, update_of(n, more), first, UP_ROWS, masks + more * UP_ROWS);
        }
    NEXT_PHASE();
    for (int row = 0; row < UP_ROWS && first + row < n.tokens; row += 16) {
        EACH_HALF(thread) {
            Up<RANKS, Array> &own = all.of(thread);
#pragma unroll
            for (int part = 0; part < 4; part++)
                own.total[part] = n.adds ? widened(own.next[part]) : Few<8>{};
        }
#pragma unroll
        for (int more = 0; more < MOST; more++)
            if (more < count) {
                EACH_HALF(thread) {
                    Up<RANKS, Array> &own = all.of(thread);
                    own.sums = {};
                    const uint16_t *factor = factors + more * UP_FACTOR<RANKS>;
                    const int lane = lane_of(thread), column = thread / WARP * UP_COLUMNS + lane / 4 * 8;
#pragma unroll
                    for (int step = 0; step < RANKS / 16; step++)
                        own.low[step] = own.next_low[more][step];
#pragma unroll
                    for (int half = 0; half < RANKS / 8; half++)
#pragma unroll
                        for (int tile = 0; tile < 8; tile++)
                            own.factor[half / 2][tile].pairs[half % 2] =
                                by_column<RANKS>(factor, 8 * half + lane % 4 * 2, column + tile);
                    if (more == count - 1 && row + 16 < UP_ROWS)
                        load(thread, row + 16);
                }
                EACH_HALF(thread) {
                    const int warp = thread / WARP * WARP;
#pragma unroll
                    for (int step = 0; step < RANKS / 16; step++)
                        if (16 * step < rank) {
#pragma unroll
                            for (int tile = 0; tile < 8; tile++)
                                multiply(
                                    all.of(thread).sums.x[tile], lane_of(thread),
                                    [&](int lane) { return all.of(warp + lane).low[step]; },
                                    [&](int lane) { return all.of(warp + lane).factor[step][tile]; });
                        }
                }
                EACH_HALF(thread) {
                    const LowRank of = update_of(n, more);
                    const Vector<Array> bias(n, input_of(arrays, 9, update + more));
#pragma unroll
                    for (int part = 0; part < 4; part++) {
                        const int under = row + row_at(thread, part), column = column_at(thread, part);
                        Few<8> found;
#pragma unroll
                        for (int tile = 0; tile < 8; tile++)
                            found.x[tile] = all.of(thread).sums.x[tile][part] * n.scale;
                        drop(found, n.has_mask, of.masks[0], masks[more * UP_ROWS + under], column);
                        bias.add_to(found, column);
                        add(all.of(thread).total[part], found);
                    }
                }
            }
        EACH_HALF(thread) {
#pragma unroll
            for (int part = 0; part < 4; part++)
                out.write(first + row + row_at(thread, part), column_at(thread, part), all.of(thread).total[part]);
        }
    }
}
RANK_KERNEL(low_rank_up, 16, 3)
RANK_KERNEL(low_rank_up, 64, 2)

template <int RANKS, class Array> struct Gradient {
    // Of a lane's four rows, and of each two of them a pair of places in the rank.
    Eight<Array> next[4];
    uint32_t next_low[RANKS / 16][4];
    Left low[RANKS / 16];
    Right rows[8];
    Sums<8 * 8> sums[RANKS / 16];
};

template <int RANKS> constexpr int low_rank_gradient_floats() {
    return RANKS * UP_COLUMNS + 2 * GRADIENT_ROWS;
}

BODY ReadArrays low_rank_gradient_arrays(const Arrays &arrays) {
    return {input(arrays, 0), 3, {6, 9}};
}

// out0 [pieces, updates, rank, columns] = of each piece of rows and each update, scale times the
// products of its rows [tokens, rank], in3 and behind it, read across, with what a dropout leaves
// of columns of in0 [tokens, pitch]; or, across, [pieces, updates, columns, rank]. Where in0 is to
// be recovered, its columns are multiplied by those of in6 before, and those of in9 are added. in1,
// in2 see load_masks. Warps share the rows.
template <int RANKS, class Array>
BODY void low_rank_gradient_tile(const Arrays &arrays, const LowRank &all_of_them, int64_t number, float *shared) {
    const int update = (int)(number % all_of_them.updates);
    const int64_t block = number / all_of_them.updates;
    const LowRank n = update_of(all_of_them, update);
    RowMask *masks = (RowMask *)(shared + RANKS * UP_COLUMNS);
    const WideRows<Array> x(n, input<Array>(arrays, 0));
    const LowRows<Array> low(n, input_of<Array>(arrays, 3, update));
    const Vector<Array> gain(n, input(arrays, 6)), shift(n, input(arrays, 9));
    const int64_t strips = (n.columns + UP_COLUMNS - 1) / UP_COLUMNS, piece = block / strips;
    const int64_t first = piece * GRADIENT_ROWS;
    const int strip = (int)(block % strips) * UP_COLUMNS, columns = (int)n.columns, rank = (int)n.rank;
    const int OF_WARP = GRADIENT_ROWS / HALF_WARPS;
    Own<Gradient<RANKS, Array>> all;
    // Four rows side by side are the places of a lane.
    const auto top_at = [](int thread, int step) { return thread / WARP * OF_WARP + step + lane_of(thread) % 4 * 4; };
    const auto load = [&](int thread, int step) {
        Gradient<RANKS, Array> &own = all.of(thread);
        const int lane = lane_of(thread);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int64_t row = first + top_at(thread, step) + i;
            own.next[i] = x.eight(row, strip + lane / 4 * 8);
#pragma unroll
            for (int part = 0; part < RANKS / 16; part++)
                own.next_low[part][i] = low.two(row, 16 * part + lane / 4 * 2);
        }
    };
    EACH_HALF(thread) {
        Gradient<RANKS, Array> &own = all.of(thread);
#pragma unroll
        for (int part = 0; part < RANKS / 16; part++)
            own.sums[part] = {};
        load(thread, 0);
    }
    load_masks(arrays, n, first, GRADIENT_ROWS, masks);
    NEXT_PHASE();
    for (int step = 0; step < OF_WARP; step += 16) {
        EACH_HALF(thread) {
            Gradient<RANKS, Array> &own = all.of(thread);
            const int column = strip + lane_of(thread) / 4 * 8;
#pragma unroll
            for (int half = 0; half < 2; half++) {
                Few<8> found[2];
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    found[i] = widened(own.next[2 * half + i]);
                    if (n.recovers)
                        multiply_add(found[i], gain.eight(column), shift.eight(column));
                    drop(found[i], n.has_mask, n.masks[0], masks[top_at(thread, step) + 2 * half + i], column);
                }
#pragma unroll
                for (int tile = 0; tile < 8; tile++)
                    own.rows[tile].pairs[half] = pair_of(found[0].x[tile], found[1].x[tile]);
#pragma unroll
                for (int part = 0; part < RANKS / 16; part++) {
                    const uint32_t upper = own.next_low[part][2 * half], lower = own.next_low[part][2 * half + 1];
                    own.low[part].pairs[2 * half] = (upper & 0xffffu) | lower << 16;
                    own.low[part].pairs[2 * half + 1] = upper >> 16 | (lower & 0xffff0000u);
                }
            }
            if (step + 16 < OF_WARP)
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
    for (int warp = 0; warp < HALF_WARPS; warp++) {
        EACH_HALF(thread) {
            if (thread / WARP == warp) {
                const int lane = lane_of(thread);
#pragma unroll
                for (int part = 0; part < RANKS / 16; part++)
#pragma unroll
                    for (int tile = 0; tile < 8; tile++)
#pragma unroll
                        for (int k = 0; k < 4; k++) {
                            const int of = 16 * part + lane / 4 * 2 + k / 2;
                            const int column = (lane % 4 * 2 + k % 2) * 8 + tile;
                            float *total = shared + of * UP_COLUMNS + column;
                            const float sum = all.of(thread).sums[part].x[tile][k];
                            *total = warp == 0 ? sum : *total + sum;
                        }
            }
        }
        NEXT_PHASE();
    }
    float *sums = results(arrays, 0) + (piece * n.updates + update) * rank * columns;
    EACH_HALF(thread) {
        for (int place = thread; place < RANKS * UP_COLUMNS; place += HALF_THREADS) {
            const int of = place / UP_COLUMNS, column = strip + place % UP_COLUMNS;
            if (of < rank && column < columns)
                sums[n.across ? column * rank + of : of * columns + column] = shared[place] * n.scale;
        }
    }
}
RANK_KERNEL(low_rank_gradient, 16, 4)
RANK_KERNEL(low_rank_gradient, 64, 2)
