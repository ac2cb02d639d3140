// Kernels whose blocks work on a tile each, in phases: what a phase leaves in shared
// memory or in a thread's own variables the next one finds there.
//
// Products of tiles are made by plain arithmetic or by tensor cores; a thread has the same
// rows and columns of them either way.
//
// On the processor one thread takes the turns of all the threads of a block, phase
// after phase. Shared memory begins as no numbers there, and turns can be taken the
// other way round: what depends on the order of threads within a phase, which a GPU
// does not keep, comes out differently.

#pragma once

#include "numbers.cuh"

// Threads of a block: eight warps, four down a tile and two across.
const int THREADS = 256;
const int WARP = 32;
// Rows of a tile, and columns of a product of two tiles.
const int TILE = 64;
// Threads that share a row of a product where rows are summed up.
const int PARTS = THREADS / TILE;

// Floats from row to row of a tile with so many columns, and of a product. Of what the
// lanes of a warp read at once, no two lie in one bank: eight rows and four columns side
// by side of a tile, or of its columns eight and every second of eight rows; eight rows
// and four pairs of columns of a product.
template <int COLUMNS> constexpr int WIDTH = COLUMNS + 4;
const int PITCH = TILE + 8;

#ifdef ON_GPU

#define EACH_OF(COUNT, THREAD) if (const int THREAD = (int)threadIdx.x; true)
#define NEXT_PHASE() __syncthreads()

// Variables that each thread has of its own.
template <class Variables> struct Own {
    Variables values;
    OF_THREAD Variables &of(int) {
        return values;
    }
};

// A kernel of blocks with so many threads and floats of shared memory, which each run a
// function.
#define BLOCK_ENTRY(NAME, COUNT, BLOCKS, NUMBERS, FLOATS, ...)                                    \
    ENTRY(COUNT, BLOCKS) NAME(Arrays arrays, NUMBERS numbers) {                                   \
        SHARED(shared);                                                                           \
        wait_for_inputs();                                                                        \
        for (int64_t tile = blockIdx.x; tile < numbers.rows; tile += gridDim.x) {                 \
            __VA_ARGS__(arrays, numbers, tile, shared);                                           \
            NEXT_PHASE();                                                                         \
        }                                                                                         \
    }

#else

static thread_local bool backwards = false;

extern "C" void host_take_turns(int other_way_round) {
    backwards = other_way_round != 0;
}

BODY int in_turn(int turn, int count) {
    return backwards ? count - 1 - turn : turn;
}

#define EACH_OF(COUNT, THREAD)                                                                    \
    for (int turn = 0, THREAD = in_turn(0, COUNT); turn < COUNT; THREAD = in_turn(++turn, COUNT))
#define NEXT_PHASE() ((void)0)

template <class Variables> struct Own {
    Variables values[THREADS];
    Variables &of(int thread) {
        return values[thread];
    }
};

#define BLOCK_ENTRY(NAME, COUNT, BLOCKS, NUMBERS, FLOATS, ...)                                    \
    static void NAME(const Arrays &arrays, const NUMBERS &numbers) {                              \
        alignas(16) float shared[FLOATS];                                                         \
        for (int64_t tile = 0; tile < numbers.rows; tile++) {                                     \
            for (float &number : shared)                                                          \
                number = NAN;                                                                     \
            __VA_ARGS__(arrays, numbers, tile, shared);                                           \
        }                                                                                         \
    }

#endif

#define BLOCK_KERNEL(NAME, COUNT, BLOCKS, NUMBERS, FLOATS, ...)                                   \
    BLOCK_ENTRY(NAME, COUNT, BLOCKS, NUMBERS, FLOATS, __VA_ARGS__)                                \
    KNOWN(NAME, NUMBERS, FLOATS * sizeof(float))

#define EACH_THREAD(THREAD) EACH_OF(THREADS, THREAD)

