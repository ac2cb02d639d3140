// The threads of a block take turns on one thread of the processor. A turn ends where a
// thread meets others: those of its warp in an instruction that all lanes give together, or
// those of its block at a barrier. So whatever a kernel leaves to chance comes out otherwise
// in another order of turns, and what some lanes do without the others is found.
//
// Shared memory, stacks and so variables begin as no numbers, and what lies behind shared
// memory is looked at. Nothing here asks for C++'s library, to which programs are not linked.

// Jumps go to other stacks here, which a checked longjmp takes for a mistake.
#undef _FORTIFY_SOURCE

#include "simulated.h"

#include <math.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

thread_local Simulated simulated;

namespace {

const int LANES = 32;
// Threads of a block at most.
const int THREADS = 1024;
const size_t STACK = 32 << 10;
// Floats behind shared memory that stay as they are.
const int GUARD = 64;

// What the lanes of a warp do together, each with what it gives and gets.
using Together = const char *(*)(void *const (&lanes)[LANES]);

struct Thread {
    enum { NEW, READY, IN_WARP, AT_BARRIER, DONE } state;
    // Where it begins, and where it goes on: a jump asks the system for nothing.
    ucontext_t context;
    jmp_buf on;
    Together together;
    void *lane;
    int line;
};

struct Block {
    Thread threads[THREADS];
    int count;
    jmp_buf turns;
    int turn;
    void (*run)(const void *, const void *);
    const void *arrays, *numbers;
};

thread_local Block *block;
// The stacks of its threads, one behind the other; they stay for the next block.
thread_local char *stacks;

void thread_of_block() {
    block->run(block->arrays, block->numbers);
    block->threads[block->turn].state = Thread::DONE;
    _longjmp(block->turns, 1);
}

void end_of_turn() {
    if (_setjmp(block->threads[block->turn].on) == 0)
        _longjmp(block->turns, 1);
}

void take_turn(int turn) {
    Thread &own = block->threads[turn];
    block->turn = turn;
    simulated.thread.x = (unsigned)turn;
    if (_setjmp(block->turns) != 0)
        return;
    if (own.state != Thread::NEW)
        _longjmp(own.on, 1);
    own.state = Thread::READY;
    setcontext(&own.context);
}

void meet(Together together, void *lane) {
    Thread &own = block->threads[block->turn];
    own.state = Thread::IN_WARP;
    own.together = together;
    own.lane = lane;
    end_of_turn();
}

float widened(uint32_t half) {
    const uint32_t bits = half << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

// A number of bf16, by its two neighbours.
uint32_t rounded(float x) {
    if (x != x)
        return 0x7fff;
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t below = bits >> 16, rest = bits & 0xffff;
    return below + (rest > 0x8000 || (rest == 0x8000 && below % 2 == 1));
}

float without_low_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits &= 0xffffe000u;
    memcpy(&x, &bits, sizeof x);
    return x;
}

// A sum that is cut off and not rounded, as tensor cores' are.
float cut_off(double sum) {
    const float x = (float)sum;
    return fabs((double)x) > fabs(sum) ? nextafterf(x, 0.0f) : x;
}

struct OtherLane {
    float x;
    int distance;
    float found;
};

const char *exchange(void *const (&lanes)[LANES]) {
    for (int lane = 0; lane < LANES; lane++) {
        OtherLane *own = (OtherLane *)lanes[lane], *other = (OtherLane *)lanes[lane ^ own->distance];
        if (other->distance != own->distance)
            return "lanes exchange numbers with lanes that exchange theirs with others";
        own->found = other->x;
    }
    return nullptr;
}

struct Matrices {
    uint32_t *pairs;
    const uint16_t *row;
};

// PTX ISA, ldmatrix .x4: lane 8 m + r names row r of matrix m, and a lane gets of each matrix, of
// row lane / 4, columns 2 (lane % 4) and the one behind it; with .trans, of these two rows, column
// lane / 4.
template <bool ACROSS> const char *load_matrices(void *const (&lanes)[LANES]) {
    for (int lane = 0; lane < LANES; lane++)
        for (int matrix = 0; matrix < 4; matrix++) {
            uint32_t pair = 0;
            for (int half = 0; half < 2; half++) {
                const int along = lane / 4, across = lane % 4 * 2 + half;
                const uint16_t *row = ((Matrices *)lanes[8 * matrix + (ACROSS ? across : along)])->row;
                if ((uintptr_t)row % 16 != 0)
                    return "a matrix is loaded whose rows do not begin at 16 bytes";
                pair |= (uint32_t)row[ACROSS ? along : across] << 16 * half;
            }
            ((Matrices *)lanes[lane])->pairs[matrix] = pair;
        }
    return nullptr;
}

// A product of 16 rows and so many places by eight columns, as lanes hold its parts.
template <int PLACES> struct Product {
    float *sums[4];
    float a[PLACES / 2], b[PLACES / 4];
};

// PTX ISA, matrix fragments of mma: `place_of` gives the place of a lane's part of a factor
// among those that four lanes hold; rows and columns are the same for all kinds.
template <int PLACES, int TOGETHER> const char *multiply(void *const (&lanes)[LANES]) {
    float a[16][PLACES], b[PLACES][8];
    const auto product = [&](int lane) { return (Product<PLACES> *)lanes[lane]; };
    for (int lane = 0; lane < LANES; lane++) {
        const auto place = [&](int part) {
            return lane % 4 * TOGETHER + part % TOGETHER + part / TOGETHER * 4 * TOGETHER;
        };
        for (int part = 0; part < PLACES / 2; part++) {
            const int below = part / TOGETHER % 2, behind = part / TOGETHER / 2 * TOGETHER + part % TOGETHER;
            a[lane / 4 + 8 * below][place(behind)] = product(lane)->a[part];
        }
        for (int part = 0; part < PLACES / 4; part++)
            b[place(part)][lane / 4] = product(lane)->b[part];
    }
    for (int lane = 0; lane < LANES; lane++)
        for (int part = 0; part < 4; part++) {
            const int row = lane / 4 + part / 2 * 8, column = lane % 4 * 2 + part % 2;
            double sum = *product(lane)->sums[part];
            for (int place = 0; place < PLACES; place++)
                sum += (double)a[row][place] * b[place][column];
            *product(lane)->sums[part] = cut_off(sum);
        }
    return nullptr;
}

// What the threads of a warp wait for together, if they do.
const char *warps_go_on(bool &some) {
    for (int first = 0; first < block->count; first += LANES) {
        Thread *warp = &block->threads[first];
        void *lanes[LANES];
        bool all = true;
        for (int lane = 0; lane < LANES; lane++) {
            all &= warp[lane].state == Thread::IN_WARP;
            lanes[lane] = warp[lane].lane;
        }
        if (!all)
            continue;
        for (int lane = 1; lane < LANES; lane++)
            if (warp[lane].together != warp[0].together)
                return "lanes of a warp give different instructions";
        if (const char *wrong = warp[0].together(lanes))
            return wrong;
        for (int lane = 0; lane < LANES; lane++)
            warp[lane].state = Thread::READY;
        some = true;
    }
    return nullptr;
}

// In which order threads take turns.
struct Order {
    unsigned kind;
    int turns[THREADS];

