// The kernels of the second backend on CUDA: what it composes of candle's tensor
// operations elsewhere, in one pass over memory.
//
// The text compiles three times: for a GPU; for the processor, where one thread takes the
// turns of all, which is what tests and the look at a GPU's results compare with; and for a
// GPU that is simulated on the processor, so that tests run what a GPU runs. Every kernel
// has one signature: arrays, and numbers of its own.

#include "instructions.cuh"

#ifdef SIMULATED
// Functions of the two texts for the processor have names of their own.
namespace in_simulation {
#endif

#include "activation.cuh"
#include "adamw.cuh"
#include "attention.cuh"
#include "attention_gradients.cuh"
#include "attention_halves.cuh"
#include "attention_halves_gradients.cuh"
#include "attention_whole.cuh"
#include "attention_whole_gradients.cuh"
#include "cross_entropy.cuh"
#include "dropout.cuh"
#include "embed.cuh"
#include "gate.cuh"
#include "linear.cuh"
#include "low_rank.cuh"
#include "norm.cuh"
#include "one_query.cuh"
#include "one_query_gradients.cuh"
#include "recall.cuh"
#include "rms_norm.cuh"
#include "sums.cuh"

#ifndef __CUDACC__

#ifdef SIMULATED

} // namespace in_simulation

// Runs a kernel by its name. Gives null, or what a GPU would not have done.
extern "C" const char *simulated_kernel(const char *name, size_t length, const void *arrays, const void *numbers,
                                        int64_t blocks, int threads, unsigned order) {
    const auto *known = in_simulation::Known::of(name, length);
    if (!known)
        return "there is no such kernel";
    return simulate(blocks, threads, order, known->shared_bytes, known->run, arrays, numbers);
}

#else

// A kernel by its name, or null.
extern "C" const Known *host_kernel(const char *name, size_t length) {
    return Known::of(name, length);
}

#endif

#endif
