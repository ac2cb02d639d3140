// Kernels whose rows are worked on by a warp each; its lanes share the columns. On the
// processor a row is worked on by one lane, and a sum over lanes is the lane's own.

#pragma once

#include "instructions.cuh"

// Inputs of a kernel at most.
const int INPUTS = 12;

// Inputs and outputs of a kernel; null where it has fewer, or where one is left out.
struct Arrays {
    const void *in[INPUTS];
    void *out[4];
    // Those that hold bf16 and not fp32: a bit for each, of the outputs behind the inputs.
    uint32_t halves;
};

// Numbers side by side, which are read and written at once.
template <int WIDTH> struct alignas(4 * WIDTH) Few {
    float x[WIDTH];
};

// The same as bits of bf16.
template <int WIDTH> struct alignas(2 * WIDTH) FewHalves {
    uint16_t x[WIDTH];
};

#ifdef __CUDACC__

#define KNOWN(NAME, NUMBERS, SHARED_BYTES)

#else

// A kernel by its name, of a list of all of them.
struct Known {
    const char *name;
    int64_t shared_bytes;
    // Of the arrays and the numbers.
    void (*run)(const void *, const void *);
    const Known *next;

    static inline const Known *first = nullptr;

    Known(const char *name, int64_t shared_bytes, void (*run)(const void *, const void *))
        : name(name), shared_bytes(shared_bytes), run(run), next(first) {
        first = this;
    }

    static const Known *of(const char *name, size_t length) {
        for (const Known *known = first; known; known = known->next)
            if (strlen(known->name) == length && memcmp(known->name, name, length) == 0)
                return known;
        return nullptr;
    }
};

#define KNOWN(NAME, NUMBERS, SHARED_BYTES)                                                        \
    static const Known known_##NAME(#NAME, SHARED_BYTES, [](const void *arrays, const void *numbers) { \
        NAME(*(const Arrays *)arrays, *(const NUMBERS *)numbers);                                 \
    });

#endif

#ifdef ON_GPU

const int LANES = 32;

BODY int lane() {
    return threadIdx.x % LANES;
}

// The sum over the lanes, known to each of them.
BODY float sum(float x) {
    for (int distance = LANES / 2; distance > 0; distance /= 2)
        x += of_other_lane(x, distance);
    return x;
}

BODY float largest(float x) {
    for (int distance = LANES / 2; distance > 0; distance /= 2)
        x = fmaxf(x, of_other_lane(x, distance));
    return x;
}

#define KERNEL(NAME, NUMBERS)                                                                     \
    ENTRY(256) NAME(Arrays arrays, NUMBERS numbers) {                                             \
        const int64_t warps = (int64_t)gridDim.x * blockDim.x / LANES;                            \
        const int64_t first = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / LANES;           \
        for (int64_t row = first; row < numbers.rows; row += warps)                               \
            NAME##_row(arrays, numbers, row);                                                     \
    }                                                                                             \
    KNOWN(NAME, NUMBERS, 0)

#else

const int LANES = 1;

BODY int lane() {
    return 0;
}

BODY float sum(float x) {
    return x;
}

BODY float largest(float x) {
    return x;
}

#define KERNEL(NAME, NUMBERS)                                                                     \
    static void NAME(const Arrays &arrays, const NUMBERS &numbers) {                              \
        for (int64_t row = 0; row < numbers.rows; row++)                                          \
            NAME##_row(arrays, numbers, row);                                                     \
    }                                                                                             \
    KNOWN(NAME, NUMBERS, 0)

#endif

BODY const float *floats(const Arrays &arrays, int number) {
    return (const float *)arrays.in[number];
}

// An output that is of fp32 always.
BODY float *results(const Arrays &arrays, int number) {
    return (float *)arrays.out[number];
}

BODY const uint32_t *integers(const Arrays &arrays, int number) {
    return (const uint32_t *)arrays.in[number];
}

// The entry that a piece is of, in a list of entries of which each knows its first piece.
template <class Entry> BODY Entry entry_of(const Entry *list, int64_t count, int64_t piece) {
    int64_t low = 0, high = count - 1;
    while (low < high) {
        const int64_t middle = (low + high + 1) / 2;
        if (list[middle].first_piece <= piece)
            low = middle;
        else
            high = middle - 1;
    }
    return list[low];
}
