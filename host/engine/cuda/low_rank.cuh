// Low-rank updates of linear layers (Hu et al. 2021) and their gradients, of numbers rounded
// to bf16, by tensor cores: what a factor makes of rows, what is added to rows, and the
// gradient of a factor. Each reads its wide matrix once, and drops in registers.
//
// A sum's order is free, and so is that of columns, as long as both factors of a product
// agree on it: each lane has eight columns side by side, which are read at once, where an
// instruction asks for columns of eight tiles, or for four pairs of places.

#pragma once

#include "fragments.cuh"

struct LowRank {
    // Blocks.
    int64_t rows;
    // Of the wide matrix: its rows, the columns that count, the first of these, and all.
    int64_t tokens, columns, first, pitch;
    int64_t rank;
    Mask mask;
    Packing packing;
    float scale;
    int32_t has_mask;
    // Whether the factor is [columns, rank], or else [rank, columns]; whether to add.
    int32_t across, adds;
};

const int HALF_WARPS = HALF_THREADS / WARP;
// Rows of a block that a factor makes less of; rows, and columns of a warp, of one that
// adds; rows of a piece of a gradient.
const int DOWN_ROWS = 32, UP_ROWS = 64, UP_COLUMNS = 64, GRADIENT_ROWS = 256;

// A kernel for ranks up to so many.
#define RANK_KERNEL(NAME, RANKS, BLOCKS)                                                          \
    BLOCK_KERNEL(NAME##_##RANKS, HALF_THREADS, BLOCKS, LowRank, NAME##_floats<RANKS>(), NAME##_tile<RANKS>)

// The masks of a block's rows, by which they are dropped. in1 starts, in2 places.
BODY void load_masks(const Arrays &arrays, const LowRank &n, int64_t first, int rows, RowMask *masks) {
    EACH_HALF(thread) {
        for (int row = thread; row < rows; row += HALF_THREADS) {
            const bool has = n.has_mask && first + row < n.tokens;
            masks[row] = has ? mask_of(n.mask, n.packing, integers(arrays, 1), integers(arrays, 2), first + row)
                             : RowMask{};
        }
    }
}

// Whether each eight columns, from a first one on, are read at once.
BODY bool by_eight(const Numbers &numbers, int64_t pitch, int64_t first) {
    return (pitch | first) % 8 == 0 && (uintptr_t)numbers.at % (numbers.half ? 16 : 32) == 0;
}

// Eight numbers side by side, zeros in the place of those that are not there.
BODY Few<8> eight(const Numbers &numbers, bool at_once, int64_t place, int64_t there) {
    if (at_once && there >= 8)
        return few<8>(numbers, place);
    Few<8> found = {};
#pragma unroll
    for (int k = 0; k < 8; k++)
        if (k < there)
            found.x[k] = one(numbers, place + k);
    return found;
}

// Two numbers side by side, likewise, rounded.
BODY uint32_t two(const Numbers &numbers, int64_t place, int64_t there) {
    if (numbers.half && there > 1 && place % 2 == 0 && (uintptr_t)numbers.at % 4 == 0)
        return pair_at((const uint16_t *)numbers.at + place);
    const float first = there > 0 ? one(numbers, place) : 0.0f;
    return pair_of(first, there > 1 ? one(numbers, place + 1) : 0.0f);
}

// The factor's numbers of a place in the rank, and of eight columns.
struct Factor {
    Numbers numbers;
    bool at_once;
};

BODY Factor factor_of(const Arrays &arrays, const LowRank &n) {
    const Numbers numbers = input(arrays, 3);
    return {numbers, !n.across && by_eight(numbers, n.columns, 0)};
}

BODY Few<8> eight_of(const Factor &factor, const LowRank &n, int rank, int column) {
    const int64_t there = rank < n.rank ? n.columns - column : 0;
    if (!n.across)
        return eight(factor.numbers, factor.at_once, rank * n.columns + column, there);
    Few<8> found = {};
#pragma unroll
    for (int k = 0; k < 8; k++)
        if (k < there)
            found.x[k] = one(factor.numbers, (column + k) * n.rank + rank);
    return found;
}

template <int RANKS> struct Down {
    Sums<RANKS> sums[2];
    Left rows[2][2];
    Right ranks[RANKS / 8][2];
};

template <int RANKS> constexpr int low_rank_down_floats() {
    return HALF_WARPS * DOWN_ROWS * RANKS + 2 * DOWN_ROWS;
}

// out0 [tokens, rank] = scale times what a dropout leaves of columns of in0 [tokens, pitch],
// times the factor in3. in1, in2 see load_masks. Warps share the columns.
template <int RANKS>
BODY void low_rank_down_tile(const Arrays &arrays, const LowRank &n, int64_t block, float *shared) {
    RowMask *masks = (RowMask *)(shared + HALF_WARPS * DOWN_ROWS * RANKS);
    const Numbers x = input(arrays, 0);
    const bool at_once = by_eight(x, n.pitch, n.first);
    const Factor factor = factor_of(arrays, n);
    const int64_t first = block * DOWN_ROWS;
    const int columns = (int)n.columns, rank = (int)n.rank;
    load_masks(arrays, n, first, DOWN_ROWS, masks);
    NEXT_PHASE();
    Own<Down<RANKS>> all;
    EACH_HALF(thread) {
        all.of(thread) = {};
    }
#pragma unroll 2
    for (int step = 0; step < columns; step += 32 * HALF_WARPS) {
        EACH_HALF(thread) {
            Down<RANKS> &own = all.of(thread);
            const int lane = lane_of(thread), column = step + thread / WARP * 32 + lane % 4 * 8;
#pragma unroll
            for (int part = 0; part < 4; part++) {
                const int row = lane / 4 + 8 * part;
                const int64_t place = (first + row) * n.pitch + n.first + column;
                Few<8> found = eight(x, at_once, place, first + row < n.tokens ? columns - column : 0);
                drop(found, n.has_mask, n.mask, masks[row], column);
#pragma unroll
                for (int k = 0; k < 4; k++)
                    own.rows[part / 2][k / 2].pairs[k % 2 * 2 + part % 2] = pair_of(found.x[2 * k], found.x[2 * k + 1]);
            }
#pragma unroll
            for (int tile = 0; tile < RANKS / 8; tile++)
                if (8 * tile < rank) {
                    const Few<8> found = eight_of(factor, n, 8 * tile + lane / 4, column);
#pragma unroll
                    for (int k = 0; k < 4; k++)
                        own.ranks[tile][k / 2].pairs[k % 2] = pair_of(found.x[2 * k], found.x[2 * k + 1]);
                }
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
                            [&](int lane) { return all.of(warp + lane).ranks[tile][part % 2]; });
                }
        }
    }
    EACH_HALF(thread) {
        float *parts = shared + thread / WARP * DOWN_ROWS * RANKS;
#pragma unroll
        for (int half = 0; half < 2; half++)
            each_sum(all.of(thread).sums[half], lane_of(thread), [&](float &sum, int i, int column) {
                parts[(16 * half + lane_of(thread) / 4 + 8 * i) * RANKS + column] = sum;
            });
    }
    NEXT_PHASE();
    EACH_HALF(thread) {
        for (int place = thread; place < DOWN_ROWS * RANKS; place += HALF_THREADS) {
            const int row = place / RANKS, column = place % RANKS;
            float total = 0.0f;
            for (int warp = 0; warp < HALF_WARPS; warp++)
                total += shared[warp * DOWN_ROWS * RANKS + place];
            if (first + row < n.tokens && column < rank)
                put(output(arrays, 0), (first + row) * rank + column, total * n.scale);
        }
    }
}
RANK_KERNEL(low_rank_down, 16, 4)
RANK_KERNEL(low_rank_down, 64, 2)

