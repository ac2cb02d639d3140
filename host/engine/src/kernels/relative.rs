//! Relative position bias (Raffel et al. 2020, section 2.1): a trained number for
//! each head and bucket of distances, added to the scores of attention.

/// How distances fall into buckets, as T5Attention of transformers has it: one
/// bucket a distance while distances are short, then buckets that grow with the
/// logarithm, and one for all that is far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buckets {
    /// Number of buckets, of both directions together.
    pub count: usize,
    /// From this distance on everything is in the last bucket.
    pub farthest: usize,
    /// Whether keys behind the query have buckets of their own; otherwise they
    /// share that of distance 0.
    pub bidirectional: bool,
}

impl Buckets {
    /// The bucket of a key that stands `distance` places behind its query; before
    /// it where the number is negative.
    pub fn of(&self, distance: isize) -> usize {
        let (count, first) = match self.bidirectional {
            true => (self.count / 2, if distance > 0 { self.count / 2 } else { 0 }),
            false => (self.count, 0),
        };
        let places = match self.bidirectional {
            true => distance.unsigned_abs(),
            false => distance.min(0).unsigned_abs(),
        };
        let exact = count / 2;
        if places < exact {
            return first + places;
        }
        // In single precision throughout, so that borders fall where PyTorch has them.
        let logarithm = (places as f32 / exact as f32).ln();
        let range = (self.farthest as f64 / exact as f64).ln() as f32;
        let grown = exact + (logarithm / range * (count - exact) as f32) as usize;
        first + grown.min(count - 1)
    }
}

/// The table of an attention layer.
#[derive(Clone, Copy, Debug)]
pub struct RelativeBias<'a> {
    /// [buckets, heads].
    pub table: &'a [f32],
    pub buckets: Buckets,
}

impl RelativeBias<'_> {
    /// The bias of a head by distance, from `1 - keys` to `keys - 1`; as many
    /// places as `out` has.
    pub(super) fn by_distance(&self, out: &mut [f32], head: usize, heads: usize, keys: usize) {
        for (place, out) in out.iter_mut().enumerate() {
            *out = self.table[self.buckets.of(place as isize + 1 - keys as isize) * heads + head];
        }
    }

    /// Adds gradients by distance, as [`Self::by_distance`] has them, to those of a
    /// head's buckets.
    pub(super) fn collect_buckets(&self, buckets: &mut [f32], by_distance: &[f32], keys: usize) {
        for (place, gradient) in by_distance.iter().enumerate() {
            buckets[self.buckets.of(place as isize + 1 - keys as isize)] += gradient;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T5Attention._relative_position_bucket of transformers at distances -130 to
    /// 130, with 32 buckets and 128 as the farthest: where the bucket changes.
    #[test]
    fn borders_are_those_of_transformers() {
        let changes = |bidirectional| {
            let buckets = Buckets { count: 32, farthest: 128, bidirectional };
            let mut changes = vec![(-130, buckets.of(-130))];
            for distance in -129..=130 {
                if buckets.of(distance) != changes[changes.len() - 1].1 {
                    changes.push((distance, buckets.of(distance)));
                }
            }
            changes
        };
        let before = [(-130, 15), (-90, 14), (-63, 13), (-45, 12), (-31, 11), (-22, 10), (-15, 9), (-11, 8)];
        let behind = [(8, 24), (12, 25), (16, 26), (23, 27), (32, 28), (46, 29), (64, 30), (91, 31)];
        let mut expected = before.to_vec();
        expected.extend((-7..=0).map(|distance| (distance, -distance as usize)));
        expected.extend((1..8).map(|distance| (distance, 16 + distance as usize)));
        expected.extend(behind);
        assert_eq!(changes(true), expected);
        let mut expected = vec![
            (-130, 31),
            (-112, 30),
            (-98, 29),
            (-86, 28),
            (-76, 27),
            (-66, 26),
            (-58, 25),
            (-51, 24),
            (-45, 23),
            (-39, 22),
            (-34, 21),
            (-30, 20),
            (-26, 19),
            (-23, 18),
            (-20, 17),
            (-18, 16),
        ];
        expected.extend((-15..=0).map(|distance| (distance, -distance as usize)));
        assert_eq!(changes(false), expected);
    }
}
