// Low-rank updates of linear layers (Hu et al. 2021) and their gradients, of numbers rounded
// to bf16, by tensor cores: what a factor makes of rows, what is added to rows, and the
// gradient of a factor. Each reads its wide matrix once, and drops in registers.
//
// A sum's order is free, and so is that of columns and of places in the rank, as long as both
// factors of a product agree on it: each lane has eight columns side by side, and places side by
// side, which are read at once, where an instruction asks for columns of eight tiles, or for four
// pairs of places. So a lane reads a factor as tensor cores take it, and no block brings it to
// shared memory for others. While a lane computes with what it has read, what it needs next is on
// its way.

#pragma once

#include "low_rank_reads.cuh"

const int HALF_WARPS = HALF_THREADS / WARP;

// A kernel for ranks up to so many, for each way to read.
#define RANK_ENTRY(NAME, RANKS, BLOCKS, ARRAY)                                                    \
    BLOCK_ENTRY(NAME##_##RANKS##_##ARRAY, HALF_THREADS, BLOCKS, LowRank, NAME##_floats<RANKS>(),  \
                NAME##_tile<RANKS, ARRAY>)

#define RANK_KERNEL(NAME, RANKS, BLOCKS)                                                          \
    RANK_ENTRY(NAME, RANKS, BLOCKS, Halves)                                                       \
    RANK_ENTRY(NAME, RANKS, BLOCKS, Floats)                                                       \
    RANK_ENTRY(NAME, RANKS, BLOCKS, Numbers)                                                      \
    CHOICE_OF_READS(NAME##_##RANKS, NAME##_arrays, RANKS == 16 ? 4 : 8)                           \
    KNOWN_BY_LAYOUT(NAME##_##RANKS, LowRank, NAME##_floats<RANKS>() * sizeof(float), NAME##_##RANKS##_suffix)

// The masks of so many rows from a first one on, by which updates from one on drop them, each
// `apart` behind those of the one before. A thread has rows side by side, whose sequences are near.
// in1 starts, in2 places.
BODY void load_masks(const Arrays &arrays, const LowRank &n, int update, int count, int first, int rows, int apart,
                     RowMask *masks) {
    if (!n.has_mask)
        return;
    const uint32_t *starts = integers(arrays, 1), *places = integers(arrays, 2);
    const int each = (count * rows + HALF_THREADS - 1) / HALF_THREADS, sequences = (int)n.packing.sequences;
    EACH_HALF(thread) {
        int more = thread * each / rows, row = thread * each % rows, sequence = 0;
        for (int next = 0; next < each && more < count; next++) {
            const uint32_t at = (uint32_t)(first + row);
            if (sequences > 0 && (next == 0 || row == 0))
                sequence = sequence_of(n.packing, starts, at);
            while (sequence + 1 < sequences && starts[sequence + 1] <= at)
                sequence++;
            const uint64_t base = update_of(n, update + more).masks[0].base;
            masks[more * apart + row] = sequences > 0
                                            ? row_mask(base, places[sequence], at - starts[sequence])
                                            : row_mask(base, 0, (uint32_t)(at + n.packing.shift));
            row++;
            if (row == rows) {
                row = 0;
                more++;
            }
        }
    }
}

#include "low_rank_down.cuh"
#include "low_rank_gradient.cuh"
#include "low_rank_up.cuh"
