// Attention of one query a sequence to all rows of its sequence, as the last block has below
// a head of classes. A block takes a head of a sequence. Eight lanes share the columns of a key;
// such groups take keys in turn, and what each has summed up of its own is added up in the end, in
// the order of groups.

#pragma once

#include "dropout.cuh"
#include "heads.cuh"
#include "tiles.cuh"

const int QUERY_THREADS = 128;
// Lanes of a group, and groups of a block.
const int GROUP = 8;
const int GROUPS = QUERY_THREADS / GROUP;
// Keys of a group whose loads do not wait for one another, and of a block.
template <class As> constexpr int KEYS_AT_ONCE = As::HALVES ? 4 : 2;
template <class As> constexpr int KEY_STEP = GROUPS * KEYS_AT_ONCE<As>;
// Blocks of a multiprocessor: those of 64 sequences of BERT-base are on a GPU all at once.
const int QUERY_BLOCKS = 6;
// What a lane has of a head's columns.
const int LANE_COLUMNS = HEAD_COLUMNS / GROUP;
// Below every score. Infinity is not, as it has no difference to itself.
const float LOWEST = -3e38f;

#define EACH_QUERY(THREAD) EACH_OF(QUERY_THREADS, THREAD)

struct OneQuery {
    // Sequences by heads.
    int64_t rows;
    // Columns of a head.
    int64_t heads, size;
    Mask mask;
    float scale;
    int32_t has_mask;
};

BODY int64_t steps_of(const OneQuery &n) {
    return n.size;
}

// What a block works on: its keys, and where those of the query begin, of its first key, and
// its log-sum-exp.
struct OneQueryPlace {
    int keys, pitch;
    int64_t query, memory, log_sum;
    RowMask mask;
};

// in2 starts, in3 places.
BODY OneQueryPlace place_of(const Arrays &arrays, const OneQuery &n, int64_t row) {
    OneQueryPlace at = {};
    const int64_t sequence = row / n.heads, head = row % n.heads;
    const uint32_t *starts = integers(arrays, 2) + sequence;
    at.keys = (int)(starts[1] - starts[0]);
    at.query = row * n.size;
    at.pitch = (int)(2 * n.heads * n.size);
    at.memory = (int64_t)starts[0] * at.pitch + head * n.size;
    at.log_sum = head * (n.rows / n.heads) + sequence;
    if (n.has_mask)
        at.mask = row_mask(mix(n.mask.base ^ (uint64_t)head), integers(arrays, 3)[sequence], 0);
    return at;
}

BODY float kept_of(const OneQuery &n, const OneQueryPlace &at, int key) {
    return n.has_mask ? factor(n.mask, at.mask, (uint32_t)key) : 1.0f;
}

// The key that is a group's by its number, of a step.
BODY int key_of(int thread, int step, int number) {
    return step + number * GROUPS + thread / GROUP;
}

// Where a key begins: behind the last one that of the last, so that no branch stands between loads.
BODY int64_t key_at(const OneQueryPlace &at, int key) {
    return at.memory + (int64_t)(key < at.keys ? key : at.keys - 1) * at.pitch;
}

// A lane's columns as they are read: WIDTH side by side, and then those behind the other lanes'.
template <int WIDTH, class Array> struct LaneRead {
    decltype(read<WIDTH>(Array{}, 0)) x[LANE_COLUMNS / WIDTH];
};

struct LaneNumbers {
    float x[LANE_COLUMNS];
};

template <int WIDTH> BODY int column_of_group(int thread, int part) {
    return (part * GROUP + thread % GROUP) * WIDTH;
}

// Where the head has fewer columns, its first ones are read, which count nowhere.
template <int WIDTH, class Array>
BODY LaneRead<WIDTH, Array> read_columns(const Array &array, int64_t place, int size, int thread) {
    LaneRead<WIDTH, Array> found;
#pragma unroll
    for (int part = 0; part < LANE_COLUMNS / WIDTH; part++) {
        const int column = column_of_group<WIDTH>(thread, part);
        found.x[part] = read<WIDTH>(array, place + (column < size ? column : 0));
    }
    return found;
}

