// Kernels whose blocks work on a tile each, in phases: what a phase leaves in shared
// memory or in a thread's own variables the next one finds there.
//
// On the processor one thread takes the turns of all the threads of a block, phase
// after phase. Shared memory begins as no numbers there, and turns can be taken the
// other way round: what depends on the order of threads within a phase, which a GPU
// does not keep, comes out differently.

#pragma once

#include "lanes.cuh"

// Threads of a block, 16 by 16 over a tile: each has every sixteenth row and column.
const int THREADS = 256;
const int SIDE = 16;
// Rows of a tile, and columns of a product of two tiles.
const int TILE = 64;
// Rows and columns of a tile that a thread has.
const int SHARE = TILE / SIDE;
// Floats from row to row of a product: four neighbours' rows begin in banks of their own.
const int PITCH = TILE + 4;
// Threads that share a row of a product where rows are summed up.
const int PARTS = THREADS / TILE;

// Floats from row to row of a tile with so many columns: an odd number.
template <int COLUMNS> constexpr int WIDTH = COLUMNS + 1;

#ifdef __CUDACC__

#define EACH_THREAD(THREAD) if (const int THREAD = (int)threadIdx.x; true)
#define NEXT_PHASE() __syncthreads()

// Variables that each thread has of its own.
template <int COUNT> struct Own {
    float values[COUNT];
    __device__ __forceinline__ float *of(int) {
        return values;
    }
};

#define TILE_KERNEL(NAME, COLUMNS, NUMBERS)                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS)                                         \
        NAME##_##COLUMNS(Arrays arrays, NUMBERS numbers) {                                        \
        extern __shared__ float shared[];                                                         \
        for (int64_t tile = blockIdx.x; tile < numbers.rows; tile += gridDim.x) {                 \
            NAME##_tile<COLUMNS>(arrays, numbers, tile, shared);                                  \
            __syncthreads();                                                                      \
        }                                                                                         \
    }

#else

static thread_local bool backwards = false;

extern "C" void host_take_turns(int other_way_round) {
    backwards = other_way_round != 0;
}

BODY int in_turn(int turn) {
    return backwards ? THREADS - 1 - turn : turn;
}

#define EACH_THREAD(THREAD)                                                                       \
    for (int turn = 0, THREAD = in_turn(0); turn < THREADS; THREAD = in_turn(++turn))
#define NEXT_PHASE() ((void)0)

template <int COUNT> struct Own {
    float values[THREADS][COUNT];
    float *of(int thread) {
        return values[thread];
    }
};

#define TILE_KERNEL(NAME, COLUMNS, NUMBERS)                                                       \
    extern "C" int64_t host_##NAME##_##COLUMNS##_shared() {                                       \
        return NAME##_floats<COLUMNS>() * sizeof(float);                                          \
    }                                                                                             \
    extern "C" void host_##NAME##_##COLUMNS(const Arrays *arrays, const NUMBERS *numbers) {       \
        float shared[NAME##_floats<COLUMNS>()];                                                   \
        for (int64_t tile = 0; tile < numbers->rows; tile++) {                                    \
            for (float &number : shared)                                                          \
                number = NAN;                                                                     \
            NAME##_tile<COLUMNS>(*arrays, *numbers, tile, shared);                                \
        }                                                                                         \
    }

#endif

// The first of a thread's rows, and of its columns.
BODY int own_row(int thread) {
    return thread / SIDE;
}

BODY int own_column(int thread) {
    return thread % SIDE;
}

// Puts rows of a matrix into a tile, zeros where it has fewer rows or columns.
template <int COLUMNS>
BODY void load(float *tile, const float *matrix, int64_t pitch, int64_t rows, int64_t columns) {
    EACH_THREAD(thread) {
        for (int place = thread; place < TILE * COLUMNS; place += THREADS) {
            const int row = place / COLUMNS, column = place % COLUMNS;
            const bool there = row < rows && column < columns;
            tile[row * WIDTH<COLUMNS> + column] = there ? matrix[row * pitch + column] : 0.0f;
        }
    }
}

// A thread's share of a b^T, of two tiles.
template <int COLUMNS> BODY void product(float out[SHARE][SHARE], const float *a, const float *b, int thread) {
    const int row = own_row(thread), column = own_column(thread);
#pragma unroll
    for (int i = 0; i < SHARE; i++)
#pragma unroll
        for (int j = 0; j < SHARE; j++)
            out[i][j] = 0.0f;
#pragma unroll 4
    for (int k = 0; k < COLUMNS; k++) {
        float left[SHARE], right[SHARE];
#pragma unroll
        for (int i = 0; i < SHARE; i++) {
            left[i] = a[(row + SIDE * i) * WIDTH<COLUMNS> + k];
            right[i] = b[(column + SIDE * i) * WIDTH<COLUMNS> + k];
        }
#pragma unroll
        for (int i = 0; i < SHARE; i++)
#pragma unroll
            for (int j = 0; j < SHARE; j++)
                out[i][j] += left[i] * right[j];
    }
}

// Adds a thread's share of p m, or of p^T m: p is a product of two tiles, m a tile, and
// `inner` are the columns of p, or its rows, that count.
template <int COLUMNS, bool TRANSPOSED>
BODY void add_product(float *sums, const float *p, const float *m, int inner, int thread) {
    const int row = own_row(thread), column = own_column(thread);
#pragma unroll 4
    for (int k = 0; k < inner; k++) {
        float left[SHARE], right[COLUMNS / SIDE];
#pragma unroll
        for (int i = 0; i < SHARE; i++)
            left[i] = TRANSPOSED ? p[k * PITCH + row + SIDE * i] : p[(row + SIDE * i) * PITCH + k];
#pragma unroll
        for (int j = 0; j < COLUMNS / SIDE; j++)
            right[j] = m[k * WIDTH<COLUMNS> + column + SIDE * j];
#pragma unroll
        for (int i = 0; i < SHARE; i++)
#pragma unroll
            for (int j = 0; j < COLUMNS / SIDE; j++)
                sums[i * (COLUMNS / SIDE) + j] += left[i] * right[j];
    }
}

// Writes a thread's share of a tile to the rows and columns that a matrix has.
template <int COLUMNS>
BODY void store(float *matrix, const float *values, int64_t pitch, int64_t rows, int64_t columns, int thread) {
#pragma unroll
    for (int i = 0; i < SHARE; i++)
#pragma unroll
        for (int j = 0; j < COLUMNS / SIDE; j++) {
            const int row = own_row(thread) + SIDE * i, column = own_column(thread) + SIDE * j;
            if (row < rows && column < columns)
                matrix[row * pitch + column] = values[i * (COLUMNS / SIDE) + j];
        }
}
