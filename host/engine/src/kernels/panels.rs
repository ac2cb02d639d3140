//! Matrix products of our own for AVX2 and AVX-512. A tile of the result, six rows by two
//! (AVX2) or four vectors, stays in registers while it is summed; the right operand is
//! packed into panels of a tile's columns, one at a time, so that each is used for all
//! rows out of the second-level cache, into which the next one is fetched meanwhile; the
//! left one is read as it lies.
//!
//! Each element is a chain of fused multiplications and additions in the order of the
//! inner dimension, of which parts of at most `INNER` are added one after the other: the
//! same bits on both kinds of machine, for any tile and any number of threads.

mod pack;
#[cfg(test)]
mod tests;
mod tile;

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use self::pack::Source;
use self::tile::Strip;
use super::matmul::Matrix;
use super::parallel::with_panel;

/// Vectors of a tile's row on AVX-512, and on AVX2.
const WIDE: usize = 4;
const NARROW: usize = 2;
/// The most of the inner dimension that is summed in registers: a panel of it takes
/// 192 KiB of the second-level cache on AVX-512, a quarter of that on AVX2.
const INNER: usize = 768;
/// Fewer rows are not worth a packed panel, nor are fewer columns than half a tile's, or
/// so few multiplications.
const FEWEST_ROWS: usize = 64;
const FEWEST_COLUMNS: usize = 32;
const FEWEST_PRODUCTS: usize = 1 << 18;

/// `c` [m, n] = alpha A B + beta `c`, with A [m, k] row-major.
pub(super) struct Product<'a> {
    /// m, n and k.
    pub size: [usize; 3],
    pub alpha: f32,
    /// With 0, the result is not read.
    pub beta: f32,
    pub a: Matrix<'a>,
    pub b: Matrix<'a>,
    /// Whether B lies as [n, k] instead of [k, n].
    pub across: bool,
    pub c: *mut f32,
    pub stride: usize,
}

/// Whether tiles are faster than the `gemm` crate on this machine, at this size.
pub(super) fn pays([m, n, k]: [usize; 3]) -> bool {
    let large = m >= FEWEST_ROWS && n >= FEWEST_COLUMNS && m * n * k >= FEWEST_PRODUCTS;
    large && matches!(Arch::new(), Arch::V4(_) | Arch::V3(_))
}

/// Computes a product, of at least one k, on the calling thread.
///
/// # Safety
/// The operands have these sizes, and `c` is valid for m rows of n elements every
/// `stride`, which nobody else reads or writes meanwhile.
pub(super) unsafe fn multiply(product: Product<'_>) {
    match Arch::new() {
        Arch::V4(wide) => Simd::vectorize(wide, product),
        Arch::V3(narrow) => Simd::vectorize(narrow, product),
        _ => unreachable!("tiles without AVX2"),
    }
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F32_LANES {
            16 => self.run::<S, WIDE>(simd),
            _ => self.run::<S, NARROW>(simd),
        }
    }
}

impl Product<'_> {
    #[inline(always)]
    fn run<S: Simd, const VECTORS: usize>(&self, simd: S) {
        let k = self.size[2];
        let longest = k.div_ceil(k.div_ceil(INNER));
        with_panel(
            longest * VECTORS * S::F32_LANES,
            #[inline(always)]
            |panel| {
                for start in (0..k).step_by(longest) {
                    self.part::<S, VECTORS>(simd, start..(start + longest).min(k), panel);
                }
            },
        );
    }

    /// What a part of the inner dimension adds to the result.
    #[inline(always)]
    fn part<S: Simd, const VECTORS: usize>(&self, simd: S, inner: Range<usize>, panel: &mut [f32]) {
        let [m, n, _] = self.size;
        let step = VECTORS * S::F32_LANES;
        for column in (0..n).step_by(step) {
            let source = self.source(column, step, inner.clone());
            let vectors = source.width.div_ceil(S::F32_LANES);
            let panel = &mut panel[..inner.len() * vectors * S::F32_LANES];
            source.pack(simd, vectors, panel);
            let strip = Strip {
                a: self.a.columns_from(inner.start),
                rows: m,
                // SAFETY: this column is the result's.
                c: unsafe { self.c.add(column) },
                stride: self.stride,
                width: source.width,
                alpha: self.alpha,
                beta: if inner.start == 0 { self.beta } else { 1.0 },
            };
            let next = self.source(column + step, step, inner.clone());
            let panel = S::as_simd_f32s(panel).0;
            match vectors {
                1 => strip.tiles::<S, 1>(simd, panel, next),
                2 => strip.tiles::<S, 2>(simd, panel, next),
                3 => strip.tiles::<S, 3>(simd, panel, next),
                _ => strip.tiles::<S, VECTORS>(simd, panel, next),
            }
        }
    }

    /// The part of the right operand for at most so many columns of the result from a
    /// column on.
    #[inline(always)]
    fn source(&self, column: usize, most: usize, inner: Range<usize>) -> Source<'_> {
        let width = self.size[1].saturating_sub(column).min(most);
        let from = match self.across {
            _ if width == 0 => Matrix::new(&[], self.b.stride),
            true => self.b.rows_from(column).columns_from(inner.start),
            false => self.b.rows_from(inner.start).columns_from(column),
        };
        Source { from, width, inner: inner.len(), across: self.across }
    }
}