template <int WIDTH, class Array> BODY LaneNumbers numbers_of(const LaneRead<WIDTH, Array> &held) {
    LaneNumbers numbers;
#pragma unroll
    for (int part = 0; part < LANE_COLUMNS / WIDTH; part++) {
        const Few<WIDTH> few = widened(held.x[part]);
#pragma unroll
        for (int next = 0; next < WIDTH; next++)
            numbers.x[part * WIDTH + next] = few.x[next];
    }
    return numbers;
}

// A lane's columns of a query, zeros where the head has fewer.
template <int WIDTH, class Array>
BODY LaneNumbers query_columns(const Array &array, int64_t place, int size, int thread) {
    LaneNumbers numbers = numbers_of(read_columns<WIDTH>(array, place, size, thread));
#pragma unroll
    for (int k = 0; k < LANE_COLUMNS; k++)
        if (column_of_group<WIDTH>(thread, k / WIDTH) >= size)
            numbers.x[k] = 0.0f;
    return numbers;
}

// Writes a multiple of a lane's columns.
template <int WIDTH, class Array>
BODY void put_columns(const Array &array, int64_t place, int size, int thread, const LaneNumbers &numbers,
                      float factor) {
#pragma unroll
    for (int part = 0; part < LANE_COLUMNS / WIDTH; part++) {
        const int column = column_of_group<WIDTH>(thread, part);
        Few<WIDTH> few;
#pragma unroll
        for (int next = 0; next < WIDTH; next++)
            few.x[next] = numbers.x[part * WIDTH + next] * factor;
        if (column < size)
            put_few(array, place + column, few);
    }
}

BODY float inner(const LaneNumbers &one, const LaneNumbers &other) {
    float total = 0.0f;
#pragma unroll
    for (int k = 0; k < LANE_COLUMNS; k++)
        total += one.x[k] * other.x[k];
    return total;
}

BODY void add_multiple(LaneNumbers &sums, const LaneNumbers &numbers, float factor) {
#pragma unroll
    for (int k = 0; k < LANE_COLUMNS; k++)
        sums.x[k] += numbers.x[k] * factor;
}

// The sum over the lanes of a group of what `value` gives for each.
template <class Value> BODY float sum_of_group(int thread, Value value) {
#ifdef ON_GPU
    float x = value(thread);
#pragma unroll
    for (int distance = 1; distance < GROUP; distance *= 2)
        x += of_other_lane(x, distance);
    return x;
#else
    float total = 0.0f;
    for (int lane = 0; lane < GROUP; lane++)
        total += value(thread / GROUP * GROUP + lane);
    return total;
#endif
}

// What groups have summed up, in shared memory: rows of a head's columns, and single numbers.
BODY float *columns_of_groups(float *shared, int number) {
    return shared + number * GROUPS * HEAD_COLUMNS;
}

template <int WIDTH> BODY void keep_columns(float *rows, int thread, const LaneNumbers &numbers) {
    const int64_t place = thread / GROUP * HEAD_COLUMNS;
    put_columns<WIDTH>(Floats{rows, false}, place, HEAD_COLUMNS, thread, numbers, 1.0f);
}

// What a thread has of its group.
template <class As> struct Asking {
    LaneNumbers query, context;
    LaneRead<As::WIDTH, typename As::Rows> values[KEYS_AT_ONCE<As>];
    float parts[KEYS_AT_ONCE<As>];
    // The largest score so far, and the sum of exponentials below it.
    float most, total;
};

constexpr int one_query_floats() {
    return GROUPS * (HEAD_COLUMNS + 2);
}