    Order(unsigned kind, int count) : kind(kind) {
        for (int turn = 0; turn < count; turn++)
            turns[turn] = kind == 1 ? count - 1 - turn : turn;
    }

    // Another one each time, by the numbers of a linear congruential generator.
    void shuffle(int count) {
        for (int left = count; kind > 1 && left > 1; left--) {
            random = random * 6364136223846793005ull + 1442695040888963407ull;
            const int other = (int)((random >> 33) % left), turn = turns[left - 1];
            turns[left - 1] = turns[other];
            turns[other] = turn;
        }
    }

    uint64_t random = kind;
};

const char *turns_of_block(Order &order) {
    for (;;) {
        order.shuffle(block->count);
        bool some = false;
        for (int place = 0; place < block->count; place++) {
            const int turn = order.turns[place];
            if (block->threads[turn].state > Thread::READY)
                continue;
            take_turn(turn);
            some = true;
        }
        if (const char *wrong = warps_go_on(some))
            return wrong;
        if (some)
            continue;
        const Thread &first = block->threads[0];
        for (int turn = 0; turn < block->count; turn++) {
            const Thread &thread = block->threads[turn];
            if (thread.state != first.state || (thread.state == Thread::AT_BARRIER && thread.line != first.line))
                return "threads wait for others that do not come";
        }
        if (first.state == Thread::DONE)
            return nullptr;
        if (first.state == Thread::IN_WARP)
            return "lanes of a warp wait for others that do not come";
        for (int turn = 0; turn < block->count; turn++)
            block->threads[turn].state = Thread::READY;
    }
}

} // namespace

