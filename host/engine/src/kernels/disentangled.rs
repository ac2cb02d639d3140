//! Attention by content and relative position (He et al. 2021) over packed
//! sequences, a query block at a time, as `attention` does it without positions:
//!
//! ```text
//! S[i, j] = scale (q_i · k_j + q_i · pk_ρ + k_j · pq_ρ),  ρ = row(j - i)
//! ctx = dropout(softmax(S)) V
//! ```
//!
//! Both terms of positions are products of a tile of contents with those rows of
//! positions that the tile can reach, from which each score picks one element.
//! Rows stand in the order of j - i, so that near ones are picked side by side.

mod collect;

use std::ops::Range;

use super::attention::{Attention, Gradients, QUERY_BLOCK, Saved, Unit, blocks};
use super::matmul::{Form, Matrix, MatrixMut, raw, sequential};
use super::parallel::{SharedMatrix, Threads, with_scratch};
use super::simd::vectorize;

/// Queries or keys that are multiplied by positions at a time.
const TILE: usize = 64;

/// The shape and settings of an attention layer with relative positions.
#[derive(Clone, Copy, Debug)]
pub struct Disentangled<'a> {
    /// Its scale counts the terms.
    pub attention: Attention<'a>,
    /// By key's place minus query's, from `1 - longest` to `longest - 1`: the row
    /// of positions; never falling, and one row on per place around the middle.
    pub rows: &'a [u32],
    /// The column at which the keys of positions start, where queries meet them.
    pub keys_from: Option<usize>,
    /// The column at which the queries of positions start, where keys meet them.
    pub queries_from: Option<usize>,
    /// Columns of a row of positions.
    pub stride: usize,
}

/// The places of rows of positions.
#[derive(Clone, Copy)]
struct Reach<'a> {
    rows: &'a [u32],
    middle: usize,
    /// Offsets up to this, either way, are one row apart.
    linear: usize,
}

impl<'a> Reach<'a> {
    fn new(rows: &'a [u32]) -> Reach<'a> {
        let middle = rows.len() / 2;
        let apart = |step: usize| {
            let (before, behind) = (rows[middle - step], rows[middle + step]);
            before + step as u32 == rows[middle] && rows[middle] + step as u32 == behind
        };
        Reach { rows, middle, linear: (1..=middle).take_while(|&step| apart(step)).count() }
    }

    /// The rows from the one for `low` to the one for `high`, both offsets of keys
    /// from queries.
    fn range(&self, low: isize, high: isize) -> Range<usize> {
        self.at(low)..self.at(high) + 1
    }

    #[inline(always)]
    fn at(&self, offset: isize) -> usize {
        self.rows[self.middle.wrapping_add_signed(offset)] as usize
    }

    /// The keys, of so many, that are one row apart for a query, and the row of the
    /// first of them.
    #[inline(always)]
    fn near(&self, query: usize, keys: usize) -> (Range<usize>, usize) {
        let (low, high) = (query.saturating_sub(self.linear), (query + self.linear + 1).min(keys));
        (low..high, self.at(low as isize - query as isize))
    }

    /// Whether all keys of a range are one row apart for a query.
    #[inline(always)]
    fn is_linear(&self, query: usize, keys: &Range<usize>) -> bool {
        keys.start + self.linear >= query && keys.end <= query + self.linear + 1
    }
}

impl Disentangled<'_> {
    /// Keys and queries of positions of a head, where the layer has them.
    fn positions<'m>(&self, positions: &'m [f32], head: usize) -> [Option<Matrix<'m>>; 2] {
        let part =
            |from: usize| Matrix::new(&positions[from + head * self.attention.head_dim..], self.stride);
        [self.keys_from.map(part), self.queries_from.map(part)]
    }

    /// Elements of a product of a tile with positions, for sequences up to a length.
    fn tile_elements(&self, longest: usize) -> usize {
        TILE.min(longest) * (longest + QUERY_BLOCK.min(longest) + TILE.min(longest))
    }
}

/// Tiles of a range of queries or keys.
fn tiles(range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    range.clone().step_by(TILE).map(move |start| start..range.end.min(start + TILE))
}

/// What the terms of positions of a unit read.
#[derive(Clone, Copy)]
struct Contents<'a> {
    queries: Matrix<'a>,
    keys: Matrix<'a>,
    length: usize,
    /// Columns of a head.
    width: usize,
    scale: f32,
    reach: Reach<'a>,
    position_keys: Option<Matrix<'a>>,
    position_queries: Option<Matrix<'a>>,
}