// out0 [sequences, heads * size] the context, out1 [heads, sequences] the scores'
// log-sum-exp. in0 [sequences, heads * size] queries, in1 [tokens, 2 * heads * size] keys and
// values; in2, in3 see place_of.
template <class As> BODY void one_query_of(const Arrays &arrays, const OneQuery &n, int64_t row, float *shared) {
    constexpr int WIDTH = As::WIDTH;
    const auto queries = input<typename As::Vectors>(arrays, 0);
    const auto memory = input<typename As::Rows>(arrays, 1);
    const OneQueryPlace at = place_of(arrays, n, row);
    const int size = (int)n.size;
    Own<Asking<As>> all;
    EACH_QUERY(thread) {
        Asking<As> &own = all.of(thread) = {};
        own.query = query_columns<WIDTH>(queries, at.query, size, thread);
        own.most = LOWEST;
    }
    for (int step = 0; step < at.keys; step += KEY_STEP<As>) {
        EACH_QUERY(thread) {
            Asking<As> &own = all.of(thread);
            LaneRead<WIDTH, typename As::Rows> keys[KEYS_AT_ONCE<As>];
#pragma unroll
            for (int i = 0; i < KEYS_AT_ONCE<As>; i++) {
                const int64_t place = key_at(at, key_of(thread, step, i));
                keys[i] = read_columns<WIDTH>(memory, place, size, thread);
                own.values[i] = read_columns<WIDTH>(memory, place + at.pitch / 2, size, thread);
            }
#pragma unroll
            for (int i = 0; i < KEYS_AT_ONCE<As>; i++)
                own.parts[i] = inner(own.query, numbers_of(keys[i]));
        }
        EACH_QUERY(thread) {
            Asking<As> &own = all.of(thread);
            float scores[KEYS_AT_ONCE<As>], now = own.most;
#pragma unroll
            for (int i = 0; i < KEYS_AT_ONCE<As>; i++) {
                const float score = sum_of_group(thread, [&](int other) { return all.of(other).parts[i]; });
                scores[i] = key_of(thread, step, i) < at.keys ? score * n.scale : -INFINITY;
                now = fmaxf(now, scores[i]);
            }
            const float fade = expf(own.most - now);
            own.most = now;
            own.total *= fade;
#pragma unroll
            for (int k = 0; k < LANE_COLUMNS; k++)
                own.context.x[k] *= fade;
#pragma unroll
            for (int i = 0; i < KEYS_AT_ONCE<As>; i++) {
                const float p = expf(scores[i] - now);
                own.total += p;
                const float kept = kept_of(n, at, key_of(thread, step, i));
                add_multiple(own.context, numbers_of(own.values[i]), p * kept);
            }
        }
    }
    float *contexts = columns_of_groups(shared, 0), *most_of = columns_of_groups(shared, 1);
    float *total_of = most_of + GROUPS;
    EACH_QUERY(thread) {
        const Asking<As> &own = all.of(thread);
        keep_columns<WIDTH>(contexts, thread, own.context);
        if (thread % GROUP == 0) {
            most_of[thread / GROUP] = own.most;
            total_of[thread / GROUP] = own.total;
        }
    }
    NEXT_PHASE();
    EACH_QUERY(thread) {
        if (thread < size) {
            float most = LOWEST, total = 0.0f, context = 0.0f;
            for (int group = 0; group < GROUPS; group++)
                most = fmaxf(most, most_of[group]);
            for (int group = 0; group < GROUPS; group++) {
                const float share = expf(most_of[group] - most);
                total += total_of[group] * share;
                context += contexts[group * HEAD_COLUMNS + thread] * share;
            }
            put(output(arrays, 0), at.query + thread, context / total);
            if (thread == 0)
                results(arrays, 1)[at.log_sum] = logf(total) + most;
        }
    }
}
#define ONE_QUERY_ENTRY(NAME, NUMBERS, ROW)                                                       \
    BLOCK_ENTRY(NAME, QUERY_THREADS, QUERY_BLOCKS, NUMBERS, one_query_floats(), ROW)
BY_LAYOUT(ONE_QUERY_ENTRY, one_query, OneQuery, IN<1>, IN<0> | OUT<0>, one_query_floats() * sizeof(float), 1)
