// Kernels whose rows are worked on by a warp each, or by some; lanes share the columns. On the
// processor a row is worked on by one lane, and a sum over lanes is the lane's own.

#pragma once

#include "instructions.cuh"

// Inputs and outputs of a kernel at most.
const int INPUTS = 12, OUTPUTS = 4;

// Inputs and outputs of a kernel; null where it has fewer, or where one is left out.
struct Arrays {
    const void *in[INPUTS];
    void *out[OUTPUTS];
    // Those that hold bf16 and not fp32: a bit for each, of the outputs behind the inputs.
    uint32_t halves;
};

// Numbers side by side, which are read and written at once, 16 bytes at a time.
template <int WIDTH> struct alignas(WIDTH < 4 ? 4 * WIDTH : 16) Few {
    float x[WIDTH];
};

// The same as bits of bf16, one by one and by two.
template <int WIDTH> struct alignas(2 * WIDTH) FewHalves {
    uint16_t x[WIDTH];
};

template <int WIDTH> struct alignas(2 * WIDTH) FewPairs {
    uint32_t x[WIDTH / 2];
};

#ifdef __CUDACC__

#define KNOWN(NAME, NUMBERS, SHARED_BYTES)
#define KNOWN_IN_STRIPS(NAME, NUMBERS, SHARED_BYTES, SUFFIX, STRIPS)

#else

// A kernel by its name, of a list of all of them.
struct Known {
    const char *name;
    int64_t shared_bytes;
    // Warps at most that share a row, where there are few rows.
    int64_t strips;
    // Of the arrays and the numbers.
    void (*run)(const void *, const void *);
    // What a GPU's kernel for these arrays and numbers has behind the name, where each layout has
    // one of its own; or null.
    const char *(*suffix)(const void *, const void *);
    const Known *next;

    static inline const Known *first = nullptr;

    Known(const char *name, int64_t shared_bytes, void (*run)(const void *, const void *),
          const char *(*suffix)(const void *, const void *) = nullptr, int64_t strips = 1)
        : name(name), shared_bytes(shared_bytes), strips(strips), run(run), suffix(suffix), next(first) {
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

// SUFFIX(arrays, numbers) gives what is behind the name.
#define KNOWN_IN_STRIPS(NAME, NUMBERS, SHARED_BYTES, SUFFIX, STRIPS)                              \
    static const Known known_##NAME(                                                              \
        #NAME, SHARED_BYTES,                                                                      \
        [](const void *arrays, const void *numbers) {                                             \
            NAME(*(const Arrays *)arrays, *(const NUMBERS *)numbers);                             \
        },                                                                                        \
        [](const void *arrays, const void *numbers) -> const char * {                             \
            return SUFFIX(*(const Arrays *)arrays, *(const NUMBERS *)numbers);                    \
        },                                                                                        \
        STRIPS);

#endif

#define KNOWN_BY_LAYOUT(NAME, NUMBERS, SHARED_BYTES, SUFFIX)                                      \
    KNOWN_IN_STRIPS(NAME, NUMBERS, SHARED_BYTES, SUFFIX, 1)

// Which part of a row's columns a warp works on.
struct Strip {
    int number, strips;
};

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

// A kernel of rows, each of which is what ROW makes.
#define ROWS_ENTRY(NAME, NUMBERS, ROW)                                                            \
    ENTRY(256) NAME(Arrays arrays, NUMBERS numbers) {                                             \
        wait_for_inputs();                                                                        \
        const int64_t warps = (int64_t)gridDim.x * blockDim.x / LANES;                            \
        const int64_t first = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / LANES;           \
        for (int64_t row = first; row < numbers.rows; row += warps)                               \
            ROW(arrays, numbers, row);                                                            \
    }

// The same of rows whose columns are worked on each by itself: where more warps are launched
// than there are rows, they share these.
#define STRIPS_ENTRY(NAME, NUMBERS, ROW)                                                          \
    ENTRY(256) NAME(Arrays arrays, NUMBERS numbers) {                                             \
        wait_for_inputs();                                                                        \
        const uint32_t warps = gridDim.x * blockDim.x / LANES;                                    \
        const uint32_t first = (blockIdx.x * blockDim.x + threadIdx.x) / LANES;                   \
        const uint32_t strips = numbers.rows < warps ? warps / (uint32_t)numbers.rows : 1;        \
        for (int64_t next = first; next < strips * numbers.rows; next += warps) {                 \
            const int64_t row = strips == 1 ? next : (uint32_t)next / strips;                     \
            ROW(arrays, numbers, row, Strip{(int)(next - row * strips), (int)strips});            \
        }                                                                                         \
    }

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

#define ROWS_ENTRY(NAME, NUMBERS, ROW)                                                            \
    static void NAME(const Arrays &arrays, const NUMBERS &numbers) {                              \
        for (int64_t row = 0; row < numbers.rows; row++)                                          \
            ROW(arrays, numbers, row);                                                            \
    }

#define STRIPS_ENTRY(NAME, NUMBERS, ROW)                                                          \
    static void NAME(const Arrays &arrays, const NUMBERS &numbers) {                              \
        for (int64_t row = 0; row < numbers.rows; row++)                                          \
            ROW(arrays, numbers, row, Strip{0, 1});                                               \
    }

#endif

#define KERNEL(NAME, NUMBERS)                                                                     \
    ROWS_ENTRY(NAME, NUMBERS, NAME##_row)                                                         \
    KNOWN(NAME, NUMBERS, 0)

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
