// What the code for a GPU finds on the processor (simulated.cpp).

#pragma once

#include <stddef.h>
#include <stdint.h>

#define ENTRY(...) static void
#define SHARED(NAME) float *NAME = simulated.shared

struct Dimension {
    unsigned x;
};

// Where the thread is whose turn it is.
struct Simulated {
    Dimension thread, threads, block, blocks;
    float *shared;
    // What a GPU would not have done in a thread's turn, or null.
    const char *wrong;
};

extern thread_local Simulated simulated;

#define threadIdx simulated.thread
#define blockDim simulated.threads
#define blockIdx simulated.block
#define gridDim simulated.blocks
#define __syncthreads() simulated_barrier(__LINE__)

#define LOOK_AT(PLACE, BYTES) simulated_access(PLACE, BYTES)

void simulated_barrier(int line);
void simulated_access(const void *place, size_t bytes);

float of_other_lane(float x, int distance);
uint32_t rounded_pair(float first, float second);
float rounded_to_tf32(float x);
void load_four(uint32_t (&pairs)[4], const uint16_t *row);
void load_four_across(uint32_t (&pairs)[4], const uint16_t *row);
void multiply_halves(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
void multiply_tf32(float *top, float *bottom, const float (&a)[4], const float (&b)[2]);

// Runs what a thread does, for all threads of blocks with so much shared memory; in order, or
// the other way round (1), or shuffled (any other number). Gives null, or what a GPU would
// not have done.
const char *simulate(int64_t blocks, int threads, unsigned order, int64_t shared_bytes,
                     void (*run)(const void *, const void *), const void *arrays, const void *numbers);
