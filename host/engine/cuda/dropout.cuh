// Dropout: the hash of src/kernels/dropout.rs, bit by bit.

#pragma once

#include "layouts.cuh"

struct Mask {
    uint64_t base;
    // An element whose hash is below is dropped: 0 drops nothing.
    uint32_t threshold;
    // What is kept is multiplied by this.
    float scale;
};

// Where rows belong: those of a packed batch to sequences, those of a table to none.
struct Packing {
    int64_t sequences;
    // What is added to the number of a table's row.
    int64_t shift;
};

struct RowMask {
    uint32_t low, high;
};

BODY uint64_t mix(uint64_t bits) {
    bits += 0x9e3779b97f4a7c15ull;
    bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9ull;
    bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebull;
    return bits ^ (bits >> 31);
}

BODY RowMask row_mask(uint64_t base, uint32_t place, uint32_t row) {
    const uint64_t bits = mix(base ^ mix((uint64_t)place << 32 | row));
    return {(uint32_t)bits, (uint32_t)(bits >> 32)};
}

BODY bool keeps(const Mask &mask, RowMask row, uint32_t feature) {
    uint32_t bits = feature ^ row.low;
    bits = (bits ^ (bits >> 16)) * 0x7feb352du;
    bits += row.high;
    bits = (bits ^ (bits >> 15)) * 0x846ca68bu;
    return bits >= mask.threshold;
}

BODY float factor(const Mask &mask, RowMask row, uint32_t feature) {
    return keeps(mask, row, feature) ? mask.scale : 0.0f;
}

// The last sequence that starts at a row or before: among eight parts at a time, whose loads do not
// wait for one another. `starts` [sequences + 1].
BODY int sequence_of(const Packing &packing, const uint32_t *starts, uint32_t row) {
    int low = 0, count = (int)packing.sequences;
    while (count > 1) {
        const int part = (count + 7) / 8, last = low + count - 1;
        int parts = 0;
#pragma unroll
        for (int next = 1; next < 8; next++) {
            const int place = low + next * part;
            const uint32_t start = starts[place < last ? place : last];
            parts += (place <= last && start <= row) ? 1 : 0;
        }
        low += parts * part;
        count = part < last + 1 - low ? part : last + 1 - low;
    }
    return low;
}

// The mask of a row of the packed batch: `places` [sequences].
BODY RowMask mask_of(const Mask &mask, const Packing &packing, const uint32_t *starts, const uint32_t *places,
                     int64_t row) {
    if (packing.sequences == 0)
        return row_mask(mask.base, 0, (uint32_t)(row + packing.shift));
    const int sequence = sequence_of(packing, starts, (uint32_t)row);
    return row_mask(mask.base, places[sequence], (uint32_t)row - starts[sequence]);
}

struct RowDropout {
    int64_t rows, columns;
    Mask mask;
    Packing packing;
    int64_t has_mask;
};

// By what numbers of a row side by side are multiplied, where what is kept is multiplied by
// `scale`. As the first column is a multiple of WIDTH, the first shift moves out all bits that
// their features differ in: what they share is computed once.
template <int WIDTH>
BODY Few<WIDTH> factors(const Mask &mask, RowMask row, int column, float scale) {
    const uint32_t first = (uint32_t)column ^ row.low, shared = first ^ (first >> 16);
    Few<WIDTH> found;
#pragma unroll
    for (int next = 0; next < WIDTH; next++) {
        uint32_t bits = (shared ^ (uint32_t)next) * 0x7feb352du + row.high;
        bits = (bits ^ (bits >> 15)) * 0x846ca68bu;
        found.x[next] = bits >= mask.threshold ? scale : 0.0f;
    }
    return found;
}

// What a dropout leaves of numbers of a row, where there is one; the column is a multiple of WIDTH.
template <int WIDTH> BODY void drop(Few<WIDTH> &x, int64_t has, const Mask &mask, RowMask row, int column) {
    if (!has)
        return;
    const Few<WIDTH> by = factors<WIDTH>(mask, row, column, mask.scale);
#pragma unroll
    for (int next = 0; next < WIDTH; next++)
        x.x[next] *= by.x[next];
}

// in1 starts, in2 places.
BODY RowMask mask_of(const Arrays &arrays, const RowDropout &n, int64_t row) {
    if (!n.has_mask)
        return {};
    return mask_of(n.mask, n.packing, integers(arrays, 1), integers(arrays, 2), row);
}

BODY int64_t steps_of(const RowDropout &n) {
    return n.columns;
}

// out0 = what a dropout, if there is one, leaves of in0 [rows, columns], in out0's type. in1,
// in2 see mask_of.
template <class As> BODY void row_dropout_of(const Arrays &arrays, const RowDropout &n, int64_t row, Strip strip) {
    constexpr int WIDTH = As::WIDTH;
    const RowMask bits = mask_of(arrays, n, row);
    const auto from = input<typename As::Rows>(arrays, 0);
    const auto to = output<typename As::Rows>(arrays, 0);
    Read<As> found[AT_ONCE];
    each_few<WIDTH>(
        (int)n.columns, strip,
        [&](int turn, int column) { found[turn] = read<WIDTH>(from, row * n.columns + column); },
        [&](int turn, int column) {
            Few<WIDTH> x = widened(found[turn]);
            drop(x, n.has_mask, n.mask, bits, column);
            put_few(to, row * n.columns + column, x);
        });
}
STRIPS_KERNEL(row_dropout, RowDropout, IN<0> | OUT<0>, 0)

struct AttentionFactors {
    // [sequences, heads, queries] rows.
    int64_t rows;
    int64_t heads, queries, keys;
    Mask mask;
};

// out0 [sequences, heads, queries, keys] = the factors of attention's probabilities, 0
// where a sequence is over. in0 starts of the queries, in1 of the keys, in2 places.
BODY void attention_factors_row(const Arrays &arrays, const AttentionFactors &n, int64_t row) {
    const int64_t query = row % n.queries, head = row / n.queries % n.heads, sequence = row / n.queries / n.heads;
    const uint32_t *query_starts = integers(arrays, 0), *key_starts = integers(arrays, 1);
    const bool there = query < query_starts[sequence + 1] - query_starts[sequence];
    const int64_t keys = there ? key_starts[sequence + 1] - key_starts[sequence] : 0;
    const uint64_t base = mix(n.mask.base ^ (uint64_t)head);
    const RowMask bits = row_mask(base, integers(arrays, 2)[sequence], (uint32_t)query);
    for (int64_t key = lane(); key < n.keys; key += LANES)
        results(arrays, 0)[row * n.keys + key] = key < keys ? factor(n.mask, bits, (uint32_t)key) : 0.0f;
}
KERNEL(attention_factors, AttentionFactors)
