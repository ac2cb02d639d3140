// Arrays of fp32 or of bf16, which kernels read and write alike: what is computed is in
// fp32, and rounded when it is written.

#pragma once

#include "lanes.cuh"

// The nearest number of bf16, ties to even, as its bits.
BODY uint16_t rounded(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

// Two numbers of bf16 side by side, the first in the lower bits.
BODY uint32_t pair_of(float first, float second) {
#ifdef ON_GPU
    return rounded_pair(first, second);
#else
    return rounded(first) | (uint32_t)rounded(second) << 16;
#endif
}

BODY float widened(uint16_t half) {
    const uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

// An array whose type is known when a kernel runs.
struct Numbers {
    void *at;
    bool half;
};

// Arrays whose type is known when a kernel is compiled. Behind a branch by the type a load is
// waited for before the next one begins.
struct Halves {
    uint16_t *at;
    bool half;
};

struct Floats {
    float *at;
    bool half;
};

template <class Array> constexpr bool IS_HALVES = false;
template <> constexpr bool IS_HALVES<Halves> = true;
template <class Array> constexpr bool IS_NUMBERS = false;
template <> constexpr bool IS_NUMBERS<Numbers> = true;

template <class Array = Numbers> BODY Array input(const Arrays &arrays, int number) {
    return {(decltype(Array::at))const_cast<void *>(arrays.in[number]), (arrays.halves >> number & 1u) != 0};
}

template <class Array = Numbers> BODY Array output(const Arrays &arrays, int number) {
    return {(decltype(Array::at))arrays.out[number], (arrays.halves >> (INPUTS + number) & 1u) != 0};
}

BODY float one(const Numbers &numbers, int64_t place) {
    return numbers.half ? widened(((const uint16_t *)numbers.at)[place]) : ((const float *)numbers.at)[place];
}

BODY void put(const Numbers &numbers, int64_t place, float x) {
    if (numbers.half)
        ((uint16_t *)numbers.at)[place] = rounded(x);
    else
        ((float *)numbers.at)[place] = x;
}

template <int WIDTH> BODY Few<WIDTH> widened(const FewHalves<WIDTH> &halves) {
    Few<WIDTH> found;
#pragma unroll
    for (int next = 0; next < WIDTH; next++)
        found.x[next] = widened(halves.x[next]);
    return found;
}

template <int WIDTH> BODY const Few<WIDTH> &widened(const Few<WIDTH> &floats) {
    return floats;
}

// Numbers side by side as they lie there, where a layout says that they are read at once.
template <int WIDTH> BODY FewHalves<WIDTH> read(const Halves &halves, int64_t place) {
    return at_once<const FewHalves<WIDTH>>(halves.at + place);
}

template <int WIDTH> BODY Few<WIDTH> read(const Floats &floats, int64_t place) {
    return at_once<const Few<WIDTH>>(floats.at + place);
}

template <int WIDTH> BODY Few<WIDTH> read(const Numbers &numbers, int64_t place) {
    if (numbers.half)
        return widened(read<WIDTH>(Halves{(uint16_t *)numbers.at, true}, place));
    return read<WIDTH>(Floats{(float *)numbers.at, false}, place);
}

template <int WIDTH, class Array> BODY Few<WIDTH> few(const Array &array, int64_t place) {
    return widened(read<WIDTH>(array, place));
}

template <int WIDTH> BODY void put_few(const Floats &floats, int64_t place, const Few<WIDTH> &x) {
    at_once<Few<WIDTH>>(floats.at + place) = x;
}

template <int WIDTH> BODY void put_few(const Halves &halves, int64_t place, const Few<WIDTH> &x) {
    if constexpr (WIDTH == 1) {
        halves.at[place] = rounded(x.x[0]);
    } else {
        FewPairs<WIDTH> pairs;
#pragma unroll
        for (int next = 0; next < WIDTH / 2; next++)
            pairs.x[next] = pair_of(x.x[2 * next], x.x[2 * next + 1]);
        at_once<FewPairs<WIDTH>>(halves.at + place) = pairs;
    }
}

template <int WIDTH> BODY void put_few(const Numbers &numbers, int64_t place, const Few<WIDTH> &x) {
    if (numbers.half)
        put_few(Halves{(uint16_t *)numbers.at, true}, place, x);
    else
        put_few(Floats{(float *)numbers.at, false}, place, x);
}

template <int WIDTH> BODY void add(Few<WIDTH> &sums, const Few<WIDTH> &more) {
#pragma unroll
    for (int next = 0; next < WIDTH; next++)
        sums.x[next] += more.x[next];
}

// Adds numbers of a vector, or of a row, where there is one.
template <int WIDTH, class Array> BODY void add(Few<WIDTH> &sums, const Array &array, int64_t place) {
    if (array.at)
        add(sums, few<WIDTH>(array, place));
}

// Multiplies numbers and adds others, rounded once, as a processor does too where it is asked:
// what is rounded to bf16 behind it is the same numbers.
template <int WIDTH> BODY void multiply_add(Few<WIDTH> &x, const Few<WIDTH> &factors, const Few<WIDTH> &more) {
#pragma unroll
    for (int next = 0; next < WIDTH; next++)
        x.x[next] = fmaf(x.x[next], factors.x[next], more.x[next]);
}

// Whether each four columns of every row of an array, which may be left out, are read at
// once.
BODY bool together(const Numbers &numbers, int64_t pitch) {
    return pitch % 4 == 0 && (uintptr_t)numbers.at % (numbers.half ? 8 : 16) == 0;
}
