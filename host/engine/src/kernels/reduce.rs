//! Sums: down the columns of a matrix, and the squared norm of a slice.

use super::parallel::{Threads, take};
use super::simd::vectorize;

/// Rows that are summed before the sum is added to the total, which keeps the
/// rounding of long columns small.
const BLOCK_ROWS: usize = 256;
/// Elements of one partial sum of a squared norm.
const BLOCK_ELEMENTS: usize = 1 << 16;

/// `sums[column] += Σ x[row][column]` over the rows of a matrix of which rows
/// start every `stride` elements; `x` starts at the first column that is meant.
/// The gradient of a bias.
pub fn column_sums(threads: &Threads, sums: &mut [f32], x: &[f32], stride: usize) {
    let width = sums.len();
    assert!(width <= stride);
    by_columns(
        threads,
        sums,
        x.len().div_ceil(stride),
        #[inline(always)]
        |block, row, first| {
            let x = &x[row * stride + first..][..block.len()];
            block.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
        },
    );
}

/// `sums[column] += Σ x[row][column] * y[row][column]`, both [rows, sums.len()].
/// The gradient of a norm's gain.
pub fn column_products(threads: &Threads, sums: &mut [f32], x: &[f32], y: &[f32]) {
    let width = sums.len();
    assert_eq!(x.len(), y.len());
    by_columns(
        threads,
        sums,
        x.len() / width,
        #[inline(always)]
        |block, row, first| {
            let x = &x[row * width + first..][..block.len()];
            let y = &y[row * width + first..][..block.len()];
            block.iter_mut().zip(x.iter().zip(y)).for_each(|(sum, (x, y))| *sum = x.mul_add(*y, *sum));
        },
    );
}

/// Each thread goes down its own columns; `add` adds a row's part from column
/// `first` on to the block's sums.
fn by_columns(
    threads: &Threads,
    mut sums: &mut [f32],
    rows: usize,
    add: impl Fn(&mut [f32], usize, usize) + Sync,
) {
    threads.run(threads.column_ranges(rows, sums.len()).map(|columns| {
        let sums = take(&mut sums, columns.len());
        let add = &add;
        move || {
            super::parallel::with_scratch([columns.len()], |[block]| {
                vectorize(
                    #[inline(always)]
                    || {
                        for start in (0..rows).step_by(BLOCK_ROWS) {
                            block.fill(0.0);
                            for row in start..rows.min(start + BLOCK_ROWS) {
                                add(block, row, columns.start);
                            }
                            sums.iter_mut().zip(&*block).for_each(|(sum, block)| *sum += block);
                        }
                    },
                );
            });
        }
    }));
}

/// Σ x², in double precision.
pub fn squared_norm(threads: &Threads, x: &[f32]) -> f64 {
    let blocks = x.len().div_ceil(BLOCK_ELEMENTS);
    let mut partial = vec![0.0; blocks];
    let mut rest = &mut partial[..];
    threads.run(threads.ranges(blocks, 1, 1).map(|range| {
        let partial = rest.split_off_mut(..range.len()).unwrap_or_default();
        move || {
            let blocks = x.chunks(BLOCK_ELEMENTS).skip(range.start);
            partial.iter_mut().zip(blocks).for_each(|(sum, block)| *sum = block_norm(block));
        }
    }));
    partial.iter().sum()
}

fn block_norm(x: &[f32]) -> f64 {
    vectorize(
        #[inline(always)]
        || {
            let mut lanes = [0.0f64; 16];
            let (chunks, rest) = x.as_chunks::<16>();
            for chunk in chunks {
                for lane in 0..16 {
                    lanes[lane] += f64::from(chunk[lane]) * f64::from(chunk[lane]);
                }
            }
            lanes.iter().sum::<f64>() + rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::super::reference::{assert_close, random, wide};
    use super::*;

    #[test]
    fn columns_of_a_part_of_a_matrix() {
        for (rows, width, first, stride) in [(1, 1, 0, 1), (513, 70, 20, 96), (2048, 130, 0, 130)] {
            let x = random(rows * stride, 1);
            let before = random(width, 2);
            let mut expected = wide(&before);
            for row in 0..rows {
                for column in 0..width {
                    expected[column] += f64::from(x[row * stride + first + column]);
                }
            }
            let sums = |count| {
                let mut sums = before.clone();
                column_sums(&Threads::new(count).unwrap(), &mut sums, &x[first..], stride);
                sums
            };
            assert_close(&sums(1), &expected, 1e-6);
            assert_eq!(sums(1), sums(2));
            assert_eq!(sums(1), sums(3));
        }
    }

    #[test]
    fn products_and_norm() {
        let (rows, width) = (513, 100);
        let (x, y) = (random(rows * width, 3), random(rows * width, 4));
        let mut expected = vec![0.0; width];
        for index in 0..rows * width {
            expected[index % width] += f64::from(x[index]) * f64::from(y[index]);
        }
        let products = |count| {
            let mut sums = vec![0.0; width];
            column_products(&Threads::new(count).unwrap(), &mut sums, &x, &y);
            sums
        };
        assert_close(&products(1), &expected, 1e-6);
        assert_eq!(products(1), products(2));

        let long = random(3 * BLOCK_ELEMENTS + 5, 5);
        let exact: f64 = long.iter().map(|&x| f64::from(x).powi(2)).sum();
        let norm = |count| squared_norm(&Threads::new(count).unwrap(), &long);
        assert!((norm(1) / exact - 1.0).abs() < 1e-12);
        assert_eq!(norm(1), norm(2));
        assert_eq!(squared_norm(&Threads::new(2).unwrap(), &[]), 0.0);
    }
}
