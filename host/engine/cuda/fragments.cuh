// Products of tiles of bf16 by tensor cores, into sums in fp32. A warp makes 16 rows of a product,
// a block of four warps 64; what lanes hold of one product is what they hold of the left factor of
// the next one, so that it is in no memory between.

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

// Of a tile with so many rows, for whose each two a block has four threads, a thread brings rows
// so far apart, eight columns each.
template <int COLUMNS, int ROWS> constexpr int ROW_STRIDE = 2 * ROWS / (COLUMNS / 8);

// A matrix, the place in it that a tile begins at, and numbers from row to row.
struct Corner {
    Numbers matrix;
    int64_t place;
    int pitch;
};

// Whether each eight columns of every row are read at once.
BODY bool reads_eight(const Corner &of, int columns) {
    return of.matrix.half && (of.pitch | columns) % 8 == 0 && of.place % 8 == 0 && (uintptr_t)of.matrix.at % 16 == 0;
}

// A tile, and rows that are brought to it.
struct Brought {
    uint16_t *tile;
    Corner of;
    int rows;
};

// Visits the rows of a tile of which a thread brings eight columns: the turn, the row, and the
// first column.
template <int COLUMNS, int ROWS, class Visit> BODY void each_part(int thread, Visit visit) {
    const int column = thread % (COLUMNS / 8) * 8, top = thread / (COLUMNS / 8);
#pragma unroll
    for (int turn = 0; turn < COLUMNS / 16; turn++)
        visit(turn, top + turn * ROW_STRIDE<COLUMNS, ROWS>, column);
}

// Brings rows of a matrix to a tile number by number.
template <int COLUMNS, int ROWS> BODY void bring_each(const Brought &to, int columns, int thread) {
    const int column = thread % (COLUMNS / 8) * 8;
#pragma unroll 1
    for (int row = thread / (COLUMNS / 8); row < ROWS; row += ROW_STRIDE<COLUMNS, ROWS>) {
        FewHalves<8> found = {};
#pragma unroll
        for (int k = 0; k < 8; k++)
            if (row < to.rows && column + k < columns)
                found.x[k] = rounded(one(to.of.matrix, to.of.place + (int64_t)row * to.of.pitch + column + k));
        at_once<FewHalves<8>>(to.tile + row * HALF_WIDTH<COLUMNS> + column) = found;
    }
}

