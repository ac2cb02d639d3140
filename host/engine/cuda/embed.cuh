// Rows that are looked up in tables and added up.

#pragma once

#include "layouts.cuh"

struct Embed {
    int64_t rows, columns;
    // What rows of the first table are multiplied by.
    float factor;
    uint32_t unused;
};

BODY int64_t steps_of(const Embed &n) {
    return n.columns;
}

// A table, and which row of it each row takes.
template <class Array> struct Table {
    Array rows;
    const uint32_t *numbers;
};

template <class As> BODY Table<typename As::Rows> table_of(const Arrays &arrays, int number) {
    return {input<typename As::Rows>(arrays, number), integers(arrays, 4 + number)};
}

// out0 [rows, columns] = factor times a row of in0, or that row of in3 which in7 says where in8 is
// not 0, plus rows of in1 and in2; in4 to in6 say which. in1 to in3 may be left out.
template <class As> BODY void embed_of(const Arrays &arrays, const Embed &n, int64_t row) {
    constexpr int WIDTH = As::WIDTH;
    using Rows = typename As::Rows;
    const Rows to = output<Rows>(arrays, 0);
    const auto prompts = table_of<As>(arrays, 3), words = table_of<As>(arrays, 0);
    const auto positions = table_of<As>(arrays, 1), types = table_of<As>(arrays, 2);
    const bool is_virtual = prompts.rows.at && integers(arrays, 8)[row] != 0;
    const auto first = is_virtual ? prompts : words;
    const auto start_of = [&](const Table<Rows> &table) {
        return table.rows.at ? table.numbers[row] * n.columns : 0;
    };
    const int64_t start = start_of(first), position = start_of(positions), type = start_of(types);
    const float factor = is_virtual ? 1.0f : n.factor;
    Read<As> found[AT_ONCE], of_position[AT_ONCE], of_type[AT_ONCE];
    each_few<WIDTH>(
        (int)n.columns,
        [&](int turn, int column) {
            found[turn] = read<WIDTH>(first.rows, start + column);
            if (positions.rows.at)
                of_position[turn] = read<WIDTH>(positions.rows, position + column);
            if (types.rows.at)
                of_type[turn] = read<WIDTH>(types.rows, type + column);
        },
        [&](int turn, int column) {
            Few<WIDTH> x = widened(found[turn]);
#pragma unroll
            for (int next = 0; next < WIDTH; next++)
                x.x[next] *= factor;
            if (positions.rows.at)
                add(x, widened(of_position[turn]));
            if (types.rows.at)
                add(x, widened(of_type[turn]));
            put_few(to, row * n.columns + column, x);
        });
}
ROWS_KERNEL(embed, Embed, IN<0> | IN<1> | IN<2> | IN<3> | OUT<0>, 0)
