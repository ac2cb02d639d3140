// How kernels of rows read their arrays: by the type that these have and where they lie, which is
// known when a kernel is launched, so that no branch stands between two loads.

#pragma once

#include "numbers.cuh"

// How a kernel reads the rows of its arrays, and vectors as long as a row: eight numbers of
// bf16 at once and vectors of fp32, four of fp32, four of any type, or each by itself.
struct EightHalves {
    static const int WIDTH = 8;
    static const bool HALVES = true;
    using Rows = Halves;
    using Vectors = Floats;
};

struct FourFloats {
    static const int WIDTH = 4;
    static const bool HALVES = false;
    using Rows = Floats;
    using Vectors = Floats;
};

struct FourNumbers {
    static const int WIDTH = 4;
    static const bool HALVES = false;
    using Rows = Numbers;
    using Vectors = Numbers;
};

struct OneNumber {
    static const int WIDTH = 1;
    static const bool HALVES = false;
    using Rows = Numbers;
    using Vectors = Numbers;
};

enum Layout { EIGHT_HALVES, FOUR_FLOATS, FOUR_NUMBERS, ONE_NUMBER };

// An array among those that have rows, or that are vectors: a bit for each, of outputs behind
// inputs.
template <int NUMBER> constexpr uint32_t IN = 1u << NUMBER;
template <int NUMBER> constexpr uint32_t OUT = 1u << (INPUTS + NUMBER);

// The layout of a kernel's arrays, some of which may be left out. `steps` has the bits of all
// numbers of columns that lie between places that are read.
BODY Layout layout_of(const Arrays &arrays, uint32_t rows, uint32_t vectors, int64_t steps) {
    uint32_t there = 0;
    uintptr_t places = 0;
    bool four = steps % 4 == 0;
#pragma unroll
    for (int number = 0; number < INPUTS + OUTPUTS; number++)
        if ((rows | vectors) >> number & 1u) {
            const Numbers array =
                number < INPUTS ? input(arrays, number) : output(arrays, number - INPUTS);
            there |= array.at ? 1u << number : 0u;
            places |= (uintptr_t)array.at;
            four = four && together(array, 4);
        }
    const bool aligned = places % 16 == 0, floats = (arrays.halves & there & vectors) == 0;
    if (aligned && steps % 8 == 0 && floats && (there & rows & ~arrays.halves) == 0)
        return EIGHT_HALVES;
    if (aligned && steps % 4 == 0 && floats && (there & rows & arrays.halves) == 0)
        return FOUR_FLOATS;
    return four ? FOUR_NUMBERS : ONE_NUMBER;
}

#ifdef __CUDACC__

#define CHOICE_OF_LAYOUT(NAME, NUMBERS, ROWS, VECTORS)

#else

BODY const char *suffix_of(Layout layout) {
    switch (layout) {
    case EIGHT_HALVES:
        return "_EightHalves";
    case FOUR_FLOATS:
        return "_FourFloats";
    case FOUR_NUMBERS:
        return "_FourNumbers";
    default:
        return "_OneNumber";
    }
}

#define CHOICE_OF_LAYOUT(NAME, NUMBERS, ROWS, VECTORS)                                            \
    static Layout NAME##_layout(const Arrays &arrays, const NUMBERS &numbers) {                   \
        return layout_of(arrays, ROWS, VECTORS, steps_of(numbers));                               \
    }                                                                                             \
    static const char *NAME##_suffix(const Arrays &arrays, const NUMBERS &numbers) {              \
        return suffix_of(NAME##_layout(arrays, numbers));                                         \
    }                                                                                             \
    static void NAME(const Arrays &arrays, const NUMBERS &numbers) {                              \
        switch (NAME##_layout(arrays, numbers)) {                                                 \
        case EIGHT_HALVES:                                                                        \
            return NAME##_EightHalves(arrays, numbers);                                           \
        case FOUR_FLOATS:                                                                         \
            return NAME##_FourFloats(arrays, numbers);                                            \
        case FOUR_NUMBERS:                                                                        \
            return NAME##_FourNumbers(arrays, numbers);                                           \
        default:                                                                                  \
            return NAME##_OneNumber(arrays, numbers);                                             \
        }                                                                                         \
    }

#endif