template <int RANKS> struct Up {
    Right factor[RANKS / 16][8];
    Left low[RANKS / 16];
    Sums<8 * 8> sums;
};

template <int RANKS> constexpr int low_rank_up_floats() {
    return 2 * UP_ROWS;
}

// Columns of out0 [tokens, pitch] = what a dropout leaves of scale times in0 [tokens, rank]
// times the factor in3, or these added to what is there. in1, in2 see load_masks.
template <int RANKS>
BODY void low_rank_up_tile(const Arrays &arrays, const LowRank &n, int64_t block, float *shared) {
    RowMask *masks = (RowMask *)shared;
    const Numbers low = input(arrays, 0), out = output(arrays, 0);
    const bool at_once = by_eight(out, n.pitch, n.first);
    const Factor factor = factor_of(arrays, n);
    const int64_t strips = (n.columns + UP_COLUMNS * HALF_WARPS - 1) / (UP_COLUMNS * HALF_WARPS);
    const int64_t first = block / strips * UP_ROWS;
    const int strip = (int)(block % strips) * UP_COLUMNS * HALF_WARPS;
    const int columns = (int)n.columns, rank = (int)n.rank;
    load_masks(arrays, n, first, UP_ROWS, masks);
    NEXT_PHASE();
    Own<Up<RANKS>> all;
    EACH_HALF(thread) {
        Up<RANKS> &own = all.of(thread) = {};
        const int lane = lane_of(thread), column = strip + thread / WARP * UP_COLUMNS + lane / 4 * 8;
#pragma unroll
        for (int half = 0; half < RANKS / 8; half++)
            if (8 * half < rank) {
                const int place = 8 * half + lane % 4 * 2;
                const Few<8> upper = eight_of(factor, n, place, column);
                const Few<8> lower = eight_of(factor, n, place + 1, column);
#pragma unroll
                for (int tile = 0; tile < 8; tile++)
                    own.factor[half / 2][tile].pairs[half % 2] = pair_of(upper.x[tile], lower.x[tile]);
            }
    }
    for (int row = 0; row < UP_ROWS && first + row < n.tokens; row += 16) {
        EACH_HALF(thread) {
            Up<RANKS> &own = all.of(thread);
            const int lane = lane_of(thread);
            own.sums = {};
#pragma unroll
            for (int part = 0; part < RANKS / 4; part++) {
                const int64_t at = first + row + lane / 4 + part % 2 * 8;
                const int place = part / 2 * 8 + lane % 4 * 2;
                own.low[part / 4].pairs[part % 4] = two(low, at * rank + place, at < n.tokens ? rank - place : 0);
            }
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
            const int lane = lane_of(thread);
#pragma unroll
            for (int part = 0; part < 4; part++) {
                const int under = row + lane / 4 + part / 2 * 8;
                const int column = strip + thread / WARP * UP_COLUMNS + (lane % 4 * 2 + part % 2) * 8;
                const int64_t place = (first + under) * n.pitch + n.first + column;
                const int64_t there = first + under < n.tokens ? columns - column : 0;
                Few<8> more;
#pragma unroll
                for (int tile = 0; tile < 8; tile++)
                    more.x[tile] = all.of(thread).sums.x[tile][part] * n.scale;
                drop(more, n.has_mask, n.mask, masks[under], column);
                if (n.adds) {
                    const Few<8> before = eight(out, at_once, place, there);
#pragma unroll
                    for (int tile = 0; tile < 8; tile++)
                        more.x[tile] += before.x[tile];
                }
                if (at_once && there >= 8)
                    put_few(out, place, more);
#pragma unroll
                for (int tile = 0; tile < 8; tile++)
                    if (!(at_once && there >= 8) && tile < there)
                        put(out, place + tile, more.x[tile]);
            }
        }
    }
}
RANK_KERNEL(low_rank_up, 16, 4)
RANK_KERNEL(low_rank_up, 64, 2)

