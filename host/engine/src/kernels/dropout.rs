//! Dropout whose mask is a function of its place: (seed, step, site, place of
//! the sequence in the effective batch, row of the sequence, feature). Nothing
//! is stored; the backward pass computes the same mask again, and micro-batches,
//! packing and threads do not change it.

use host_ir::random::mix;

use super::parallel::{Threads, take};
use super::simd::vectorize;

/// Which mask: one a seed, optimizer step and site of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropoutKey {
    pub seed: u64,
    pub step: u64,
    pub site: u32,
}

/// The mask of one site in one step.
#[derive(Clone, Copy, Debug)]
pub struct Mask {
    base: u64,
    /// An element whose hash is below is dropped.
    threshold: u32,
    /// What is kept is multiplied by this: 1 / (1 - probability).
    scale: f32,
}

impl Mask {
    /// `None` where nothing is dropped, so that probability 0 costs nothing.
    pub fn new(key: DropoutKey, probability: f32) -> Option<Mask> {
        if probability <= 0.0 {
            return None;
        }
        let base = mix(key.seed ^ mix(key.step ^ mix(u64::from(key.site))));
        let threshold = (f64::from(probability) * 2f64.powi(32)) as u32;
        let scale = if probability < 1.0 { 1.0 / (1.0 - probability) } else { 0.0 };
        Some(Mask { base, threshold, scale })
    }

    /// All that the mask is, for other devices: the hash's base, the threshold and the
    /// scale.
    pub fn words(&self) -> (u64, u32, f32) {
        (self.base, self.threshold, self.scale)
    }

    /// The mask of a row of the sequence at `place`.
    #[inline(always)]
    pub fn row(&self, place: u32, row: u32) -> RowMask {
        let bits = mix(self.base ^ mix((u64::from(place) << 32) | u64::from(row)));
        RowMask { low: bits as u32, high: (bits >> 32) as u32, threshold: self.threshold, scale: self.scale }
    }

    /// The mask of a query's attention probabilities; its features are the keys.
    #[inline(always)]
    pub fn query(&self, place: u32, head: u32, query: u32) -> RowMask {
        Mask { base: mix(self.base ^ u64::from(head)), ..*self }.row(place, query)
    }
}

/// The mask of one row.
#[derive(Clone, Copy, Debug)]
pub struct RowMask {
    low: u32,
    high: u32,
    threshold: u32,
    scale: f32,
}

impl RowMask {
    /// Whether the feature is kept. The hash is the two-round multiply and
    /// xor-shift of Wellons ("prospecting for hash functions", lowbias32) with
    /// the row's second word between the rounds; its last xor-shift is left out
    /// because only the high bits decide.
    #[inline(always)]
    pub fn keep(&self, feature: u32) -> bool {
        let bits = feature ^ self.low;
        let bits = (bits ^ (bits >> 16)).wrapping_mul(0x7feb_352d);
        let bits = bits.wrapping_add(self.high);
        let bits = (bits ^ (bits >> 15)).wrapping_mul(0x846c_a68b);
        bits >= self.threshold
    }

    /// What the feature is multiplied by: 0 or 1 / (1 - probability).
    #[inline(always)]
    pub fn factor(&self, feature: u32) -> f32 {
        if self.keep(feature) { self.scale } else { 0.0 }
    }

    /// Multiplies features `first..` of the row.
    #[inline(always)]
    pub(super) fn apply(&self, values: &mut [f32], first: u32) {
        for (index, value) in values.iter_mut().enumerate() {
            *value *= self.factor(first + index as u32);
        }
    }

    /// Multiplies the features of the row; those that are dropped are 0 there, and in
    /// `signed` what they were, with a minus.
    #[inline(always)]
    pub(super) fn apply_signed(&self, values: &mut [f32], signed: &mut [f32]) {
        for (index, (value, signed)) in values.iter_mut().zip(signed).enumerate() {
            let (keep, before) = (self.keep(index as u32), *value);
            let scaled = before * self.scale;
            *value = if keep { scaled } else { 0.0 };
            *signed = if keep { scaled } else { -before };
        }
    }

