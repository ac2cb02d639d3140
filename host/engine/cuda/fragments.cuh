// Products of tiles of bf16 by tensor cores, into sums in fp32. A block has four warps, each
// of which makes 16 rows of a product with 64; what its lanes hold of one product is what
// they hold of the left factor of the next one, so that it is in no memory between.

#pragma once

#include "tiles.cuh"

const int HALF_THREADS = 128;
// Rows of a warp.
const int WARP_ROWS = 16;

#define EACH_HALF(THREAD) EACH_OF(HALF_THREADS, THREAD)

// A thread's lane in its warp.
BODY int lane_of(int thread) {
    return thread % WARP;
}

// A kernel of such blocks for heads of so many columns.
#define HALVES_KERNEL(NAME, COLUMNS, BLOCKS, NUMBERS)                                             \
    BLOCK_KERNEL(NAME##_##COLUMNS##_bf16, HALF_THREADS, BLOCKS, NUMBERS,                          \
                 NAME##_halves_floats<COLUMNS>(), NAME##_halves_tile<COLUMNS>)

// The same, of scores that depend on the places of query and key.
#define PLACED_HALVES_KERNEL(NAME, COLUMNS, BLOCKS, NUMBERS)                                      \
    BLOCK_KERNEL(NAME##_##COLUMNS##_placed_bf16, HALF_THREADS, BLOCKS, NUMBERS,                   \
                 NAME##_halves_floats<COLUMNS>(), NAME##_halves_tile<COLUMNS, true>)

// Numbers from row to row of a tile. Of the pairs that the lanes of a warp read at once, in
// eight rows, no two lie in one bank, and rows begin where 16 bytes do.
template <int COLUMNS> constexpr int HALF_WIDTH = COLUMNS + 8;
// Floats that a tile takes.
template <int COLUMNS> constexpr int HALF_TILE = TILE * HALF_WIDTH<COLUMNS> / 2;

// What a thread reads of a tile: of rows so far apart, eight columns each.
template <int COLUMNS> constexpr int ROW_STRIDE = HALF_THREADS / (COLUMNS / 8);

template <int COLUMNS> struct PartOfTile {
    FewHalves<8> x[TILE / ROW_STRIDE<COLUMNS>];
};

// Reads rows of a matrix, from a place on, zeros where it has fewer rows or columns.
template <int COLUMNS>
BODY PartOfTile<COLUMNS> part_of_tile(const Numbers &matrix, int64_t corner, int pitch, int rows, int columns,
                                      int thread) {
    const int column = thread % (COLUMNS / 8) * 8, top = thread / (COLUMNS / 8);
    PartOfTile<COLUMNS> found = {};
    if (matrix.half && (pitch | columns) % 8 == 0 && corner % 8 == 0 && (uintptr_t)matrix.at % 16 == 0) {
        const Halves halves = {(uint16_t *)matrix.at, true};
#pragma unroll
        for (int turn = 0; turn < TILE / ROW_STRIDE<COLUMNS>; turn++) {
            const int row = top + turn * ROW_STRIDE<COLUMNS>;
            if (row < rows && column < columns)
                found.x[turn] = read<8>(halves, corner + (int64_t)row * pitch + column);
        }
    } else {
        for (int turn = 0; turn < TILE / ROW_STRIDE<COLUMNS>; turn++) {
            const int row = top + turn * ROW_STRIDE<COLUMNS>;
#pragma unroll
            for (int k = 0; k < 8; k++)
                if (row < rows && column + k < columns)
                    found.x[turn].x[k] = rounded(one(matrix, corner + (int64_t)row * pitch + column + k));
        }
    }
    return found;
}

template <int COLUMNS> BODY void put_part(uint16_t *tile, const PartOfTile<COLUMNS> &part, int thread) {
    const int column = thread % (COLUMNS / 8) * 8, top = thread / (COLUMNS / 8);
#pragma unroll
    for (int turn = 0; turn < TILE / ROW_STRIDE<COLUMNS>; turn++)
        at_once<FewHalves<8>>(tile + (top + turn * ROW_STRIDE<COLUMNS>) * HALF_WIDTH<COLUMNS> + column) = part.x[turn];
}

// A matrix, the place in it that a tile begins at, and numbers from row to row.
struct Corner {
    Numbers matrix;
    int64_t place;
    int pitch;
};

// Brings the same rows of two matrices to two tiles.
template <int COLUMNS>
BODY void load_halves(uint16_t *one, const Corner &of_one, uint16_t *other, const Corner &of_other, int rows,
                      int columns) {
    EACH_HALF(thread) {
        const auto first = part_of_tile<COLUMNS>(of_one.matrix, of_one.place, of_one.pitch, rows, columns, thread);
        const auto second =
            part_of_tile<COLUMNS>(of_other.matrix, of_other.place, of_other.pitch, rows, columns, thread);
        put_part<COLUMNS>(one, first, thread);
        put_part<COLUMNS>(other, second, thread);
    }
}

// Brings rows of a matrix to a tile.
template <int COLUMNS> BODY void load_halves(uint16_t *tile, const Corner &of, int rows, int columns) {
    EACH_HALF(thread) {
        put_part<COLUMNS>(tile, part_of_tile<COLUMNS>(of.matrix, of.place, of.pitch, rows, columns, thread), thread);
    }
}

// What a lane holds of 16 rows by so many columns of a product: of each eight columns, two
// of a row and two of the eighth row behind it.
template <int COLUMNS> struct Sums {
    float x[COLUMNS / 8][4] = {};
};

// The row that part of a lane's numbers is of, and the column.
BODY int row_of_part(int lane, int part) {
    return lane / 4 + part / 2 * 8;
}

BODY int column_of_lane(int lane, int tile, int part) {
    return tile * 8 + lane % 4 * 2 + part % 2;
}

// Visits what a lane holds: a number, which of its two rows that is of, and the column.
template <int COLUMNS, class Visit> BODY void each_sum(Sums<COLUMNS> &sums, int lane, Visit visit) {
#pragma unroll
    for (int tile = 0; tile < COLUMNS / 8; tile++)
#pragma unroll
        for (int part = 0; part < 4; part++)
            visit(sums.x[tile][part], part / 2, column_of_lane(lane, tile, part));
}

// What a lane holds of a left factor of 16 rows and places, and of a right factor of 16
// places and eight columns, in pairs of places.
struct Left {
    uint32_t pairs[4];
};

struct Right {
    uint32_t pairs[2];
};

// Numbers that a lane holds, rounded.
template <int COLUMNS> struct Pairs {
    uint32_t x[COLUMNS / 8][2];
};

template <int COLUMNS> BODY Pairs<COLUMNS> rounded(const Sums<COLUMNS> &sums) {
    Pairs<COLUMNS> pairs;
#pragma unroll
    for (int tile = 0; tile < COLUMNS / 8; tile++)
#pragma unroll
        for (int half = 0; half < 2; half++)
            pairs.x[tile][half] = pair_of(sums.x[tile][2 * half], sums.x[tile][2 * half + 1]);
    return pairs;
}

// The left factor whose places are columns of a product, 16 of them.
template <int COLUMNS> BODY Left left_of(const Pairs<COLUMNS> &pairs, int step) {
    return {{pairs.x[2 * step][0], pairs.x[2 * step][1], pairs.x[2 * step + 1][0], pairs.x[2 * step + 1][1]}};
}

// Two numbers side by side, which begin where four bytes do.
BODY uint32_t pair_at(const uint16_t *place) {
    return at_once<const uint32_t>(place);
}

// The left factor that lies in a tile.
template <int COLUMNS> BODY Left left_of(const uint16_t *tile, int row, int place, int lane) {
    const uint16_t *at = tile + (row + lane / 4) * HALF_WIDTH<COLUMNS> + place + lane % 4 * 2;
    const uint16_t *below = at + 8 * HALF_WIDTH<COLUMNS>;
    return {{pair_at(at), pair_at(below), pair_at(at + 8), pair_at(below + 8)}};
}

// The right factor whose columns are rows of a tile.
template <int COLUMNS> BODY Right right_across(const uint16_t *tile, int place, int column, int lane) {
    const uint16_t *at = tile + (column + lane / 4) * HALF_WIDTH<COLUMNS> + place + lane % 4 * 2;
    return {{pair_at(at), pair_at(at + 8)}};
}

// The right factor that lies in a tile as it is.
template <int COLUMNS> BODY Right right_of(const uint16_t *tile, int place, int column, int lane) {
#ifdef ON_GPU
    Right found;
    load_across(found.pairs, tile + (place + lane % 16) * HALF_WIDTH<COLUMNS> + column);
    return found;
#else
    const uint16_t *at = tile + (place + lane % 4 * 2) * HALF_WIDTH<COLUMNS> + column + lane / 4;
    const auto pair = [&](int below) {
        const uint16_t *first = at + below * HALF_WIDTH<COLUMNS>;
        return first[0] | (uint32_t)first[HALF_WIDTH<COLUMNS>] << 16;
    };
    return {{pair(0), pair(8)}};
#endif
}

// Adds the product of 16 rows by 16 places and 16 places by eight columns to what a lane
// holds of it, where `rows` and `columns` give what a lane holds of the factors.
template <class Rows, class Columns> BODY void multiply(float (&sums)[4], int lane, Rows rows, Columns columns) {
#ifdef ON_GPU
    const Left a = rows(lane);
    const Right b = columns(lane);
    multiply_halves(sums, a.pairs, b.pairs);
#else
    // What the instruction is said to do, of what each lane would hold.
    for (int quarter = 0; quarter < 4; quarter++) {
        const Left a = rows(lane / 4 * 4 + quarter);
        for (int column = 0; column < 2; column++) {
            const Right b = columns((lane % 4 * 2 + column) * 4 + quarter);
            for (int below = 0; below < 2; below++)
                for (int place = 0; place < 4; place++) {
                    const int shift = place % 2 * 16;
                    sums[2 * below + column] += widened((uint16_t)(a.pairs[place / 2 * 2 + below] >> shift)) *
                                                widened((uint16_t)(b.pairs[place / 2] >> shift));
                }
        }
    }
#endif
}

// Adds the rows from `row` on of a b^T, of two tiles, in its first columns.
template <int COLUMNS>
BODY void add_across(Sums<TILE> &sums, const uint16_t *a, const uint16_t *b, int row, int columns, int lane) {
#pragma unroll
    for (int place = 0; place < COLUMNS; place += 16) {
        const auto rows = [&](int lane) { return left_of<COLUMNS>(a, row, place, lane); };
#pragma unroll
        for (int tile = 0; tile < TILE / 8; tile++)
            if (8 * tile < columns)
                multiply(sums.x[tile], lane, rows,
                         [&](int lane) { return right_across<COLUMNS>(b, place, 8 * tile, lane); });
    }
}

// Adds p m, of which `pairs` gives what a lane holds of the rows of p, of its first columns;
// the others are zeros. m is a tile.
template <int COLUMNS, class Held>
BODY void add_product(Sums<COLUMNS> &sums, Held pairs, const uint16_t *m, int inner, int lane) {
#pragma unroll
    for (int step = 0; step < TILE / 16; step++)
        if (16 * step < inner) {
            const auto rows = [&](int lane) { return left_of(pairs(lane), step); };
#pragma unroll
            for (int tile = 0; tile < COLUMNS / 8; tile++)
                multiply(sums.x[tile], lane, rows,
                         [&](int lane) { return right_of<COLUMNS>(m, 16 * step, 8 * tile, lane); });
        }
}

// Of the four lanes that hold a row: the sum, or the largest, of what `value` gives for
// each.
template <class Value> BODY float sum_of_row(int thread, Value value) {
#ifdef ON_GPU
    float x = value(thread);
    x += of_other_lane(x, 1);
    return x + of_other_lane(x, 2);
#else
    const int first = thread / 4 * 4;
    return (value(first) + value(first + 1)) + (value(first + 2) + value(first + 3));
#endif
}

template <class Value> BODY float largest_of_row(int thread, Value value) {
#ifdef ON_GPU
    float x = value(thread);
    x = fmaxf(x, of_other_lane(x, 1));
    return fmaxf(x, of_other_lane(x, 2));
#else
    const int first = thread / 4 * 4;
    return fmaxf(fmaxf(value(first), value(first + 1)), fmaxf(value(first + 2), value(first + 3)));
#endif
}

// Writes what a lane holds of a warp's rows, from `row` on, to the rows and columns that a
// matrix has, from a place on.
template <int COLUMNS>
BODY void store_sums(const Numbers &matrix, int64_t corner, const Sums<COLUMNS> &sums, int row, int pitch,
                     int rows, int columns, int lane) {
    const bool by_pair = matrix.half && ((pitch | columns) % 2 | corner % 2) == 0 && (uintptr_t)matrix.at % 4 == 0;
#pragma unroll
    for (int tile = 0; tile < COLUMNS / 8; tile++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int at = row + row_of_part(lane, 2 * half), column = column_of_lane(lane, tile, 0);
            const int64_t place = corner + (int64_t)at * pitch + column;
            const float *x = sums.x[tile] + 2 * half;
            if (at < rows && by_pair && column < columns)
                at_once<uint32_t>((uint16_t *)matrix.at + place) = pair_of(x[0], x[1]);
#pragma unroll
            for (int next = 0; next < 2; next++)
                if (at < rows && !by_pair && column + next < columns)
                    put(matrix, place + next, x[next]);
        }
}
