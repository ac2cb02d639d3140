//! Tiles of a product's result, summed in registers.

use pulp::Simd;

use super::super::matmul::Matrix;
use super::pack::Source;

/// Rows of a tile: 24 sums of AVX-512's 32 registers, 12 of AVX2's 16.
const ROWS: usize = 6;

/// Rows of the left operand, row-major, and where their sums of `width` columns belong.
#[derive(Clone, Copy)]
pub(super) struct Strip<'a> {
    pub a: Matrix<'a>,
    pub rows: usize,
    pub c: *mut f32,
    pub stride: usize,
    pub width: usize,
    pub alpha: f32,
    pub beta: f32,
}

impl Strip<'_> {
    /// All of it, with a panel [inner, VECTORS], while the next one is fetched.
    #[inline(always)]
    pub fn tiles<S: Simd, const VECTORS: usize>(self, simd: S, panel: &[S::f32s], next: Source<'_>) {
        let (panel, _) = panel.as_chunks::<VECTORS>();
        let whole = self.rows / ROWS * ROWS;
        let mut lines = next.lines();
        let share = lines.count().div_ceil((whole / ROWS).max(1));
        for row in (0..whole).step_by(ROWS) {
            lines.fetch(share);
            self.tile::<S, VECTORS, ROWS>(simd, panel, row);
        }
        match self.rows - whole {
            1 => self.tile::<S, VECTORS, 1>(simd, panel, whole),
            2 => self.tile::<S, VECTORS, 2>(simd, panel, whole),
            3 => self.tile::<S, VECTORS, 3>(simd, panel, whole),
            4 => self.tile::<S, VECTORS, 4>(simd, panel, whole),
            5 => self.tile::<S, VECTORS, 5>(simd, panel, whole),
            _ => {}
        }
    }

    /// One tile, from `row` on. Its loops go by number, which leaves the sums in registers:
    /// iterators' own checks in a build with debug assertions would not.
    #[expect(clippy::needless_range_loop)]
    #[inline(always)]
    fn tile<S: Simd, const VECTORS: usize, const TALL: usize>(
        mut self,
        simd: S,
        panel: &[[S::f32s; VECTORS]],
        row: usize,
    ) {
        // All as long as the panel, so that no index into them is checked below.
        let rows: [&[f32]; TALL] =
            std::array::from_fn(|tall| &self.a.rows_from(row + tall).values[..panel.len()]);
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; TALL];
        let mut place = 0;
        while place < panel.len() {
            let vectors = panel[place];
            for tall in 0..TALL {
                let a = simd.splat_f32s(rows[tall][place]);
                for vector in 0..VECTORS {
                    sums[tall][vector] = simd.mul_add_f32s(a, vectors[vector], sums[tall][vector]);
                }
            }
            place += 1;
        }
        let (alpha, beta) = (simd.splat_f32s(self.alpha), simd.splat_f32s(self.beta));
        let unread = self.beta == 0.0;
        for tall in 0..TALL {
            for vector in 0..VECTORS {
                sums[tall][vector] = simd.mul_f32s(alpha, sums[tall][vector]);
            }
        }
        if self.width < VECTORS * S::F32_LANES {
            return self.put_narrow(simd, &{ sums }, row);
        }
        for tall in 0..TALL {
            let results = S::as_mut_simd_f32s(self.results(row + tall)).0;
            for vector in 0..VECTORS {
                results[vector] = match unread {
                    true => sums[tall][vector],
                    false => simd.mul_add_f32s(beta, results[vector], sums[tall][vector]),
                };
            }
        }
    }

    /// Puts the sums of a tile of which the last vector is not whole, or not there.
    #[inline(always)]
    fn put_narrow<S: Simd, const VECTORS: usize>(mut self, simd: S, sums: &[[S::f32s; VECTORS]], row: usize) {
        let (beta, unread) = (simd.splat_f32s(self.beta), self.beta == 0.0);
        for (tall, sums) in sums.iter().enumerate() {
            for (&sum, place) in sums.iter().zip(self.results(row + tall).chunks_mut(S::F32_LANES)) {
                let value = match unread {
                    true => sum,
                    false => simd.mul_add_f32s(beta, simd.partial_load_f32s(place), sum),
                };
                simd.partial_store_f32s(place, value);
            }
        }
    }

    /// A row of the results.
    #[inline(always)]
    fn results(&mut self, row: usize) -> &mut [f32] {
        // SAFETY: the result has this row, and these columns of it.
        unsafe { std::slice::from_raw_parts_mut(self.c.add(row * self.stride), self.width) }
    }
}
