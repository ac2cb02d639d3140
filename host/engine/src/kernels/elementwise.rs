//! Small element-wise helpers.

use super::parallel::{SharedMatrix, Threads, take};
use super::simd::vectorize;

/// `a += x`.
pub fn add(threads: &Threads, a: &mut [f32], x: &[f32]) {
    pairs(threads, a, x, |a, x| a + x);
}

/// `a *= x`.
pub fn multiply(threads: &Threads, a: &mut [f32], x: &[f32]) {
    pairs(threads, a, x, |a, x| a * x);
}

/// `a = value`.
pub fn fill(threads: &Threads, mut a: &mut [f32], value: f32) {
    threads.run(threads.row_ranges(a.len(), 1).map(|range| {
        let a = take(&mut a, range.len());
        move || a.fill(value)
    }));
}

fn pairs(threads: &Threads, mut a: &mut [f32], x: &[f32], f: impl Fn(f32, f32) -> f32 + Copy + Send + Sync) {
    assert_eq!(a.len(), x.len());
    threads.run(threads.row_ranges(a.len(), 1).map(|range| {
        let a = take(&mut a, range.len());
        let x = &x[range];
        move || {
            vectorize(
                #[inline(always)]
                || a.iter_mut().zip(x).for_each(|(a, &x)| *a = f(*a, x)),
            )
        }
    }));
}

/// `x[row] += bias` for [rows, bias.len()].
pub fn add_bias(threads: &Threads, mut x: &mut [f32], bias: &[f32]) {
    let width = bias.len();
    threads.run(threads.row_ranges(x.len() / width, width).map(|rows| {
        let x = take(&mut x, rows.len() * width);
        move || {
            vectorize(
                #[inline(always)]
                || x.chunks_exact_mut(width).for_each(|x| add_row(x, bias)),
            )
        }
    }));
}

/// `a += x` of one row.
#[inline(always)]
pub(super) fn add_row(a: &mut [f32], x: &[f32]) {
    a.iter_mut().zip(x).for_each(|(a, x)| *a += x);
}

/// `out[row] = table[indices[row]]`, rows of `width` elements.
pub fn gather_rows(threads: &Threads, mut out: &mut [f32], table: &[f32], indices: &[u32], width: usize) {
    assert_eq!(out.len(), indices.len() * width);
    threads.run(threads.row_ranges(indices.len(), width).map(|rows| {
        let out = take(&mut out, rows.len() * width);
        move || {
            for (out, &index) in out.chunks_exact_mut(width).zip(&indices[rows]) {
                out.copy_from_slice(&table[index as usize * width..][..width]);
            }
        }
    }));
}

/// `table[indices[row]] += x[row]`, rows of `width` elements. An index may
/// occur any number of times: each thread adds its own columns, row after row.
pub fn scatter_add_rows(threads: &Threads, table: &mut [f32], x: &[f32], indices: &[u32], width: usize) {
    assert_eq!(x.len(), indices.len() * width);
    let table = SharedMatrix::new(table, width);
    threads.run(threads.column_ranges(indices.len(), width).map(|columns| {
        let table = &table;
        move || {
            vectorize(
                #[inline(always)]
                || {
                    for (x, &index) in x.chunks_exact(width).zip(indices) {
                        // SAFETY: the tasks' columns do not overlap.
                        add_row(unsafe { table.row(index as usize, columns.clone()) }, &x[columns.clone()]);
                    }
                },
            );
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::super::reference::random;
    use super::*;

    #[test]
    fn arithmetic_is_that_of_the_formula_for_any_thread_count() {
        let (a, x) = (random(100_001, 1), random(100_001, 2));
        for count in [1, 2, 3] {
            let threads = Threads::new(count).unwrap();
            let check = |change: &dyn Fn(&mut [f32]), expected: &dyn Fn(f32, f32) -> f32| {
                let mut found = a.clone();
                change(&mut found);
                for ((found, &a), &x) in found.iter().zip(&a).zip(&x) {
                    assert_eq!(*found, expected(a, x));
                }
            };
            check(&|a| add(&threads, a, &x), &|a, x| a + x);
            check(&|a| fill(&threads, a, 7.0), &|_, _| 7.0);
        }
    }

    #[test]
    fn rows_are_moved_and_added_where_they_belong() {
        let (rows, width) = (513, 130);
        let x = random(rows * width, 3);
        let indices: Vec<u32> = (0..rows as u32).map(|row| row * row % 20).collect();
        for count in [1, 2] {
            let threads = Threads::new(count).unwrap();
            let mut table = vec![0.0; 20 * width];
            scatter_add_rows(&threads, &mut table, &x, &indices, width);
            let mut expected = vec![0.0; 20 * width];
            for (row, &index) in indices.iter().enumerate() {
                add_row(&mut expected[index as usize * width..][..width], &x[row * width..][..width]);
            }
            assert_eq!(table, expected);
            let mut gathered = vec![0.0; rows * width];
            gather_rows(&threads, &mut gathered, &table, &indices, width);
            for (row, &index) in indices.iter().enumerate() {
                assert_eq!(gathered[row * width..][..width], table[index as usize * width..][..width]);
            }
            let mut biased = x.clone();
            add_bias(&threads, &mut biased, &x[..width]);
            assert!((0..x.len()).all(|i| biased[i] == x[i] + x[i % width]));
        }
    }
}