// A kernel whose products of tiles are in fp32, and one in which tensor cores make them;
// of each, a multiprocessor is to have so many blocks at once.
#define TILE_KERNEL(NAME, COLUMNS, BLOCKS, NUMBERS)                                               \
    BLOCK_KERNEL(NAME##_##COLUMNS, THREADS, BLOCKS, NUMBERS, NAME##_floats<COLUMNS>(),            \
                 NAME##_tile<Fp32, COLUMNS>)                                                      \
    BLOCK_KERNEL(NAME##_##COLUMNS##_tf32, THREADS, BLOCKS, NUMBERS, NAME##_floats<COLUMNS>(),     \
                 NAME##_tile<Tf32, COLUMNS>)

// The same, of scores that depend on the places of query and key.
#define PLACED_KERNEL(NAME, COLUMNS, BLOCKS, NUMBERS)                                             \
    BLOCK_KERNEL(NAME##_##COLUMNS##_placed, THREADS, BLOCKS, NUMBERS, NAME##_floats<COLUMNS>(),   \
                 NAME##_tile<Fp32, COLUMNS, true>)                                                \
    BLOCK_KERNEL(NAME##_##COLUMNS##_placed_tf32, THREADS, BLOCKS, NUMBERS,                        \
                 NAME##_floats<COLUMNS>(), NAME##_tile<Tf32, COLUMNS, true>)

// A thread's share of a matrix of 64 rows and so many columns: a warp has 16 rows of one
// half of the columns, and its lanes share them as they share what tensor cores give.
template <int COLUMNS> struct Share {
    float x[2][COLUMNS / 8] = {};
};

BODY int row_of(int thread, int i) {
    return thread / (2 * WARP) * 16 + thread % WARP / 4 + 8 * i;
}

// The first column of what a thread's warp has.
template <int COLUMNS> BODY int half_of(int thread) {
    return thread / WARP % 2 * (COLUMNS / 2);
}

template <int COLUMNS> BODY int column_of(int thread, int j) {
    return half_of<COLUMNS>(thread) + j / 2 * 8 + thread % 4 * 2 + j % 2;
}

// Visits a thread's share: the place in it, the row and the column.
template <int COLUMNS, class Visit> BODY void each(int thread, Visit visit) {
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < COLUMNS / 8; j++)
            visit(i, j, row_of(thread, i), column_of<COLUMNS>(thread, j));
}

// How products of tiles are made, some with one right factor at once. `left` gives the
// element of a product's left factor, of a row and a place in the sum, `right` that of a
// place in the sum and a column; `inner` are the places. What tiles hold is `held`. EVENS
// says that the lanes of a warp had better read every second place than four side by side.

// In fp32.
struct Fp32 {
    BODY float held(float x) {
        return x;
    }

    BODY float exponential(float x) {
        return expf(x);
    }

    template <bool EVENS, int COLUMNS, int COUNT, class Left, class Right>
    BODY void add(Share<COLUMNS> *const (&sums)[COUNT], int inner, int thread, Left left, Right right) {
#pragma unroll 4
        for (int k = 0; k < inner; k++) {
            float of_rows[COUNT][2];
#pragma unroll
            for (int which = 0; which < COUNT; which++)
#pragma unroll
                for (int i = 0; i < 2; i++)
                    of_rows[which][i] = left(which, row_of(thread, i), k);
#pragma unroll
            for (int j = 0; j < COLUMNS / 8; j++) {
                const float of_column = right(k, column_of<COLUMNS>(thread, j));
#pragma unroll
                for (int which = 0; which < COUNT; which++)
#pragma unroll
                    for (int i = 0; i < 2; i++)
                        sums[which]->x[i][j] += of_rows[which][i] * of_column;
            }
        }
    }
};

// What a lane holds of a factor that tensor cores take.
template <int COUNT> struct Fragment {
    float x[COUNT];
};

// By tensor cores, of numbers that are rounded to TF32, into sums in fp32. Eight places
// are summed at once: those beyond `inner` must be zeros on both sides.
struct Tf32 {
    BODY float held(float x) {
#ifdef ON_GPU
        return rounded_to_tf32(x);
#else
        uint32_t bits;
        memcpy(&bits, &x, sizeof bits);
        bits = (bits + 0x1000u) & 0xffffe000u;
        memcpy(&x, &bits, sizeof bits);
        return x;
#endif
    }

    BODY float exponential(float x) {
        return fast_exponential(x);
    }

    // Adds the product of 16 rows by 8 places and 8 places by 8 columns to a lane's four
    // elements of it, where `rows` and `columns` give what a lane holds of them.
    template <class Rows, class Columns>
    BODY void multiply(float *top, float *bottom, int lane, Rows rows, Columns columns) {
#ifdef ON_GPU
        const Fragment<4> a = rows(lane);
        const Fragment<2> b = columns(lane);
        multiply_tf32(top, bottom, a.x, b.x);
#else
        // What the instruction is said to do, of what each lane would hold.
#pragma GCC unroll 2
        for (int column = 0; column < 2; column++)
#pragma GCC unroll 8
            for (int k = 0; k < 8; k++) {
                const float right = columns((lane % 4 * 2 + column) * 4 + k % 4).x[k / 4];
                const Fragment<4> left = rows(lane / 4 * 4 + k % 4);
                top[column] += left.x[k / 4 * 2] * right;
                bottom[column] += left.x[k / 4 * 2 + 1] * right;
            }
#endif
    }

    template <bool EVENS, int COLUMNS, int COUNT, class Left, class Right>
    BODY void add(Share<COLUMNS> *const (&sums)[COUNT], int inner, int thread, Left left, Right right) {
        const int warp = thread / WARP * WARP;
        const auto place = [](int lane, int half) {
            return EVENS ? lane % 4 * 2 + half : lane % 4 + half * 4;
        };
#pragma unroll 2
        for (int k = 0; k < inner; k += 8) {
#pragma unroll
            for (int first = 0; first < COLUMNS / 2; first += 8) {
                const auto columns = [&](int lane) {
                    const int column = half_of<COLUMNS>(thread) + first + lane / 4;
                    return Fragment<2>{right(k + place(lane, 0), column), right(k + place(lane, 1), column)};
                };
#pragma unroll
                for (int which = 0; which < COUNT; which++) {
                    const auto rows = [&](int lane) {
                        Fragment<4> held;
#pragma unroll
                        for (int part = 0; part < 4; part++)
                            held.x[part] =
                                left(which, row_of(warp + lane, part % 2), k + place(lane, part / 2));
                        return held;
                    };
                    float *top = sums[which]->x[0] + first / 4, *bottom = sums[which]->x[1] + first / 4;
                    multiply(top, bottom, thread % WARP, rows, columns);
                }
            }
        }
    }
};

// Puts rows of a matrix, from a place on, into a tile, zeros where it has fewer rows or
// columns.
template <class Products, int COLUMNS>
BODY void load(float *tile, const Numbers &matrix, int64_t corner, int pitch, int rows, int columns) {
    const bool by_four = together(matrix, pitch) && corner % 4 == 0 && columns % 4 == 0;
    const int TURNS = TILE * COLUMNS / (4 * THREADS), FOURS = COLUMNS / 4;
    EACH_THREAD(thread) {
        const int column = thread % FOURS * 4, top = thread / FOURS;
        const int64_t from = corner + top * pitch + column;
        Few<4> found[TURNS] = {};
        if (by_four && !matrix.half) {
            const Floats floats = {(float *)matrix.at, false};
#pragma unroll
            for (int turn = 0; turn < TURNS; turn++) {
                const int below = turn * (THREADS / FOURS);
                if (top + below < rows && column < columns)
                    found[turn] = read<4>(floats, from + below * pitch);
            }
        } else {
            for (int turn = 0; turn < TURNS; turn++) {
                const int below = turn * (THREADS / FOURS);
#pragma unroll
                for (int k = 0; k < 4; k++)
                    if (top + below < rows && column + k < columns)
                        found[turn].x[k] = one(matrix, from + below * pitch + k);
            }
        }
#pragma unroll
        for (int turn = 0; turn < TURNS; turn++) {
#pragma unroll
            for (int k = 0; k < 4; k++)
                found[turn].x[k] = Products::held(found[turn].x[k]);
            at_once<Few<4>>(tile + (top + turn * (THREADS / FOURS)) * WIDTH<COLUMNS> + column) = found[turn];
        }
    }
}

// A thread's share of a b^T, of two tiles.
template <class Products, int COLUMNS> BODY Share<TILE> product(const float *a, const float *b, int thread) {
    Share<TILE> out;
    Products::template add<false, TILE, 1>(
        {&out}, COLUMNS, thread, [=](int, int row, int k) { return a[row * WIDTH<COLUMNS> + k]; },
        [=](int k, int column) { return b[column * WIDTH<COLUMNS> + k]; });
    return out;
}

// Adds a thread's share of p m for each p, which are products of two tiles; m is a tile,
// and `inner` are the columns of p that count. The others, and the rows of m there, are
// zeros.
template <class Products, int COLUMNS, int COUNT>
BODY void add_products(Share<COLUMNS> *const (&sums)[COUNT], const float *const (&p)[COUNT], const float *m,
                       int inner, int thread) {
    Products::template add<true, COLUMNS, COUNT>(
        sums, inner, thread, [&](int which, int row, int k) { return p[which][row * PITCH + k]; },
        [=](int k, int column) { return m[k * WIDTH<COLUMNS> + column]; });
}

// Writes a thread's share of a product.
BODY void keep(float *p, const Share<TILE> &share, int thread) {
    each<TILE>(thread, [&](int i, int j, int row, int column) { p[row * PITCH + column] = share.x[i][j]; });
}

// Writes a thread's share of a tile to the rows and columns that a matrix has, from a
// place on.
template <int COLUMNS>
BODY void store(const Numbers &matrix, int64_t corner, const Share<COLUMNS> &share, int pitch, int rows,
                int columns, int thread) {
    each<COLUMNS>(thread, [&](int i, int j, int row, int column) {
        if (row < rows && column < columns)
            put(matrix, corner + row * pitch + column, share.x[i][j]);
    });
}