void simulated_access(const void *place, size_t bytes) {
    if ((uintptr_t)place % bytes != 0)
        simulated.wrong = "numbers are read or written at once that begin between places where they may";
}

void simulated_barrier(int line) {
    Thread &own = block->threads[block->turn];
    own.state = Thread::AT_BARRIER;
    own.line = line;
    end_of_turn();
}

float of_other_lane(float x, int distance) {
    OtherLane own = {x, distance, NAN};
    meet(exchange, &own);
    return own.found;
}

uint32_t rounded_pair(float first, float second) {
    return rounded(first) | rounded(second) << 16;
}

float rounded_to_tf32(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits += 0x1000u;
    memcpy(&x, &bits, sizeof x);
    return without_low_bits(x);
}

void load_four(uint32_t (&pairs)[4], const uint16_t *row) {
    Matrices own = {pairs, row};
    meet(load_matrices<false>, &own);
}

void load_four_across(uint32_t (&pairs)[4], const uint16_t *row) {
    Matrices own = {pairs, row};
    meet(load_matrices<true>, &own);
}

void multiply_halves(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    Product<16> own = {{&sums[0], &sums[1], &sums[2], &sums[3]}, {}, {}};
    for (int part = 0; part < 8; part++)
        own.a[part] = widened(a[part / 2] >> 16 * (part % 2) & 0xffffu);
    for (int part = 0; part < 4; part++)
        own.b[part] = widened(b[part / 2] >> 16 * (part % 2) & 0xffffu);
    meet(multiply<16, 2>, &own);
}

void multiply_tf32(float *top, float *bottom, const float (&a)[4], const float (&b)[2]) {
    Product<8> own = {{&top[0], &top[1], &bottom[0], &bottom[1]}, {}, {}};
    for (int part = 0; part < 4; part++)
        own.a[part] = without_low_bits(a[part]);
    for (int part = 0; part < 2; part++)
        own.b[part] = without_low_bits(b[part]);
    meet(multiply<8, 1>, &own);
}

const char *simulate(int64_t blocks, int threads, unsigned order, int64_t shared_bytes,
                     void (*run)(const void *, const void *), const void *arrays, const void *numbers) {
    if (threads > THREADS || threads % LANES != 0)
        return "a block has no such number of threads";
    const size_t floats = shared_bytes / sizeof(float), guarded = GUARD * sizeof(float);
    stacks = stacks ? stacks : (char *)malloc(THREADS * STACK);
    float *shared = (float *)aligned_alloc(16, (shared_bytes + guarded + 15) / 16 * 16);
    block = (Block *)calloc(1, sizeof(Block));
    if (!stacks || !shared || !block)
        return "there is not memory enough to simulate a GPU";
    float guard[GUARD];
    for (float &number : guard)
        number = -123.0f;
    block->count = threads;
    block->run = run;
    block->arrays = arrays;
    block->numbers = numbers;
    Order turns(order, threads);
    simulated.threads.x = (unsigned)threads;
    simulated.blocks.x = (unsigned)blocks;
    simulated.shared = shared;
    simulated.wrong = nullptr;
    const char *wrong = nullptr;
    for (int64_t number = 0; number < blocks && !wrong; number++) {
        simulated.block.x = (unsigned)number;
        for (size_t place = 0; place < floats; place++)
            shared[place] = NAN;
        memcpy(shared + floats, guard, guarded);
        memset(stacks, 0xff, threads * STACK);
        for (int turn = 0; turn < threads; turn++) {
            Thread &thread = block->threads[turn];
            thread.state = Thread::NEW;
            getcontext(&thread.context);
            thread.context.uc_stack.ss_sp = stacks + turn * STACK;
            thread.context.uc_stack.ss_size = STACK;
            thread.context.uc_link = nullptr;
            makecontext(&thread.context, thread_of_block, 0);
        }
        wrong = turns_of_block(turns);
        if (!wrong)
            wrong = simulated.wrong;
        for (int turn = 0; turn < threads && !wrong; turn++)
            if (stacks[turn * STACK] != (char)0xff)
                wrong = "a thread has more variables than its stack here holds";
        if (!wrong && memcmp(shared + floats, guard, guarded) != 0)
            wrong = "something is written behind a block's shared memory";
    }
    free(shared);
    free(block);
    return wrong;
}