// Brings rows of matrices to tiles, zeros where they have fewer rows or columns: of all of them
// before any is waited for, where all are read by eight.
template <int COLUMNS, int ROWS = TILE, int COUNT>
BODY void load_halves(const Brought (&tiles)[COUNT], int columns) {
    bool by_eight = true;
#pragma unroll
    for (int which = 0; which < COUNT; which++)
        by_eight = by_eight && reads_eight(tiles[which].of, columns);
    EACH_OF(2 * ROWS, thread) {
        if (by_eight) {
            FewHalves<8> parts[COUNT][COLUMNS / 16] = {};
#pragma unroll
            for (int which = 0; which < COUNT; which++)
                each_part<COLUMNS, ROWS>(thread, [&](int turn, int row, int column) {
                    const Corner &of = tiles[which].of;
                    const Halves halves = {(uint16_t *)of.matrix.at, true};
                    if (row < tiles[which].rows && column < columns)
                        parts[which][turn] = read<8>(halves, of.place + (int64_t)row * of.pitch + column);
                });
#pragma unroll
            for (int which = 0; which < COUNT; which++)
                each_part<COLUMNS, ROWS>(thread, [&](int turn, int row, int column) {
                    at_once<FewHalves<8>>(tiles[which].tile + row * HALF_WIDTH<COLUMNS> + column) = parts[which][turn];
                });
        } else {
#pragma unroll
            for (int which = 0; which < COUNT; which++)
                bring_each<COLUMNS, ROWS>(tiles[which], columns, thread);
        }
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

// Right factors of 16 columns, eight each.
struct Rights {
    Right x[2];
};

// The place in a tile whose numbers lie so far apart, `down` rows below and `right` columns
// behind another one.
BODY const uint16_t *place_in(const uint16_t *tile, int pitch, int down, int right) {
    return tile + down * pitch + right;
}

// What a lane holds of four matrices of eight by eight that lie two by two: the matrix behind the
// first one is below it where DOWN_FIRST says so, or else beside it. ACROSS says that rows of a
// factor are columns of the tile, or else rows.
template <bool ACROSS, bool DOWN_FIRST>
BODY Left four_of(const uint16_t *corner, int pitch, int lane) {
    Left found;
#ifdef ON_GPU
    const int matrix = lane / 8, second = matrix % 2 * 8, third = matrix / 2 * 8;
    const uint16_t *row = place_in(corner, pitch, lane % 8 + (DOWN_FIRST ? second : third), DOWN_FIRST ? third : second);
    if constexpr (ACROSS)
        load_four_across(found.pairs, row);
    else
        load_four(found.pairs, row);
#else
    for (int matrix = 0; matrix < 4; matrix++) {
        const int second = matrix % 2 * 8, third = matrix / 2 * 8;
        const uint16_t *first = place_in(corner, pitch, DOWN_FIRST ? second : third, DOWN_FIRST ? third : second);
        const int along = lane / 4, across = lane % 4 * 2;
        found.pairs[matrix] = ACROSS ? first[across * pitch + along] | (uint32_t)first[(across + 1) * pitch + along] << 16
                                     : pair_at(first + along * pitch + across);
    }
#endif
    return found;
}

BODY Rights rights_of(const Left &four) {
    return {{{{four.pairs[0], four.pairs[1]}}, {{four.pairs[2], four.pairs[3]}}}};
}

// The left factor that lies in a tile.
template <int COLUMNS> BODY Left left_of(const uint16_t *tile, int row, int place, int lane) {
    return four_of<false, true>(tile + row * HALF_WIDTH<COLUMNS> + place, HALF_WIDTH<COLUMNS>, lane);
}

// The left factor whose rows are columns of a tile.
template <int COLUMNS> BODY Left left_across(const uint16_t *tile, int row, int place, int lane) {
    return four_of<true, false>(tile + place * HALF_WIDTH<COLUMNS> + row, HALF_WIDTH<COLUMNS>, lane);
}

// The right factors whose columns are rows of a tile.
template <int COLUMNS> BODY Rights rights_across(const uint16_t *tile, int place, int column, int lane) {
    return rights_of(four_of<false, false>(tile + column * HALF_WIDTH<COLUMNS> + place, HALF_WIDTH<COLUMNS>, lane));
}

// The right factors that lie in a tile as they are.
template <int COLUMNS> BODY Rights rights_of(const uint16_t *tile, int place, int column, int lane) {
    return rights_of(four_of<true, true>(tile + place * HALF_WIDTH<COLUMNS> + column, HALF_WIDTH<COLUMNS>, lane));
}

// What `make` gives for a lane; on a GPU it is made once, on the processor for each lane that is
// asked for.
template <class Make> BODY auto held_of(int lane, Make make) {
#ifdef ON_GPU
    const auto held = make(lane);
    return [=](int) { return held; };
#else
    return make;
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

// The same with 16 columns.
template <class Rows, class Columns>
BODY void multiply(float (&one)[4], float (&other)[4], int lane, Rows rows, Columns columns) {
    const auto both = held_of(lane, columns);
    multiply(one, lane, rows, [&](int lane) { return both(lane).x[0]; });
    multiply(other, lane, rows, [&](int lane) { return both(lane).x[1]; });
}

// A row of left factors, 16 places each.
template <int COLUMNS> struct Lefts {
    Left x[COLUMNS / 16];
};

template <int COLUMNS> BODY Lefts<COLUMNS> lefts_of(const uint16_t *tile, int row, int lane) {
    Lefts<COLUMNS> found;
#pragma unroll
    for (int place = 0; place < COLUMNS; place += 16)
        found.x[place / 16] = left_of<COLUMNS>(tile, row, place, lane);
    return found;
}

// Adds a b^T, of whose rows a `lefts` gives what a lane holds; b has 16 rows.
template <int COLUMNS, class Held>
BODY void add_across(Sums<16> &sums, Held lefts, const uint16_t *b, int lane) {
#pragma unroll
    for (int place = 0; place < COLUMNS; place += 16)
        multiply(
            sums.x[0], sums.x[1], lane, [&](int lane) { return lefts(lane).x[place / 16]; },
            [&](int lane) { return rights_across<COLUMNS>(b, place, 0, lane); });
}

// Adds a b^T, of the rows from `row` on of a tile, in the first rows of b, another one.
template <int COLUMNS>
BODY void add_across(Sums<TILE> &sums, const uint16_t *a, const uint16_t *b, int row, int columns, int lane) {
#pragma unroll
    for (int place = 0; place < COLUMNS; place += 16) {
        const auto rows = held_of(lane, [=](int lane) { return left_of<COLUMNS>(a, row, place, lane); });
#pragma unroll
        for (int tile = 0; tile < TILE / 8; tile += 2)
            if (8 * tile < columns)
                multiply(sums.x[tile], sums.x[tile + 1], lane, rows,
                         [&](int lane) { return rights_across<COLUMNS>(b, place, 8 * tile, lane); });
    }
}

// Adds the product of a left factor of 16 places with the rows of a tile from one on.
template <int COLUMNS, class Rows>
BODY void add_rows_of(Sums<COLUMNS> &sums, Rows rows, const uint16_t *m, int place, int lane) {
#pragma unroll
    for (int tile = 0; tile < COLUMNS / 8; tile += 2)
        multiply(sums.x[tile], sums.x[tile + 1], lane, rows,
                 [&](int lane) { return rights_of<COLUMNS>(m, place, 8 * tile, lane); });
}

// Adds p m, of which `pairs` gives what a lane holds of the rows of p, of its first columns;
// the others are zeros. m is a tile.
template <int COLUMNS, class Held>
BODY void add_product(Sums<COLUMNS> &sums, Held pairs, const uint16_t *m, int inner, int lane) {
#pragma unroll
    for (int step = 0; step < TILE / 16; step++)
        if (16 * step < inner)
            add_rows_of(sums, [&](int lane) { return left_of(pairs(lane), step); }, m, 16 * step, lane);
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
