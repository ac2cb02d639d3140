// A head's columns of a row, which the lanes of a warp share.

#pragma once

#include "numbers.cuh"

// Columns of a head at most.
const int HEAD_COLUMNS = 64;

// What a lane has of a head's columns.
struct OfHead {
    float x[HEAD_COLUMNS / LANES];
};

template <class Visit> BODY void each_column(int64_t size, Visit visit) {
#pragma unroll
    for (int turn = 0; turn < HEAD_COLUMNS / LANES; turn++) {
        const int column = turn * LANES + lane();
        if (column < size)
            visit(turn, column);
    }
}

BODY OfHead head_at(int64_t size, const Numbers &numbers, int64_t place) {
    OfHead head = {};
    each_column(size, [&](int turn, int column) { head.x[turn] = one(numbers, place + column); });
    return head;
}

BODY void put_head(int64_t size, const Numbers &numbers, int64_t place, const OfHead &head, float factor) {
    each_column(size, [&](int turn, int column) { put(numbers, place + column, head.x[turn] * factor); });
}

BODY float inner(const OfHead &one, const OfHead &other) {
    float total = 0.0f;
#pragma unroll
    for (int turn = 0; turn < HEAD_COLUMNS / LANES; turn++)
        total += one.x[turn] * other.x[turn];
    return sum(total);
}

// Adds a multiple.
BODY void add_head(OfHead &sums, const OfHead &head, float factor) {
#pragma unroll
    for (int turn = 0; turn < HEAD_COLUMNS / LANES; turn++)
        sums.x[turn] += head.x[turn] * factor;
}

// Adds a key's value to a context, of which the largest score so far is known and the sum of
// exponentials below it; of the value stays what a dropout leaves.
BODY void add_key(OfHead &context, float &most, float &total, float score, const OfHead &value, float kept) {
    const float now = fmaxf(most, score), fade = expf(most - now), p = expf(score - now);
    total = total * fade + p;
    most = now;
#pragma unroll
    for (int turn = 0; turn < HEAD_COLUMNS / LANES; turn++)
        context.x[turn] *= fade;
    add_head(context, value, p * kept);
}