    /// `out = mask * x` for features `first..` of the row.
    #[inline(always)]
    pub(super) fn write(&self, out: &mut [f32], x: &[f32], first: u32) {
        for (index, (out, x)) in out.iter_mut().zip(x).enumerate() {
            *out = x * self.factor(first + index as u32);
        }
    }

    /// `out += mask * x` for features `first..` of the row.
    #[inline(always)]
    pub(super) fn add(&self, out: &mut [f32], x: &[f32], first: u32) {
        for (index, (out, x)) in out.iter_mut().zip(x).enumerate() {
            *out += x * self.factor(first + index as u32);
        }
    }
}

/// A mask together with the packing that it is drawn for.
#[derive(Clone, Copy, Debug)]
pub struct RowDropout<'a> {
    mask: Mask,
    starts: &'a [u32],
    places: &'a [u32],
    /// What is added to the number of a row in its sequence.
    shift: u32,
}

impl<'a> RowDropout<'a> {
    /// `starts` [sequences + 1] are the first rows of the sequences, `places`
    /// `[sequences]` their places in the effective batch. `None` at probability 0.
    pub fn new(
        key: DropoutKey,
        probability: f32,
        starts: &'a [u32],
        places: &'a [u32],
    ) -> Option<RowDropout<'a>> {
        assert_eq!(starts.len(), places.len() + 1, "a place for each sequence");
        Some(RowDropout { mask: Mask::new(key, probability)?, starts, places, shift: 0 })
    }

    /// For rows of a table, which belong to no sequence: the first has the number
    /// `shift`.
    pub fn of_table(key: DropoutKey, probability: f32, shift: u32) -> Option<RowDropout<'a>> {
        Some(RowDropout { mask: Mask::new(key, probability)?, starts: &[0, u32::MAX], places: &[0], shift })
    }

    /// What a feature that is kept is multiplied by.
    pub(super) fn scale(&self) -> f32 {
        self.mask.scale
    }

    /// The masks of the rows from `first` on.
    #[inline(always)]
    pub(super) fn rows(&self, first: usize) -> RowMasks<'a> {
        let sequence = self.starts.partition_point(|&start| start as usize <= first).saturating_sub(1);
        RowMasks { dropout: *self, sequence, row: first as u32 }
    }

    /// The mask of a query's attention probabilities.
    #[inline(always)]
    pub(super) fn query(&self, sequence: usize, head: usize, query: usize) -> RowMask {
        self.mask.query(self.places[sequence], head as u32, query as u32)
    }
}

/// See `RowDropout::rows`.
pub(super) struct RowMasks<'a> {
    dropout: RowDropout<'a>,
    sequence: usize,
    row: u32,
}

impl RowMasks<'_> {
    /// The next row's mask; there must be a next row.
    #[inline(always)]
    pub fn advance(&mut self) -> RowMask {
        let starts = self.dropout.starts;
        while self.row >= starts[self.sequence + 1] {
            self.sequence += 1;
        }
        let row = self.row - starts[self.sequence] + self.dropout.shift;
        self.row += 1;
        self.dropout.mask.row(self.dropout.places[self.sequence], row)
    }
}