// A kernel, made by KIND of what NAME_of works on: one for each layout, as each takes registers
// of its own. Which of them runs is chosen where it is launched. ROWS and VECTORS say which
// arrays are read by the layout, and steps_of(NUMBERS) the steps.
#define BY_LAYOUT(KIND, NAME, NUMBERS, ROWS, VECTORS, SHARED_BYTES, STRIPS)                       \
    KIND(NAME##_EightHalves, NUMBERS, NAME##_of<EightHalves>)                                     \
    KIND(NAME##_FourFloats, NUMBERS, NAME##_of<FourFloats>)                                       \
    KIND(NAME##_FourNumbers, NUMBERS, NAME##_of<FourNumbers>)                                     \
    KIND(NAME##_OneNumber, NUMBERS, NAME##_of<OneNumber>)                                         \
    CHOICE_OF_LAYOUT(NAME, NUMBERS, ROWS, VECTORS)                                                \
    KNOWN_IN_STRIPS(NAME, NUMBERS, SHARED_BYTES, NAME##_suffix, STRIPS)

// A kernel of rows that a warp works on each.
#define ROWS_KERNEL(NAME, NUMBERS, ROWS, VECTORS)                                                 \
    BY_LAYOUT(ROWS_ENTRY, NAME, NUMBERS, ROWS, VECTORS, 0, 1)

// A kernel of rows whose columns are worked on each by itself, by each_few: where there are few
// rows, so many warps share one, as a GPU is not full of a warp for each.
#define STRIPS_KERNEL(NAME, NUMBERS, ROWS, VECTORS)                                               \
    BY_LAYOUT(STRIPS_ENTRY, NAME, NUMBERS, ROWS, VECTORS, 0, 8)

// What a lane reads of a row at once.
template <class As> using Read = decltype(read<As::WIDTH>(typename As::Rows{}, 0));

// Turns whose columns a lane can keep between visits of a row: those of rows of BERT-large in
// bf16, and of BERT-base in fp32.
template <int WIDTH> constexpr int KEPT = WIDTH == 8 ? 3 : 6;

// Reads what a lane can keep of a row: `load` gets a turn and its first column, or the row's
// first where the turn has none, as loads that are left out would be waited for one by one.
template <int WIDTH, class Load> BODY void load_kept(int columns, Load load) {
#pragma unroll
    for (int turn = 0; turn < KEPT<WIDTH>; turn++) {
        const int column = WIDTH * (turn * LANES + lane());
        load(turn, column < columns ? column : 0);
    }
}

// Visits the columns of a row that are a lane's: the first of each WIDTH, and the turn in
// which it comes; from KEPT on, turns are told no more.
template <int WIDTH, class Visit> BODY void each_turn(int columns, Visit visit) {
#pragma unroll
    for (int turn = 0; turn < KEPT<WIDTH>; turn++) {
        const int column = WIDTH * (turn * LANES + lane());
        if (column < columns)
            visit(turn, column);
    }
    for (int column = WIDTH * (KEPT<WIDTH> * LANES + lane()); column < columns; column += WIDTH * LANES)
        visit(KEPT<WIDTH>, column);
}

// Turns of each_few whose loads do not wait for one another.
const int AT_ONCE = 3;

// Visits the columns of a row that are a lane's in its warp's strip, some turns at a time: `load`
// reads what `use` takes when all of these have been read.
template <int WIDTH, class Load, class Use> BODY void each_few(int columns, Strip strip, Load load, Use use) {
    const int TURN = WIDTH * LANES;
    const int start = WIDTH * lane() + strip.number * AT_ONCE * TURN;
    for (int first = start; first < columns; first += strip.strips * AT_ONCE * TURN) {
#pragma unroll
        for (int turn = 0; turn < AT_ONCE; turn++)
            if (first + turn * TURN < columns)
                load(turn, first + turn * TURN);
#pragma unroll
        for (int turn = 0; turn < AT_ONCE; turn++)
            if (first + turn * TURN < columns)
                use(turn, first + turn * TURN);
    }
}

// The same of a whole row.
template <int WIDTH, class Load, class Use> BODY void each_few(int columns, Load load, Use use) {
    each_few<WIDTH>(columns, Strip{0, 1}, load, use);
}
