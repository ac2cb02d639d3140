//! Relative positions as DeBERTa has them (He et al. 2021): which row of a table
//! stands for a distance, the rows that a batch reaches, and attention with scores
//! by them.

use host_ir::graph::{NodeId, Scope};

use crate::program::backward::Reverse;
use crate::program::build::{Builder, CompileError};
use crate::program::instruction::{Dropout, Instruction};
use crate::program::value::{Extent, Storage, ValueId};

/// Rows of a table by distance: one a distance up to half of `buckets`, then one a
/// range of distances whose length grows (DeBERTa-v2's `make_log_bucket_position`).
/// Without buckets each distance has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Buckets {
    /// `position_buckets`; 0 without.
    pub buckets: u32,
    /// `max_relative_positions`: distances from here on share a row.
    pub most: u32,
}

/// The part of a table of relative positions that a batch reads. Its rows are taken
/// from the highest on down, which is in the order of key's place minus query's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    pub highest: usize,
    pub lowest: usize,
}

impl Reached {
    /// Number of rows.
    pub fn count(&self) -> usize {
        self.highest + 1 - self.lowest
    }
}

impl Buckets {
    /// Half the number of the table's rows.
    pub fn span(&self) -> usize {
        (if self.buckets > 0 { self.buckets } else { self.most }) as usize
    }

    /// The bucket of a query's place minus a key's, in 32-bit arithmetic as
    /// PyTorch computes it.
    fn bucket(&self, distance: i64) -> i64 {
        let middle = i64::from(self.buckets / 2);
        if self.buckets == 0 || distance.abs() <= middle {
            return distance;
        }
        let half = middle as f32;
        let range = ((self.most as f32 - 1.0) / half).ln();
        let logarithm = (distance.abs() as f32 / half).ln() / range * (half - 1.0);
        (logarithm.ceil() as i64 + middle) * distance.signum()
    }

    /// The row of the table for a query's place minus a key's.
    pub fn row(&self, distance: i64) -> usize {
        let span = self.span() as i64;
        (self.bucket(distance) + span).clamp(0, 2 * span - 1) as usize
    }

    /// The part of the table that a sequence of so many rows reaches.
    pub fn reached(&self, longest: usize) -> Reached {
        let farthest = longest.saturating_sub(1) as i64;
        Reached { highest: self.row(farthest), lowest: self.row(-farthest) }
    }

    /// By key's place minus query's, from `1 - longest` to `longest - 1`: the row
    /// among those that are reached.
    pub fn places(&self, longest: usize) -> Vec<u32> {
        let (highest, farthest) = (self.reached(longest).highest, longest as i64 - 1);
        (-farthest..=farthest).map(|offset| (highest - self.row(-offset)) as u32).collect()
    }

    /// What is added to the number of a row taken, so that a row of the table has
    /// the same number however much of the table is taken. Dropout is drawn by it.
    pub fn shift(&self, longest: usize) -> u32 {
        (2 * self.span() - self.reached(longest).highest) as u32
    }
}

/// The scores by relative positions that attention has (`pos_att_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// "c2p": queries by the keys of positions.
    pub content_to_position: bool,
    /// "p2c": keys by the queries of positions.
    pub position_to_content: bool,
}

impl Terms {
    /// Number of terms.
    pub fn count(&self) -> u64 {
        u64::from(self.content_to_position) + u64::from(self.position_to_content)
    }

    /// What scores are multiplied by, for heads of so many columns.
    pub fn scale(&self, head_dim: usize) -> f32 {
        1.0 / (head_dim as f32 * (1 + self.count()) as f32).sqrt()
    }
}