impl<'a> Contents<'a> {
    fn new(
        settings: &Disentangled<'a>,
        qkv: &'a [f32],
        positions: &'a [f32],
        unit: Unit,
        reach: Reach<'a>,
    ) -> Contents<'a> {
        let [queries, keys, _] = settings.attention.operands(qkv, unit);
        let [position_keys, position_queries] = settings.positions(positions, unit.head);
        let (width, scale) = (settings.attention.head_dim, settings.attention.scale);
        let length = unit.length;
        Contents { queries, keys, length, width, scale, reach, position_keys, position_queries }
    }

    /// Rows of positions that a tile of queries reaches.
    fn of_queries(&self, tile: &Range<usize>) -> Range<usize> {
        self.reach.range(1 - tile.end as isize, self.length as isize - 1 - tile.start as isize)
    }

    /// Rows of positions that a tile of keys reaches from a block of queries.
    fn of_keys(&self, tile: &Range<usize>, block: &Range<usize>) -> Range<usize> {
        let low = tile.start as isize + 1 - block.end as isize;
        self.reach.range(low, tile.end as isize - 1 - block.start as isize)
    }

    /// Adds the terms of positions to the scores of a block of queries.
    fn add_scores(&self, scores: &mut [f32], block: &Range<usize>, product: &mut [f32]) {
        let (length, reach) = (self.length, self.reach);
        for tile in tiles(block.clone()).filter(|_| self.position_keys.is_some()) {
            let rows = self.of_queries(&tile);
            let product = self.product((self.queries, &tile), self.position_keys, &rows, product);
            let scores = &mut scores[(tile.start - block.start) * length..];
            vectorize(
                #[inline(always)]
                || {
                    let lines = scores.chunks_exact_mut(length).zip(product.chunks_exact(rows.len()));
                    for ((scores, product), query) in lines.zip(tile.clone()) {
                        let (near, row) = reach.near(query, length);
                        let picked = &product[row - rows.start..][..near.len()];
                        for key in (0..near.start).chain(near.end..length) {
                            scores[key] += product[reach.at(key as isize - query as isize) - rows.start];
                        }
                        scores[near].iter_mut().zip(picked).for_each(|(score, term)| *score += term);
                    }
                },
            );
        }
        for tile in tiles(0..length).filter(|_| self.position_queries.is_some()) {
            let rows = self.of_keys(&tile, block);
            let product = self.product((self.keys, &tile), self.position_queries, &rows, product);
            vectorize(
                #[inline(always)]
                || {
                    for (scores, query) in scores.chunks_exact_mut(length).zip(block.clone()) {
                        let scores = &mut scores[tile.clone()];
                        let start = reach.at(tile.start as isize - query as isize) - rows.start;
                        if reach.is_linear(query, &tile) {
                            let picked = product[start..].iter().step_by(rows.len() + 1);
                            scores.iter_mut().zip(picked).for_each(|(score, term)| *score += term);
                            continue;
                        }
                        for ((score, key), line) in
                            scores.iter_mut().zip(tile.clone()).zip(product.chunks_exact(rows.len()))
                        {
                            *score += line[reach.at(key as isize - query as isize) - rows.start];
                        }
                    }
                },
            );
        }
    }

    /// Scale times the product of a tile of contents with rows of positions.
    fn product<'p>(
        &self,
        (contents, tile): (Matrix<'_>, &Range<usize>),
        positions: Option<Matrix<'_>>,
        rows: &Range<usize>,
        out: &'p mut [f32],
    ) -> &'p [f32] {
        let out = &mut out[..tile.len() * rows.len()];
        let size = [tile.len(), rows.len(), self.width];
        if let Some(positions) = positions {
            let (contents, positions) = (contents.rows_from(tile.start), positions.rows_from(rows.start));
            let product = MatrixMut::new(out, rows.len());
            sequential(Form::TransposedB, size, (self.scale, 0.0), contents, positions, product);
        }
        out
    }
}

/// The forward pass: fills `ctx` [rows, heads head_dim] and `lse` [heads, rows]
/// from `qkv` and `positions` [rows of positions, stride].
pub fn forward(
    threads: &Threads,
    ctx: &mut [f32],
    lse: &mut [f32],
    (qkv, positions): (&[f32], &[f32]),
    settings: &Disentangled<'_>,
) {
    let attention = &settings.attention;
    let (rows, hidden) = (attention.rows(), attention.hidden());
    assert!(ctx.len() == rows * hidden && qkv.len() == 3 * rows * hidden);
    assert_eq!(lse.len(), rows * attention.heads);
    let reach = Reach::new(settings.rows);
    let (ctx, lse) = (SharedMatrix::new(ctx, hidden), SharedMatrix::new(lse, rows));
    threads.run(attention.shares(threads).into_iter().map(|units| {
        let (ctx, lse) = (&ctx, &lse);
        move || {
            let longest = units.first().map_or(0, |unit| unit.length);
            let sizes = [QUERY_BLOCK.min(longest) * longest, settings.tile_elements(longest)];
            with_scratch(sizes, |[scores, product]| {
                for unit in units {
                    let contents = Contents::new(settings, qkv, positions, unit, reach);
                    forward_unit((ctx, lse), qkv, attention, unit, &contents, [&mut *scores, &mut *product]);
                }
            });
        }
    }));
}

