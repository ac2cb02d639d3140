//! What an instruction runs in: where values stand, what the batch says, and how both
//! make the arguments of kernels.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::backend::cpu::memory::Views;
use crate::backend::{BackendError, Step, no_labels};
use crate::batch::Batch;
use crate::kernels::attention::Attention;
use crate::kernels::dropout::{DropoutKey, RowDropout};
use crate::kernels::embedding::Lookup;
use crate::kernels::low_rank::LowRank;
use crate::kernels::matmul::{Matrix, MatrixMut};
use crate::kernels::parallel::Threads;
use crate::program::build::Program;
use crate::program::instruction::{Dropout, Integers, RowChoice};
use crate::program::value::{Extent, ValueId};

/// What an instruction runs in.
pub struct Context<'a> {
    pub threads: &'a Threads,
    pub views: Views<'a>,
    pub program: &'a Program,
    pub batch: &'a Batch,
    pub sequence_starts: &'a [u32],
    pub masked_starts: &'a [u32],
    pub virtual_starts: &'a [u32],
    pub first_tokens: &'a [u32],
    pub virtual_rows: &'a [u32],
    pub word_starts: &'a [u32],
    pub last_targets: &'a [u32],
    pub step: &'a Step,
}

impl<'a> Context<'a> {
    pub(super) fn read(&self, value: ValueId) -> &'a [f32] {
        self.views.read(value)
    }

    pub(super) fn write(&self, value: ValueId) -> &'a mut [f32] {
        self.views.write(value)
    }

    /// The elements with the sizes of the axes.
    pub(super) fn shaped(&self, value: ValueId) -> (&'a [f32], Vec<usize>) {
        (self.read(value), self.views.sizes(value))
    }

    pub(super) fn columns(&self, value: ValueId) -> usize {
        self.views.columns(value).max(1)
    }

    /// The rows of a matrix from a column on.
    pub(super) fn matrix(&self, value: ValueId, first_column: usize) -> Matrix<'a> {
        let elements = self.read(value);
        Matrix::new(&elements[first_column.min(elements.len())..], self.columns(value))
    }

    pub(super) fn matrix_mut(&self, value: ValueId, first_column: usize) -> MatrixMut<'a> {
        let elements = self.write(value);
        let start = first_column.min(elements.len());
        MatrixMut::new(&mut elements[start..], self.columns(value))
    }

    /// The mask of a dropout, for rows as `value` has them.
    pub(super) fn mask(&self, dropout: Option<Dropout>, value: ValueId) -> Option<RowDropout<'a>> {
        let dropout = dropout?;
        let key = DropoutKey { seed: self.step.seed, step: self.step.number, site: dropout.site };
        if let Some(Extent::Reached(buckets)) = self.program.value(value).extents.first() {
            return RowDropout::of_table(key, dropout.probability, buckets.shift(self.batch.longest()));
        }
        let places: &'a [u32] = &self.batch.places;
        let (starts, places): (&'a [u32], _) = match self.program.value(value).extents.first() {
            Some(Extent::Sequences) => (self.sequence_starts, places),
            Some(Extent::Masked) => (self.masked_starts, places),
            Some(Extent::Virtual) => (self.virtual_starts, places),
            Some(Extent::Targets) => (&self.batch.target.starts, places),
            // All words are those of one example, whose place is its first sequence's.
            Some(Extent::Words) => (self.word_starts, &places[..1]),
            _ => (&self.batch.starts, places),
        };
        RowDropout::new(key, dropout.probability, starts, places)
    }

    pub(super) fn integers<'b>(&'b self, integers: &'b Integers) -> Result<Cow<'b, [i32]>, BackendError> {
        let missing = |what: &str, field: &str| {
            BackendError::Wrong(format!("the batch has no {what} of the field {field}"))
        };
        let column = |values: &'b BTreeMap<String, Vec<i32>>, what: &str, field: &str| {
            let values = values.get(field).ok_or_else(|| missing(what, field))?;
            Ok(Cow::Borrowed(values.as_slice()))
        };
        match integers {
            Integers::Label(field) => column(&self.batch.labels, "labels", field),
            Integers::ExampleLabel(field) => {
                let labels = self.batch.labels_of_examples(field);
                Ok(Cow::Borrowed(labels.ok_or_else(|| no_labels(field))?))
            }
            Integers::MaskedTokens => Ok(Cow::Borrowed(&self.batch.masked_tokens)),
            Integers::TargetTokens => Ok(Cow::Borrowed(&self.batch.target.tokens)),
            Integers::Constant(values) => Ok(Cow::Borrowed(values)),
            Integers::Words(field) => column(&self.batch.word_numbers, "numbers of words", field),
            Integers::Spans { field, width } => {
                let numbers = self.batch.span_numbers(field, *width);
                Ok(Cow::Owned(numbers.ok_or_else(|| missing("spans", field))?))
            }
        }
    }

    pub(super) fn chosen(&self, choice: RowChoice) -> &'a [u32] {
        match choice {
            RowChoice::FirstToken => self.first_tokens,
            RowChoice::Virtual => self.virtual_rows,
            RowChoice::Masked => &self.batch.masked_rows,
            RowChoice::Words => &self.batch.word_rows,
            RowChoice::LastTarget => self.last_targets,
            RowChoice::MaskedTarget => &self.batch.target.masked_rows,
        }
    }

    /// Which rows of the tables the rows of `value` take, and what those of words are
    /// multiplied by.
    pub(super) fn lookup(&self, value: ValueId, factor: f32) -> Lookup<'a> {
        let (batch, rows) = (self.batch, self.program.value(value).extents.first());
        if rows == Some(&Extent::Targets) {
            let target = &batch.target;
            let (starts, ids, positions) = (&target.starts, &target.ids, &target.positions);
            return Lookup { starts, virtual_tokens: 0, ids, positions, types: &[], factor, padding: None };
        }
        // Virtual rows look up nothing but the prompt.
        let starts = if rows == Some(&Extent::Virtual) { self.virtual_starts } else { &batch.starts };
        Lookup {
            starts,
            virtual_tokens: batch.virtual_tokens,
            ids: &batch.ids,
            positions: &batch.positions,
            types: &batch.token_types,
            factor,
            padding: None,
        }
    }

    pub(super) fn attention(&self, qkv: ValueId, heads: usize, dropout: Option<Dropout>) -> Attention<'a> {
        let head_dim = self.columns(qkv) / (3 * heads);
        let scale = 1.0 / (head_dim as f32).sqrt();
        Attention { starts: &self.batch.starts, heads, head_dim, scale, dropout: self.mask(dropout, qkv) }
    }

    pub(super) fn low_rank(
        &self,
        a: ValueId,
        b: ValueId,
        scale: f32,
        dropout: Option<Dropout>,
        hidden: ValueId,
    ) -> LowRank<'a> {
        LowRank {
            a: self.read(a),
            b: self.read(b),
            rank: self.columns(b),
            inputs: self.columns(a),
            outputs: self.views.sizes(b)[0],
            scale,
            dropout: self.mask(dropout, hidden),
        }
    }
}
