// The kernels of the second backend on CUDA: what it composes of candle's tensor
// operations elsewhere, in one pass over memory.
//
// The same text compiles for the processor, so that tests hold indices and arithmetic
// against the composition without a GPU. Every kernel has one signature: arrays, and
// numbers of its own.

#include "activation.cuh"
#include "adamw.cuh"
#include "attention.cuh"
#include "attention_gradients.cuh"
#include "attention_halves.cuh"
#include "attention_halves_gradients.cuh"
#include "cross_entropy.cuh"
#include "dropout.cuh"
#include "linear.cuh"
#include "norm.cuh"
#include "one_query.cuh"
#include "sums.cuh"