/// `out = mask * x`, both [rows, width]; a copy without dropout.
pub fn dropout(
    threads: &Threads,
    mut out: &mut [f32],
    x: &[f32],
    width: usize,
    dropout: Option<RowDropout<'_>>,
) {
    assert_eq!(out.len(), x.len());
    threads.run(threads.row_ranges(x.len() / width, width).map(|rows| {
        let out = take(&mut out, rows.len() * width);
        move || {
            let x = &x[rows.start * width..rows.end * width];
            let Some(dropout) = dropout else { return out.copy_from_slice(x) };
            let mut masks = dropout.rows(rows.start);
            vectorize(
                #[inline(always)]
                || {
                    for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                        masks.advance().write(out, x, 0);
                    }
                },
            );
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: DropoutKey = DropoutKey { seed: 3, step: 17, site: 5 };

    fn bits(mask: RowMask, count: u32) -> Vec<bool> {
        (0..count).map(|feature| mask.keep(feature)).collect()
    }

    /// Share of equal pairs minus what independence gives, in standard errors.
    fn dependence(a: &[bool], b: &[bool], probability: f64) -> f64 {
        let both = a.iter().zip(b).filter(|(a, b)| !**a && !**b).count() as f64;
        let expected = probability * probability;
        let count = a.len() as f64;
        (both / count - expected) / (expected * (1.0 - expected) / count).sqrt()
    }

    #[test]
    fn rate_is_the_probability_and_the_mean_is_kept() {
        for probability in [0.05f32, 0.1, 0.5, 0.9] {
            let mask = Mask::new(KEY, probability).unwrap();
            let (mut dropped, mut sum, count) = (0.0, 0.0, 2000 * 768);
            for row in 0..2000 {
                let row = mask.row(row / 40, row % 40);
                for feature in 0..768 {
                    dropped += f64::from(u8::from(!row.keep(feature)));
                    sum += f64::from(row.factor(feature));
                }
            }
            let p = f64::from(probability);
            let error = (p * (1.0 - p) / f64::from(count)).sqrt();
            assert!((dropped / f64::from(count) - p).abs() < 4.0 * error);
            assert!((sum / f64::from(count) - 1.0).abs() < 4.0 * error / (1.0 - p));
        }
    }

    #[test]
    fn neighbours_of_every_kind_are_independent() {
        let (probability, features) = (0.3, 400_000);
        let mask = Mask::new(KEY, probability).unwrap();
        let own = bits(mask.row(4, 9), features);
        let other = |change: fn(&mut DropoutKey)| {
            let mut key = KEY;
            change(&mut key);
            bits(Mask::new(key, probability).unwrap().row(4, 9), features)
        };
        let mut others = vec![
            bits(mask.row(4, 10), features),
            bits(mask.row(5, 9), features),
            bits(mask.row(9, 4), features),
            bits(mask.query(4, 0, 9), features),
            bits(mask.query(4, 1, 9), features),
            other(|key| key.site += 1),
            other(|key| key.step += 1),
            other(|key| key.seed += 1),
        ];
        for lag in [1, 2, 3, 4, 8, 16, 32, 64, 256, 1024] {
            let mut shifted = own.clone();
            shifted.rotate_left(lag);
            others.push(shifted);
        }
        for (index, other) in others.iter().enumerate() {
            let deviation = dependence(&own, other, 0.3);
            assert!(deviation.abs() < 4.5, "neighbour {index}: {deviation} standard errors");
        }
    }

    #[test]
    fn probability_zero_is_no_mask_and_one_drops_all() {
        assert!(Mask::new(KEY, 0.0).is_none());
        let all = Mask::new(KEY, 1.0).unwrap().row(0, 0);
        assert!((0..1000).all(|feature| all.factor(feature) == 0.0));
    }

    #[test]
    fn mask_follows_the_sequence_through_packing_and_threads() {
        let width = 96;
        let whole = RowDropout::new(KEY, 0.4, &[0, 3, 10, 600], &[7, 2, 9]).unwrap();
        let ones = vec![1.0; 600 * width];
        let masked = |count, dropout, rows: usize| {
            let mut out = vec![0.0; rows * width];
            let threads = Threads::new(count).unwrap();
            super::dropout(&threads, &mut out, &ones[..rows * width], width, Some(dropout));
            out
        };
        let one = masked(1, whole, 600);
        assert_eq!(one, masked(2, whole, 600));
        // The same sequences in another order, in a micro-batch without the first.
        let repacked = RowDropout::new(KEY, 0.4, &[0, 590, 597], &[9, 2]).unwrap();
        let two = masked(2, repacked, 597);
        assert_eq!(one[10 * width..], two[..590 * width]);
        assert_eq!(one[3 * width..10 * width], two[590 * width..]);
    }
}