fn forward_unit(
    (ctx, lse): (&SharedMatrix<'_>, &SharedMatrix<'_>),
    qkv: &[f32],
    attention: &Attention<'_>,
    unit: Unit,
    contents: &Contents<'_>,
    [scores, product]: [&mut [f32]; 2],
) {
    let (width, hidden) = (attention.head_dim, attention.hidden());
    let [queries, keys, values] = attention.operands(qkv, unit);
    for block in blocks(unit.length) {
        let size = [block.len(), unit.length];
        let scores = &mut scores[..block.len() * unit.length];
        attention.scores(scores, queries.rows_from(block.start), keys, size);
        contents.add_scores(scores, &block, product);
        let rows = unit.first + block.start..unit.first + block.end;
        // SAFETY: no other unit has this head and these rows.
        let lse = unsafe { lse.row(unit.head, rows.clone()) };
        attention.probabilities(scores, lse, unit, &block);
        let size = [block.len(), width, unit.length];
        let probabilities = Matrix::new(scores, unit.length);
        let out = ctx.pointer(rows.start, unit.head * width, block.len(), width);
        // SAFETY: `pointer` has checked the block; no other unit has these rows
        // and columns.
        unsafe { raw(Form::Plain, size, (1.0, 0.0), probabilities, values, out, hidden) };
    }
}

/// Where the gradients of positions go.
type PositionGradients<'a, 'm> = Option<&'a SharedMatrix<'m>>;

/// The backward pass: fills `dqkv` and, where it is wanted, `dpositions` from
/// `dctx`, `qkv`, `positions` and the forward pass' `lse`.
pub fn backward(
    threads: &Threads,
    (dqkv, mut dpositions): (&mut [f32], Option<&mut [f32]>),
    dctx: &[f32],
    (qkv, positions): (&[f32], &[f32]),
    lse: &[f32],
    settings: &Disentangled<'_>,
) {
    let attention = &settings.attention;
    let (rows, hidden) = (attention.rows(), attention.hidden());
    assert!(dctx.len() == rows * hidden && qkv.len() == 3 * rows * hidden && dqkv.len() == qkv.len());
    assert_eq!(lse.len(), rows * attention.heads);
    if let Some(dpositions) = &mut dpositions {
        assert_eq!(dpositions.len(), positions.len());
        dpositions.fill(0.0);
    }
    // All sequences add to the gradients of positions: a head's are one thread's.
    let shares = match dpositions {
        Some(_) => attention.shares_by_head(threads),
        None => attention.shares(threads),
    };
    let reach = Reach::new(settings.rows);
    let dqkv = SharedMatrix::new(dqkv, 3 * hidden);
    let dpositions = dpositions.map(|dpositions| SharedMatrix::new(dpositions, settings.stride));
    threads.run(shares.into_iter().map(|units| {
        let (dqkv, dpositions) = (&dqkv, dpositions.as_ref());
        move || {
            let longest = units.iter().map(|unit| unit.length).max().unwrap_or(0);
            let block = QUERY_BLOCK.min(longest) * longest;
            with_scratch([block, block, settings.tile_elements(longest)], |[p, d, tile]| {
                for unit in units {
                    let lse = &lse[unit.head * rows + unit.first..][..unit.length];
                    let saved = Saved { dctx, qkv, lse };
                    let contents = Contents::new(settings, qkv, positions, unit, reach);
                    let scratch = [&mut *p, &mut *d, &mut *tile];
                    backward_unit((dqkv, dpositions), saved, settings, unit, &contents, scratch);
                }
            });
        }
    }));
}

fn backward_unit(
    (dqkv, dpositions): (&SharedMatrix<'_>, PositionGradients<'_, '_>),
    saved: Saved<'_>,
    settings: &Disentangled<'_>,
    unit: Unit,
    contents: &Contents<'_>,
    [probabilities, dscores, tile]: [&mut [f32]; 3],
) {
    let (attention, length) = (&settings.attention, unit.length);
    let gradients = Gradients::new(dqkv, attention, unit, None);
    let column = unit.head * attention.head_dim;
    let of_positions = dpositions.map(|dpositions| {
        let rows = contents.reach.rows[contents.reach.rows.len() - 1] as usize + 1;
        let part = |from: usize| dpositions.pointer(0, from + column, rows, attention.head_dim);
        [settings.keys_from.map(part), settings.queries_from.map(part)]
    });
    let [into_keys, into_queries] = of_positions.unwrap_or([None; 2]);
    let stride = [3 * attention.hidden(), settings.stride];
    for block in blocks(length) {
        let probabilities = &mut probabilities[..block.len() * length];
        let dscores = &mut dscores[..block.len() * length];
        attention.scores(
            probabilities,
            contents.queries.rows_from(block.start),
            contents.keys,
            [block.len(), length],
        );
        contents.add_scores(probabilities, &block, tile);
        attention.score_gradients([&mut *probabilities, &mut *dscores], saved, unit, &block);
        // SAFETY: no other unit has these rows and columns of `dqkv`; of
        // `dpositions` this thread has this head's columns.
        unsafe {
            gradients.collect([&*probabilities, &*dscores], saved, attention, unit, &block);
            let to = (gradients.queries, into_keys);
            contents.collect_of_queries(dscores, &block, tile, to, stride);
            let to = (gradients.keys, into_queries);
            contents.collect_of_keys(dscores, &block, tile, to, stride);
        }
    }
}

#[cfg(test)]
mod tests;
