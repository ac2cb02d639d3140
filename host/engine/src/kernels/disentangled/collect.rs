//! From the gradients of scores to those of contents and of positions: the elements
//! that each score has picked are put back where they were, tile by tile.

use std::ops::Range;

use super::super::matmul::{Form, Matrix, raw};
use super::super::simd::vectorize;
use super::{Contents, tiles};

impl Contents<'_> {
    /// Adds what the scores' gradients say through the keys of positions: to the
    /// gradients of queries, and of those keys where they are wanted.
    ///
    /// # Safety
    /// The pointers are valid for the unit's rows and the rows of positions at their
    /// strides, and nobody else reads or writes these elements meanwhile.
    pub(super) unsafe fn collect_of_queries(
        &self,
        dscores: &[f32],
        block: &Range<usize>,
        picked: &mut [f32],
        to: (*mut f32, Option<*mut f32>),
        strides: [usize; 2],
    ) {
        let Some(positions) = self.position_keys else { return };
        let (length, reach) = (self.length, self.reach);
        for tile in tiles(block.clone()) {
            let rows = self.of_queries(&tile);
            let picked = &mut picked[..tile.len() * rows.len()];
            let dscores = &dscores[(tile.start - block.start) * length..];
            vectorize(
                #[inline(always)]
                || {
                    picked.fill(0.0);
                    let lines = dscores.chunks_exact(length).zip(picked.chunks_exact_mut(rows.len()));
                    for ((dscores, picked), query) in lines.zip(tile.clone()) {
                        let (near, row) = reach.near(query, length);
                        for key in (0..near.start).chain(near.end..length) {
                            picked[reach.at(key as isize - query as isize) - rows.start] += dscores[key];
                        }
                        let picked = &mut picked[row - rows.start..][..near.len()];
                        picked.iter_mut().zip(&dscores[near]).for_each(|(sum, score)| *sum += score);
                    }
                },
            );
            // SAFETY: the caller's promise.
            unsafe { self.collect(picked, (self.queries, &tile), positions, &rows, to, strides) };
        }
    }

    /// As `collect_of_queries`, through the queries of positions: to the gradients of
    /// keys and of those queries.
    ///
    /// # Safety
    /// As there.
    pub(super) unsafe fn collect_of_keys(
        &self,
        dscores: &[f32],
        block: &Range<usize>,
        picked: &mut [f32],
        to: (*mut f32, Option<*mut f32>),
        strides: [usize; 2],
    ) {
        let Some(positions) = self.position_queries else { return };
        let reach = self.reach;
        for tile in tiles(0..self.length) {
            let rows = self.of_keys(&tile, block);
            let picked = &mut picked[..tile.len() * rows.len()];
            vectorize(
                #[inline(always)]
                || {
                    picked.fill(0.0);
                    for (dscores, query) in dscores.chunks_exact(self.length).zip(block.clone()) {
                        let dscores = &dscores[tile.clone()];
                        if reach.is_linear(query, &tile) {
                            let start = reach.at(tile.start as isize - query as isize) - rows.start;
                            let sums = picked[start..].iter_mut().step_by(rows.len() + 1);
                            sums.zip(dscores).for_each(|(sum, score)| *sum += score);
                            continue;
                        }
                        let lines = picked.chunks_exact_mut(rows.len());
                        for ((score, key), line) in dscores.iter().zip(tile.clone()).zip(lines) {
                            line[reach.at(key as isize - query as isize) - rows.start] += score;
                        }
                    }
                },
            );
            // SAFETY: the caller's promise.
            unsafe { self.collect(picked, (self.keys, &tile), positions, &rows, to, strides) };
        }
    }

    /// Adds `picked` positions to the tile's rows, and `picked`ᵀ contents to the rows
    /// of positions.
    ///
    /// # Safety
    /// As `collect_of_queries`.
    unsafe fn collect(
        &self,
        picked: &[f32],
        (contents, tile): (Matrix<'_>, &Range<usize>),
        positions: Matrix<'_>,
        rows: &Range<usize>,
        (to_contents, to_positions): (*mut f32, Option<*mut f32>),
        [stride, position_stride]: [usize; 2],
    ) {
        let picked = Matrix::new(picked, rows.len());
        let size = [tile.len(), self.width, rows.len()];
        let factors = (1.0, 1.0);
        // SAFETY: the caller's promise; tiles and rows lie inside.
        unsafe {
            let out = to_contents.add(tile.start * stride);
            raw(Form::Plain, size, factors, picked, positions.rows_from(rows.start), out, stride);
            if let Some(to_positions) = to_positions {
                let size = [rows.len(), self.width, tile.len()];
                let out = to_positions.add(rows.start * position_stride);
                raw(
                    Form::TransposedA,
                    size,
                    factors,
                    picked,
                    contents.rows_from(tile.start),
                    out,
                    position_stride,
                );
            }
        }
    }
}
