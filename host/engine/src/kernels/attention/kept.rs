//! Probabilities of short sequences, kept from the forward pass to the backward pass:
//! to compute them again would cost a product, exponentials and the mask once more, and
//! they take less memory than the rest of a layer's values.
//!
//! One array says what they are and what dropout has left of them: p / (1 - rate) where
//! it keeps one, and -p where it drops one.

use std::ops::Range;

use super::super::matmul::{Form, MatrixMut, sequential};
use super::super::simd::{sum_of_pairs, vectorize};
use super::{Attention, Saved, Unit, filled, softmax};

/// Sequences up to this length keep their probabilities.
const SHORT: usize = 64;

/// [sequences + 1]: the first probability that a head keeps of each sequence, and their
/// number at the end, for the sequences' first rows `starts` [sequences + 1].
pub fn kept_places(starts: &[u32]) -> Vec<usize> {
    let mut end = 0;
    let ends = starts.windows(2).map(|bounds| {
        let length = (bounds[1] - bounds[0]) as usize;
        end += if length <= SHORT { length * filled(length) } else { 0 };
        end
    });
    std::iter::once(0).chain(ends).collect()
}

/// The most that a head keeps of one row, of sequences of at most so many.
pub fn most_kept_of_row(longest: usize) -> usize {
    filled(longest.min(SHORT))
}

impl Attention<'_> {
    /// Where those of a unit are kept, by `kept_places`; nowhere if it is long.
    pub(super) fn kept_range(&self, places: &[usize], unit: Unit) -> Option<Range<usize>> {
        let size = places[unit.sequence + 1] - places[unit.sequence];
        let start = self.heads * places[unit.sequence] + unit.head * size;
        (size > 0).then_some(start..start + size)
    }

    /// As `probabilities`, of all queries of a unit, and keeps them.
    pub(super) fn keep_probabilities(
        &self,
        scores: &mut [f32],
        kept: &mut [f32],
        lse: &mut [f32],
        unit: Unit,
    ) {
        let stride = filled(unit.length);
        vectorize(
            #[inline(always)]
            || {
                let rows = scores.chunks_exact_mut(stride).zip(kept.chunks_exact_mut(stride));
                for ((query, lse), (row, kept)) in lse.iter_mut().enumerate().zip(rows) {
                    row[unit.length..].fill(f32::NEG_INFINITY);
                    *lse = softmax(row);
                    match self.dropout {
                        Some(dropout) => {
                            dropout.query(unit.sequence, unit.head, query).apply_signed(row, kept);
                        }
                        None => kept.copy_from_slice(row),
                    }
                }
            },
        );
    }

    /// As `score_gradients`, of all queries of a unit, from what was kept.
    pub(super) fn kept_score_gradients(
        &self,
        [probabilities, dscores]: [&mut [f32]; 2],
        kept: &[f32],
        saved: Saved<'_>,
        unit: Unit,
    ) {
        let (length, stride) = (unit.length, filled(unit.length));
        let [_, _, values] = self.operands(saved.qkv, unit);
        let out = MatrixMut::new(&mut *dscores, stride);
        let size = [length, length, self.head_dim];
        sequential(Form::TransposedB, size, (1.0, 0.0), saved.dctx(self, unit), values, out);
        let factor = self.dropout.map_or(1.0, |dropout| dropout.scale());
        let (scale, unscaled) = (self.scale, self.scale / factor);
        vectorize(
            #[inline(always)]
            || {
                let rows = probabilities.chunks_exact_mut(stride).zip(dscores.chunks_exact_mut(stride));
                for ((p, d), kept) in rows.zip(kept.chunks_exact(stride)) {
                    d[length..].fill(0.0);
                    p.iter_mut().zip(kept).for_each(|(p, &kept)| *p = if kept > 0.0 { kept } else { 0.0 });
                    let mean = sum_of_pairs(d, p, |d, p| d * p);
                    for (d, &kept) in d.iter_mut().zip(kept) {
                        let left = unscaled * kept * (*d * factor - mean);
                        *d = if kept > 0.0 { left } else { scale * kept * mean };
                    }
                }
            },
        );
    }
}