impl Builder<'_> {
    /// The rows of a table of relative positions that the batch reaches.
    pub fn reached_rows(&mut self, table: ValueId, buckets: Buckets) -> ValueId {
        let mut extents = self.extents(table);
        extents[0] = Extent::Reached(buckets);
        let out = self.working(extents, &[table]);
        self.push(Instruction::ReachedRows { table, out, buckets });
        out
    }

    /// Builds what applies modules once more, to other rows than the tokens: what a
    /// method says at them is computed anew for these rows. Values of sites stay
    /// those of the tokens for all that comes after.
    ///
    /// # Errors
    /// Those of the work.
    pub fn over_rows<T>(
        &mut self,
        rows: Extent,
        work: impl FnOnce(&mut Self) -> Result<T, CompileError>,
    ) -> Result<T, CompileError> {
        let kept = self.method_values.clone();
        for (place, value) in self.method_values.iter_mut().enumerate() {
            if self.method.graph.node(NodeId(place as u32)).scope == Scope::Sequence {
                *value = None;
            }
        }
        let tokens = std::mem::replace(&mut self.rows, rows);
        let result = work(self);
        self.rows = tokens;
        self.method_values = kept;
        result
    }

    /// Attention with scores by relative positions.
    pub fn disentangled(
        &mut self,
        (qkv, positions): (ValueId, ValueId),
        (heads, size): (usize, usize),
        buckets: Buckets,
        terms: Terms,
        dropout: Option<Dropout>,
    ) -> ValueId {
        let out = self.working(vec![Extent::Tokens, Extent::Fixed(size)], &[qkv, positions]);
        let log_sums = self.program.add_value(vec![Extent::TokensTimes(heads)], Storage::Working, false);
        self.push(Instruction::Disentangled {
            qkv,
            positions,
            heads,
            buckets,
            terms,
            out,
            log_sums,
            dropout,
        });
        out
    }
}

impl Reverse<'_> {
    /// The rules of the instructions of this file.
    pub(super) fn relative(&mut self, instruction: &Instruction) {
        match *instruction {
            Instruction::ReachedRows { table, out, buckets } => {
                let (Some(dout), true) = (self.gradient(out), self.wants(table)) else { return };
                if let Some(dtable) = self.whole_gradient(Some(table)) {
                    self.push(Instruction::ReachedRowsBackward { dout, dtable, buckets });
                }
            }
            Instruction::Disentangled { qkv, positions, heads, buckets, terms, out, log_sums, dropout } => {
                let Some(dout) = self.gradient(out) else { return };
                let dqkv = self.like(qkv);
                let dpositions = self.wants(positions).then(|| self.like(positions));
                self.push(Instruction::DisentangledBackward {
                    dout,
                    qkv,
                    positions,
                    log_sums,
                    heads,
                    buckets,
                    terms,
                    dqkv,
                    dpositions,
                    dropout,
                });
                self.hand_over(qkv, dqkv);
                if let Some(dpositions) = dpositions {
                    self.hand_over(positions, dpositions);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every row that PyTorch computes for a distance (tests/reference/deberta.py).
    #[test]
    fn rows_are_those_of_transformers() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/deberta/distances.json");
        let cases: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        for case in cases.as_array().unwrap() {
            let number = |key: &str| case[key].as_u64().unwrap() as u32;
            let buckets = Buckets { buckets: number("buckets"), most: number("most") };
            let rows = case["rows"].as_array().unwrap();
            for (distance, row) in rows.iter().enumerate() {
                assert_eq!(Some(buckets.row(distance as i64) as u64), row.as_u64(), "{buckets:?} {distance}");
            }
            // Before a query they fall as they rise behind it, down to the first row.
            let span = buckets.span() as i64;
            for distance in 1..rows.len() as i64 {
                let mirrored = (2 * span - buckets.row(distance) as i64).max(0);
                let clipped = buckets.row(distance) as i64 == 2 * span - 1;
                let row = buckets.row(-distance) as i64;
                assert!(row == mirrored || clipped && row <= mirrored, "{buckets:?} {distance}");
            }
        }
    }

    #[test]
    fn places_cover_what_is_reached() {
        for buckets in [Buckets { buckets: 8, most: 40 }, Buckets { buckets: 0, most: 20 }] {
            for longest in [1, 2, 5, 30, 90] {
                let (places, reached) = (buckets.places(longest), buckets.reached(longest));
                assert_eq!(places.len(), 2 * longest - 1);
                assert_eq!((places[0], places[2 * longest - 2] as usize), (0, reached.count() - 1));
                assert!(places.windows(2).all(|pair| pair[0] <= pair[1] && pair[1] <= pair[0] + 1));
                // The row of a distance has one number, whatever the longest is.
                let middle = places[longest - 1] + buckets.shift(longest);
                assert_eq!(middle as usize, buckets.span());
            }
        }
    }
}
