//! Parts of a product's operands, packed as its tiles read them.

use std::arch::x86_64::{
    __m256, _MM_HINT_T1, _mm_prefetch, _mm256_permute2f128_ps, _mm256_shuffle_ps, _mm256_unpackhi_ps,
    _mm256_unpacklo_ps,
};

use pulp::Simd;

use super::super::matmul::Matrix;

/// Numbers of a cache line.
const LINE: usize = 16;

/// What a panel holds of the right operand: `width` columns of the result, and `inner`
/// numbers for each of them, which are rows of `from` where it is read across, and else its
/// columns.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub from: Matrix<'a>,
    pub width: usize,
    pub inner: usize,
    pub across: bool,
}

impl<'a> Source<'a> {
    /// Fills a panel [inner, vectors], zeros behind the last column.
    #[inline(always)]
    pub fn pack<S: Simd>(self, simd: S, vectors: usize, panel: &mut [f32]) {
        let pitch = vectors * S::F32_LANES;
        if self.across {
            if self.width < pitch {
                panel.fill(0.0);
            }
            return transpose([self.width, self.inner], self.from, panel, pitch);
        }
        for (row, to) in S::as_mut_simd_f32s(panel).0.chunks_exact_mut(vectors).enumerate() {
            let row = &self.from.values[row * self.from.stride..][..self.width];
            let (whole, rest) = S::as_simd_f32s(row);
            let mut place = 0;
            while place < whole.len() {
                to[place] = whole[place];
                place += 1;
            }
            if !rest.is_empty() {
                to[place] = simd.partial_load_f32s(rest);
            }
        }
    }

    /// Its cache lines, to be fetched before they are packed.
    #[inline(always)]
    pub fn lines(self) -> Lines<'a> {
        let [rows, columns] = if self.across { [self.width, self.inner] } else { [self.inner, self.width] };
        Lines { from: self.from, rows, columns, row: 0, column: 0 }
    }
}

/// Cache lines of a matrix, row by row.
pub(super) struct Lines<'a> {
    from: Matrix<'a>,
    rows: usize,
    columns: usize,
    row: usize,
    column: usize,
}

impl Lines<'_> {
    /// Their number, if a row starts at a line.
    #[inline(always)]
    pub fn count(&self) -> usize {
        self.rows * self.columns.div_ceil(LINE)
    }

    /// Has the second-level cache fetch the next ones.
    #[inline(always)]
    pub fn fetch(&mut self, count: usize) {
        for _ in 0..count {
            if self.row == self.rows {
                return;
            }
            let place = self.from.values.as_ptr().wrapping_add(self.row * self.from.stride + self.column);
            // SAFETY: a hint, which reads nothing, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(place.cast()) };
            self.column += LINE;
            if self.column >= self.columns {
                (self.row, self.column) = (self.row + 1, 0);
            }
        }
    }
}

/// Writes the transpose of a matrix [rows, columns] to rows of `pitch` elements.
#[inline(always)]
fn transpose([rows, columns]: [usize; 2], from: Matrix<'_>, to: &mut [f32], pitch: usize) {
    let whole_rows = rows / BLOCK * BLOCK;
    for row in (0..whole_rows).step_by(BLOCK) {
        for column in (0..columns / BLOCK * BLOCK).step_by(BLOCK) {
            let block = &from.values[row * from.stride + column..];
            // SAFETY: all machines with AVX2 or AVX-512, without which nothing is packed, have AVX.
            unsafe { transpose_block(block, from.stride, &mut to[column * pitch + row..], pitch) };
        }
    }
    for row in 0..rows {
        let done = if row < whole_rows { columns / BLOCK * BLOCK } else { 0 };
        for column in done..columns {
            to[column * pitch + row] = from.values[row * from.stride + column];
        }
    }
}

/// Rows and columns that are transposed in registers.
const BLOCK: usize = 8;

/// Writes the transpose of a block. Pairs of rows, then of pairs, then of halves change
/// places, since AVX's shuffles stay within halves of a register.
#[target_feature(enable = "avx")]
#[inline]
fn transpose_block(from: &[f32], stride: usize, to: &mut [f32], pitch: usize) {
    let rows: [__m256; BLOCK] = std::array::from_fn(|row| {
        let numbers: [f32; BLOCK] = *from[row * stride..].first_chunk().expect("a row of the block");
        // SAFETY: eight numbers are a register's.
        unsafe { std::mem::transmute::<[f32; BLOCK], __m256>(numbers) }
    });
    let pairs: [__m256; BLOCK] = std::array::from_fn(|place| {
        let (one, other) = (rows[place / 2 * 2], rows[place / 2 * 2 + 1]);
        if place % 2 == 0 { _mm256_unpacklo_ps(one, other) } else { _mm256_unpackhi_ps(one, other) }
    });
    // Four rows each, of which columns 0 to 3 lie beside columns 4 to 7.
    let fours: [__m256; BLOCK] = std::array::from_fn(|place| {
        let first = place / 4 * 4 + place % 4 / 2;
        let (one, other) = (pairs[first], pairs[first + 2]);
        match place % 2 {
            0 => _mm256_shuffle_ps::<0x44>(one, other),
            _ => _mm256_shuffle_ps::<0xEE>(one, other),
        }
    });
    for column in 0..BLOCK {
        let (one, other) = (fours[column % 4], fours[column % 4 + 4]);
        let row = match column < 4 {
            true => _mm256_permute2f128_ps::<0x20>(one, other),
            false => _mm256_permute2f128_ps::<0x31>(one, other),
        };
        let place = to[column * pitch..].first_chunk_mut().expect("a row of the block");
        // SAFETY: a register holds eight numbers.
        *place = unsafe { std::mem::transmute::<__m256, [f32; BLOCK]>(row) };
    }
}