template <int RANKS> struct Gradient {
    Left low[RANKS / 16];
    Right rows[8];
    Sums<8 * 8> sums[RANKS / 16];
};

template <int RANKS> constexpr int low_rank_gradient_floats() {
    return RANKS * UP_COLUMNS + 2 * GRADIENT_ROWS;
}

// out0 [pieces, rank, columns] = of each piece of rows, the products of in3 [tokens, rank],
// read across, with what a dropout leaves of columns of in0 [tokens, pitch]. in1, in2 see
// load_masks. Warps share the rows.
template <int RANKS>
BODY void low_rank_gradient_tile(const Arrays &arrays, const LowRank &n, int64_t block, float *shared) {
    RowMask *masks = (RowMask *)(shared + RANKS * UP_COLUMNS);
    const Numbers x = input(arrays, 0), low = input(arrays, 3);
    const bool at_once = by_eight(x, n.pitch, n.first);
    const int64_t strips = (n.columns + UP_COLUMNS - 1) / UP_COLUMNS, piece = block / strips;
    const int64_t first = piece * GRADIENT_ROWS;
    const int strip = (int)(block % strips) * UP_COLUMNS, columns = (int)n.columns, rank = (int)n.rank;
    const int OF_WARP = GRADIENT_ROWS / HALF_WARPS;
    load_masks(arrays, n, first, GRADIENT_ROWS, masks);
    NEXT_PHASE();
    Own<Gradient<RANKS>> all;
    EACH_HALF(thread) {
        all.of(thread) = {};
    }
    for (int step = 0; step < OF_WARP; step += 16) {
        EACH_HALF(thread) {
            Gradient<RANKS> &own = all.of(thread);
            const int lane = lane_of(thread), column = strip + lane / 4 * 8;
            // Four rows side by side are the places of a lane.
            const int top = thread / WARP * OF_WARP + step + lane % 4 * 4;
#pragma unroll
            for (int half = 0; half < 2; half++) {
                Few<8> found[2];
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const int row = top + 2 * half + i;
                    const int64_t place = (first + row) * n.pitch + n.first + column;
                    found[i] = eight(x, at_once, place, first + row < n.tokens ? columns - column : 0);
                    drop(found[i], n.has_mask, n.mask, masks[row], column);
                }
#pragma unroll
                for (int tile = 0; tile < 8; tile++)
                    own.rows[tile].pairs[half] = pair_of(found[0].x[tile], found[1].x[tile]);
#pragma unroll
                for (int part = 0; part < RANKS / 16; part++)
                    if (16 * part < rank) {
                        const int place = 16 * part + lane / 4 * 2;
                        uint32_t pairs[2];
#pragma unroll
                        for (int i = 0; i < 2; i++) {
                            const int64_t row = first + top + 2 * half + i;
                            pairs[i] = two(low, row * rank + place, row < n.tokens ? rank - place : 0);
                        }
                        own.low[part].pairs[2 * half] = (pairs[0] & 0xffffu) | pairs[1] << 16;
                        own.low[part].pairs[2 * half + 1] = pairs[0] >> 16 | (pairs[1] & 0xffff0000u);
                    }
            }
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
    EACH_HALF(thread) {
        for (int place = thread; place < RANKS * UP_COLUMNS; place += HALF_THREADS) {
            const int of = place / UP_COLUMNS, column = strip + place % UP_COLUMNS;
            if (of < rank && column < columns)
                results(arrays, 0)[(piece * rank + of) * columns + column] = shared[place];
        }
    }
}
RANK_KERNEL(low_rank_gradient, 16, 4)
RANK_KERNEL(low_rank_gradient, 64, 2)
