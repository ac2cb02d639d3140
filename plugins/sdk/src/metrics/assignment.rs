//! The assignment problem (Kuhn 1955; Munkres 1957), by shortest augmenting
//! paths with potentials, in O(rows² columns).

/// The largest sum of values of a table of `rows` by `columns`, row-major, if
/// each row and each column is used at most once. Values are at least 0.
pub fn largest_sum(values: &[f64], rows: usize, columns: usize) -> f64 {
    if rows > columns {
        let transposed: Vec<f64> =
            (0..rows * columns).map(|place| values[place % rows * columns + place / rows]).collect();
        return largest_sum(&transposed, columns, rows);
    }
    let cost = |row: usize, column: usize| -values[row * columns + column];
    // Rows and columns are counted from 1 on; 0 stands for none.
    let (mut row_potential, mut column_potential) = (vec![0.0; rows + 1], vec![0.0; columns + 1]);
    let mut owner = vec![0; columns + 1];
    for row in 1..=rows {
        let mut slack = vec![f64::INFINITY; columns + 1];
        let mut before = vec![0; columns + 1];
        let mut done = vec![false; columns + 1];
        let mut column = 0;
        owner[0] = row;
        while owner[column] != 0 {
            done[column] = true;
            let current = owner[column];
            let (mut step, mut next) = (f64::INFINITY, 0);
            for other in (1..=columns).filter(|&other| !done[other]) {
                let reduced = cost(current - 1, other - 1) - row_potential[current] - column_potential[other];
                if reduced < slack[other] {
                    (slack[other], before[other]) = (reduced, column);
                }
                if slack[other] < step {
                    (step, next) = (slack[other], other);
                }
            }
            for other in 0..=columns {
                match done[other] {
                    true => {
                        row_potential[owner[other]] += step;
                        column_potential[other] -= step;
                    }
                    false => slack[other] -= step,
                }
            }
            column = next;
        }
        while column != 0 {
            owner[column] = owner[before[column]];
            column = before[column];
        }
    }
    let chosen = (1..=columns).filter(|&column| owner[column] != 0);
    chosen.map(|column| values[(owner[column] - 1) * columns + column - 1]).sum()
}

#[cfg(test)]
mod tests {
    use host_ir::random::Stream;

    use super::*;

    /// Every way to choose, tried.
    fn by_trying(values: &[f64], columns: usize, row: usize, free: &mut Vec<bool>) -> f64 {
        if (row + 1) * columns > values.len() {
            return 0.0;
        }
        let mut best = by_trying(values, columns, row + 1, free);
        for column in 0..columns {
            if std::mem::replace(&mut free[column], false) {
                let rest = by_trying(values, columns, row + 1, free);
                best = best.max(values[row * columns + column] + rest);
                free[column] = true;
            }
        }
        best
    }

    #[test]
    fn sums_are_those_of_trying_everything() {
        let mut stream = Stream::new(5, "assignment");
        for _ in 0..300 {
            let (rows, columns) = (stream.below(6) as usize, 1 + stream.below(6) as usize);
            let values: Vec<f64> =
                (0..rows * columns).map(|_| if stream.unit() < 0.4 { 0.0 } else { stream.unit() }).collect();
            let wanted = by_trying(&values, columns, 0, &mut vec![true; columns]);
            let found = largest_sum(&values, rows, columns);
            assert!((found - wanted).abs() < 1e-9, "{found} and {wanted} in {rows} by {columns}: {values:?}");
        }
    }
}
