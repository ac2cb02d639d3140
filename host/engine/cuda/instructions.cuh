// What kernels say that is no C++: where they are, and the instructions of a GPU's lanes
// and tensor cores. The code for a GPU compiles for the processor, too (SIMULATED), where
// threads of a block take turns and meet in what is named here (simulated.cpp).

#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__CUDACC__) || defined(SIMULATED)
#define ON_GPU
#endif

#ifdef __CUDACC__

#define BODY static __device__ __forceinline__
#define OF_THREAD __device__ __forceinline__
#define ENTRY(...) extern "C" __global__ void __launch_bounds__(__VA_ARGS__)
#define SHARED(NAME) extern __shared__ __align__(16) float NAME[]

// What a kernel begins with: it waits until the one before has ended and all that that one has
// written is seen, where it was begun early (own/driver.rs); the next one may be begun when all
// blocks of this one have places.
BODY void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The number that the lane so far away has.
BODY float of_other_lane(float x, int distance) {
    return __shfl_xor_sync(0xffffffffu, x, distance);
}

// Two numbers rounded to bf16, the first in the lower bits.
BODY uint32_t rounded_pair(float first, float second) {
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    return pair;
}

// Says that a place is not a block's own, so that what reads there needs not find out.
template <class T> BODY T *in_memory(T *place) {
    __builtin_assume(__isGlobal(place));
    return place;
}

BODY float rounded_to_tf32(float x) {
    uint32_t bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return __uint_as_float(bits);
}

BODY float fast_exponential(float x) {
    return __expf(x);
}

// Two to the power of x.
BODY float fast_power_of_two(float x) {
    float found;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(found) : "f"(x));
    return found;
}

BODY float fast_reciprocal(float x) {
    float found;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(found) : "f"(x));
    return found;
}

// Four matrices of eight by eight of bf16, as they lie there or read across: eight lanes each
// name their rows.
BODY void load_four(uint32_t (&pairs)[4], const uint16_t *row) {
    const uint32_t address = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(pairs[0]), "=r"(pairs[1]), "=r"(pairs[2]), "=r"(pairs[3])
                 : "r"(address)
                 : "memory");
}

BODY void load_four_across(uint32_t (&pairs)[4], const uint16_t *row) {
    const uint32_t address = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(pairs[0]), "=r"(pairs[1]), "=r"(pairs[2]), "=r"(pairs[3])
                 : "r"(address)
                 : "memory");
}

// Adds the product of 16 rows by 16 places and 16 places by eight columns, of bf16.
BODY void multiply_halves(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Adds the product of 16 rows by eight places and eight places by eight columns, of TF32:
// two numbers of a row, and two of the eighth row behind it.
BODY void multiply_tf32(float *top, float *bottom, const float (&a)[4], const float (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(top[0]), "+f"(top[1]), "+f"(bottom[0]), "+f"(bottom[1])
                 : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
                   "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}

#else

#define BODY static inline
#define OF_THREAD

BODY void wait_for_inputs() {}

template <class T> BODY T *in_memory(T *place) {
    return place;
}

BODY float fast_exponential(float x) {
    return expf(x);
}

BODY float fast_power_of_two(float x) {
    return exp2f(x);
}

BODY float fast_reciprocal(float x) {
    return 1.0f / x;
}

#endif

#ifdef SIMULATED
#include "simulated.h"
#else
#define LOOK_AT(PLACE, BYTES)
#endif

// What lies at a place as one value, read or written at once, which a GPU does only where the
// place has the alignment of the type.
template <class T> BODY T &at_once(const void *place) {
    LOOK_AT(place, alignof(T));
    return *(T *)place;
}
