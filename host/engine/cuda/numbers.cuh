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

struct Numbers {
    void *at;
    bool half;
};

BODY Numbers input(const Arrays &arrays, int number) {
    return {const_cast<void *>(arrays.in[number]), (arrays.halves >> number & 1u) != 0};
}

BODY Numbers output(const Arrays &arrays, int number) {
    return {arrays.out[number], (arrays.halves >> (INPUTS + number) & 1u) != 0};
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

// Numbers side by side, where `together` says that they lie so that they are read at once.
template <int WIDTH> BODY Few<WIDTH> few(const Numbers &numbers, int64_t place) {
    if (!numbers.half)
        return *(const Few<WIDTH> *)((const float *)numbers.at + place);
    const FewHalves<WIDTH> halves = *(const FewHalves<WIDTH> *)((const uint16_t *)numbers.at + place);
    Few<WIDTH> found;
#pragma unroll
    for (int next = 0; next < WIDTH; next++)
        found.x[next] = widened(halves.x[next]);
    return found;
}

template <int WIDTH> BODY void put_few(const Numbers &numbers, int64_t place, const Few<WIDTH> &x) {
    if (!numbers.half) {
        *(Few<WIDTH> *)((float *)numbers.at + place) = x;
        return;
    }
    FewHalves<WIDTH> halves;
#pragma unroll
    for (int next = 0; next < WIDTH; next += 2) {
        const uint32_t pair = pair_of(x.x[next], next + 1 < WIDTH ? x.x[next + 1] : 0.0f);
        halves.x[next] = (uint16_t)pair;
        if (next + 1 < WIDTH)
            halves.x[next + 1] = (uint16_t)(pair >> 16);
    }
    *(FewHalves<WIDTH> *)((uint16_t *)numbers.at + place) = halves;
}

// Adds numbers of a vector, or of a row, where there is one.
template <int WIDTH> BODY void add(Few<WIDTH> &sums, const Numbers &numbers, int64_t place) {
    if (!numbers.at)
        return;
    const Few<WIDTH> more = few<WIDTH>(numbers, place);
#pragma unroll
    for (int next = 0; next < WIDTH; next++)
        sums.x[next] += more.x[next];
}

// Whether each four columns of every row of an array, which may be left out, are read at
// once.
BODY bool together(const Numbers &numbers, int64_t pitch) {
    return pitch % 4 == 0 && (uintptr_t)numbers.at % (numbers.half ? 8 : 16) == 0;
}

// Columns of a row that a lane can keep between visits, in so many numbers side by side.
const int KEPT = 6;

// Visits the columns of a row that are a lane's: the first of each WIDTH, and the turn in
// which it comes; from KEPT on, turns are told no more.
template <int WIDTH, class Visit> BODY void each_turn(int columns, Visit visit) {
#pragma unroll
    for (int turn = 0; turn < KEPT; turn++) {
        const int column = WIDTH * (turn * LANES + lane());
        if (column < columns)
            visit(turn, column);
    }
    for (int column = WIDTH * (KEPT * LANES + lane()); column < columns; column += WIDTH * LANES)
        visit(KEPT, column);
}

// The same, without turns.
template <int WIDTH, class Visit> BODY void each_few(int columns, Visit visit) {
#pragma unroll 2
    for (int column = WIDTH * lane(); column < columns; column += WIDTH * LANES)
        visit(column);
}
