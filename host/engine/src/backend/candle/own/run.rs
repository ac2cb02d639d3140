//! Instructions by kernels of our own, where there is one.

use candle_core::Tensor;

use super::arrays::Made;
use super::attention::tiles;
use super::kernels::{
    ACTIVATE, ACTIVATE_BACKWARD, ADD_ROWS, ATTENTION_FACTORS, CROSS_ENTROPY, CROSS_ENTROPY_BACKWARD,
    LAYER_NORM, LAYER_NORM_BACKWARD, RECOVER, ROW_DROPOUT,
};
use super::numbers::{Activate, AttentionFactors, CrossEntropy, Norm, Packing, RowDropout};
use super::sums::Summands;
use crate::backend::BackendError;
use crate::backend::candle::Candle;
use crate::backend::candle::copies::Layout;
use crate::backend::candle::masks::{self, Rows};
use crate::program::attend::AttendBackward;
use crate::program::build::Program;
use crate::program::instruction::{Dropout, Instruction};
use crate::program::value::ValueId;

type Result<T> = std::result::Result<T, BackendError>;

impl Candle {
    /// What a dropout of rows leaves; `None` where there is no kernel, or no mask.
    pub(in crate::backend::candle) fn own_dropout(
        &self,
        x: &Tensor,
        dropout: Dropout,
        rows: &Rows,
        columns: usize,
    ) -> Result<Option<Tensor>> {
        let (Some(own), Some(mask)) = (&self.own, masks::mask(&self.step, dropout)) else { return Ok(None) };
        let count = x.elem_count() / columns.max(1);
        let numbers = RowDropout::with(count, columns, mask, rows);
        let [starts, places] = self.packing_arrays(rows)?;
        let inputs = [x, &starts, &places].map(Some);
        let made = Made { count: count * columns, dtype: x.dtype() };
        let [dropped] = own.run(&ROW_DROPOUT, numbers, &inputs, [made])?;
        Ok(Some(dropped.reshape(x.shape())?))
    }

    /// The factors of attention's probabilities, likewise.
    pub(in crate::backend::candle) fn own_attention_factors(
        &self,
        dropout: Dropout,
        (query_starts, key_starts): (&[u32], &[u32]),
        heads: usize,
        [queries, keys]: [usize; 2],
    ) -> Result<Option<Tensor>> {
        let (Some(own), Some(mask)) = (&self.own, masks::mask(&self.step, dropout)) else { return Ok(None) };
        let shape = (self.batch.places.len(), heads, queries, keys);
        let rows = shape.0 * heads * queries;
        let numbers = AttentionFactors {
            rows: rows as i64,
            heads: heads as i64,
            queries: queries as i64,
            keys: keys as i64,
            mask: mask.into(),
        };
        let arrays =
            [query_starts, key_starts, self.batch.places.as_slice()].map(|list| self.indices(list.to_vec()));
        let [query_starts, key_starts, places] = arrays;
        let (query_starts, key_starts, places) = (query_starts?, key_starts?, places?);
        let inputs = [&query_starts, &key_starts, &places].map(Some);
        let [factors] = own.run(&ATTENTION_FACTORS, numbers, &inputs, [rows * keys])?;
        Ok(Some(factors.reshape(shape)?))
    }

    /// First rows of sequences and their places, which a table has none of.
    pub(super) fn packing_arrays(&self, rows: &Rows) -> Result<[Tensor; 2]> {
        let [starts, places] = self.packing_lists(rows);
        Ok([self.indices(starts)?, self.indices(places)?])
    }

    fn packing_lists(&self, rows: &Rows) -> [Vec<u32>; 2] {
        match rows {
            Rows::Packed(starts) => [starts.clone(), self.batch.places.clone()],
            Rows::Table { .. } => [vec![0], vec![0]],
        }
    }

    /// The lists that kernels of our own take for an instruction; answers whether those of
    /// its composition are not wanted. Masks tell rows by the packing.
    pub(in crate::backend::candle) fn own_wants(
        &self,
        program: &Program,
        instruction: &Instruction,
        lists: &mut Layout,
    ) -> Result<bool> {
        let Some(own) = &self.own else { return Ok(false) };
        let batch = &self.batch;
        match *instruction {
            Instruction::Attention { heads, out: value, .. }
            | Instruction::AttentionBackward { heads, dout: value, .. } => {
                lists.extend([batch.starts.clone(), batch.places.clone()]);
                let attends = own.attends(program.value(value).columns(&self.sizes) / heads, false)?;
                if attends {
                    lists.add(tiles(&batch.starts));
                }
                return Ok(attends);
            }
            Instruction::Embed { .. } => {
                lists.extend(self.embed_lists(program, instruction).into_iter().flatten());
                return Ok(true);
            }
            Instruction::EmbedBackward { .. } => {
                lists.extend(self.destination_lists(program, instruction));
                return Ok(true);
            }
            Instruction::Attend(ref attend)
            | Instruction::AttendBackward(AttendBackward { forward: ref attend, .. }) => {
                if self.one_query(program, attend).is_some() {
                    lists.extend([batch.starts.clone(), batch.places.clone()]);
                    return Ok(true);
                }
                if self.attends(own, program, attend)? {
                    self.want_to_attend_by_tiles(program, attend, lists);
                    return Ok(true);
                }
                let (queries, keys) = self.attend_starts(program, attend);
                lists.extend([queries.to_vec(), keys.to_vec(), batch.places.clone()]);
            }
            Instruction::AttendRecalled(ref attend) if self.recalls(program, attend) => {
                self.want_to_recall(attend, lists)?;
                return Ok(true);
            }
            Instruction::Absorbed(_) | Instruction::AbsorbedBackward(_) => {
                lists.extend([self.one_each(), batch.starts.clone(), batch.places.clone()]);
            }
            Instruction::Disentangled { .. } | Instruction::DisentangledBackward { .. } => {
                lists.extend([batch.starts.clone(), batch.places.clone()]);
            }
            Instruction::Norm { out: value, .. }
            | Instruction::NormBackward { dout: value, .. }
            | Instruction::Recover { out: value, .. }
            | Instruction::RmsNorm { out: value, .. }
            | Instruction::RmsNormBackward { dout: value, .. }
            | Instruction::Dropout { out: value, .. }
            | Instruction::LowRank { x: value, .. }
            | Instruction::LowRankBackward { x: Some(value), .. }
            | Instruction::LowRankBackward { dx: Some((value, _)), .. } => {
                lists.extend(self.packing_lists(&self.rows_of(program, value)));
            }
            _ => {}
        }
        Ok(false)
    }

    /// Runs an instruction that has a kernel; answers whether it has one.
    pub(in crate::backend::candle) fn run_own(
        &mut self,
        program: &Program,
        instruction: &Instruction,
    ) -> Result<bool> {
        let Some(own) = self.own.clone() else { return Ok(false) };
        if self.run_joined(&own, program, instruction)?
            || self.run_linear(&own, program, instruction)?
            || self.run_low_rank(&own, program, instruction)?
            || self.run_pre_norm(&own, program, instruction)?
            || self.run_embed(&own, program, instruction)?
        {
            return Ok(true);
        }
        let get = |value: Option<ValueId>| value.map(|value| self.peek(program, value)).transpose();
        let made = |value: ValueId, count: usize| Made { count, dtype: self.stored(value) };
        match *instruction {
            Instruction::Norm {
                y,
                bias,
                residual,
                dropout,
                gain,
                shift,
                epsilon,
                normalized,
                scale,
                out,
                after,
            } => {
                let numbers = self.norm(program, out, [dropout, after], epsilon);
                let [starts, places] = self.packing_arrays(&self.rows_of(program, out))?;
                let values = [Some(y), bias, residual, Some(gain), Some(shift)].map(get);
                let [y, bias, residual, gain, shift] = values;
                let (y, bias, residual, gain, shift) = (y?, bias?, residual?, gain?, shift?);
                let arrays = [&y, &bias, &residual, &gain, &shift].map(Option::as_ref);
                let inputs = [&arrays[..], &[Some(&starts), Some(&places)]].concat();
                let (rows, elements) = (numbers.rows as usize, (numbers.rows * numbers.columns) as usize);
                let outputs = [made(normalized, elements), made(out, elements), rows.into()];
                let [x, result, deviations] = own.run(&LAYER_NORM, numbers, &inputs, outputs)?;
                self.set(program, scale, deviations, false)?;
                self.set(program, normalized, x, false)?;
                self.set(program, out, result, false)?;
            }
            Instruction::Recover { normalized, gain, shift, out, after } => {
                let numbers = self.norm(program, out, [None, after], 0.0);
                let [starts, places] = self.packing_arrays(&self.rows_of(program, out))?;
                let [x, gain, shift] = [normalized, gain, shift].map(|value| self.peek(program, value));
                let (x, gain, shift) = (x?, gain?, shift?);
                if numbers.has_after == 0 && self.is_recovered_later(program, out) {
                    self.held.recover_later(program.root(out), [x, gain, shift]);
                    return Ok(true);
                }
                let inputs = [Some(&x), None, None, Some(&gain), Some(&shift), Some(&starts), Some(&places)];
                let [result] = own.run(&RECOVER, numbers, &inputs, [made(out, x.elem_count())])?;
                self.set(program, out, result, false)?;
            }
            Instruction::EmbedBackward { gradient, .. } => {
                self.run_embed_backward(&own, program, instruction, gradient)?;
            }
            Instruction::NormBackward {
                dout,
                normalized,
                scale,
                gain,
                dropout,
                after,
                dv,
                dy,
                dgain,
                dshift,
                dbias,
            } => {
                let numbers = self.norm(program, dout, [dropout, after], 0.0);
                let [starts, places] = self.packing_arrays(&self.rows_of(program, dout))?;
                let gradient = self.peek(program, dout)?;
                let x = self.peek(program, normalized)?;
                let (scale, gain) = (self.peek(program, scale)?, self.peek(program, gain)?);
                let inputs = [&gradient, &x, &scale, &gain].map(Some);
                let inputs = [&inputs[..], &[None, Some(&starts), Some(&places)]].concat();
                let shape = (numbers.rows as usize, numbers.columns as usize);
                let elements = shape.0 * shape.1;
                // What would be the same array twice is made once.
                let before_wanted = numbers.has_before != 0 && (dy.is_some() || dbias.is_some());
                let after_wanted = numbers.has_after != 0 && (dgain.is_some() || dshift.is_some());
                let outputs = [
                    made(dv, elements),
                    made(dy.unwrap_or(dv), [0, elements][usize::from(before_wanted)]),
                    made(dout, [0, elements][usize::from(after_wanted)]),
                ];
                let [v, before, undropped] = own.run(&LAYER_NORM_BACKWARD, numbers, &inputs, outputs)?;
                let v = v.reshape(shape)?;
                let before = if before_wanted { before.reshape(shape)? } else { v.clone() };
                let gradient = if after_wanted { undropped.reshape(shape)? } else { gradient };
                let (rows, columns) = shape;
                let sums = |array: &Tensor, factors: Option<&Tensor>| {
                    own.column_sums(Summands { array, factors, rows, pitch: columns, first: 0, columns })
                };
                if let Some(dgain) = dgain {
                    self.set(program, dgain, sums(&gradient, Some(&x))?, true)?;
                }
                if let Some(dshift) = dshift {
                    self.set(program, dshift, sums(&gradient, None)?, true)?;
                }
                if let Some(dbias) = dbias {
                    self.set(program, dbias, sums(&before, None)?, true)?;
                }
                self.set(program, dv, v, false)?;
                if before_wanted || dy.is_none() {
                    // Gradients that come to it later are added where it lies.
                    self.held.made(program.root(dv));
                }
                if let Some(dy) = dy {
                    self.set(program, dy, before, false)?;
                }
            }
            Instruction::Activate { x, bias, out, activation, .. } => {
                let (x, bias) = (self.peek(program, x)?, get(bias)?);
                let numbers = activate(&x, Activate::number(activation))?;
                let outputs = [made(out, x.elem_count())];
                let [result] = own.run(&ACTIVATE, numbers, &[Some(&x), bias.as_ref()], outputs)?;
                self.set(program, out, result.reshape(x.shape())?, false)?;
            }
            Instruction::ActivateBackward { dout, x, bias, dx, activation, .. } => {
                let (values, bias) = (self.peek(program, x)?, get(bias)?);
                let numbers = activate(&values, Activate::number(activation))?;
                let (root, inputs) = (program.root(dx), [Some(&values), bias.as_ref()]);
                if root == program.root(dout) && self.held.alone(root) {
                    let gradient = self.writable(program, dx, false)?;
                    own.run_into(&ACTIVATE_BACKWARD, numbers, &inputs, &gradient)?;
                    return Ok(true);
                }
                let gradient = self.peek(program, dout)?;
                let inputs = [&inputs[..], &[Some(&gradient)]].concat();
                let outputs = [made(dx, values.elem_count())];
                let [result] = own.run(&ACTIVATE_BACKWARD, numbers, &inputs, outputs)?;
                self.set(program, dx, result.reshape(values.shape())?, false)?;
            }
            Instruction::Attention { qkv, heads, out, log_sums, dropout, .. } => {
                return self.own_attention(program, [qkv, out, log_sums], heads, dropout);
            }
            Instruction::AttentionBackward { dout, qkv, log_sums, heads, dqkv, dropout, .. } => {
                return self.own_attention_backward(program, [dout, qkv, log_sums, dqkv], heads, dropout);
            }
            Instruction::Attend(ref attend) => {
                return Ok(self.own_attend_from_one(&own, program, attend)?
                    || self.own_attend_by_tiles(&own, program, attend)?);
            }
            Instruction::AttendBackward(ref backward) => {
                return Ok(self.own_attend_backward_from_one(&own, program, backward)?
                    || self.own_attend_backward_by_tiles(&own, program, backward)?);
            }
            Instruction::AttendRecalled(ref attend) => {
                return self.own_attend_recalled(&own, program, attend);
            }
            Instruction::TakeRowsBackward { dout, dx, choice, accumulate } => {
                let chosen = self.chosen(choice);
                if !chosen.is_sorted_by(|one, next| one < next) {
                    // A row that is chosen twice would be added to by two warps at once.
                    return Ok(false);
                }
                if !accumulate {
                    let sizes = program.value(dx).sizes(&self.sizes);
                    self.set(program, dx, Tensor::zeros(sizes, self.stored(dx), &self.device)?, false)?;
                    self.held.made(program.root(dx));
                }
                let (rows, columns) = self.shape(program, dout);
                let (gradient, list) = (self.peek(program, dout)?, self.indices(chosen)?);
                let (numbers, inputs) =
                    (RowDropout::without(rows, columns), [Some(&gradient), None, None, Some(&list)]);
                own.run_into(&ADD_ROWS, numbers, &inputs, &self.writable(program, dx, false)?)?;
            }
            Instruction::CrossEntropy { logits, ref labels, losses, log_sums } => {
                let (logits, labels) = (self.get(program, logits)?, self.integers(labels)?);
                let (rows, columns) = logits.dims2()?;
                let numbers = CrossEntropy { rows: rows as i64, columns: columns as i64 };
                let inputs = [Some(&logits), Some(&labels)];
                let [each, sums] = own.run(&CROSS_ENTROPY, numbers, &inputs, [rows, rows])?;
                self.set(program, losses, each, false)?;
                self.set(program, log_sums, sums, false)?;
            }
            Instruction::CrossEntropyBackward { logits, ref labels, log_sums, dlosses, dlogits } => {
                let (logits, labels) = (self.get(program, logits)?, self.integers(labels)?);
                let (log_sums, dlosses) = (self.get(program, log_sums)?, self.get(program, dlosses)?);
                let (rows, columns) = logits.dims2()?;
                let numbers = CrossEntropy { rows: rows as i64, columns: columns as i64 };
                let inputs = [&logits, &labels, &log_sums, &dlosses].map(Some);
                let [gradient] = own.run(&CROSS_ENTROPY_BACKWARD, numbers, &inputs, [rows * columns])?;
                self.set(program, dlogits, gradient.reshape((rows, columns))?, false)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The numbers of a norm whose result, or its gradient, is this value.
    pub(super) fn norm(
        &self,
        program: &Program,
        out: ValueId,
        dropouts: [Option<Dropout>; 2],
        epsilon: f32,
    ) -> Norm {
        let columns = program.value(out).columns(&self.sizes);
        let rows = program.value(out).elements(&self.sizes) / columns.max(1);
        let [before, after] = dropouts.map(|dropout| self.own_mask(dropout));
        Norm {
            rows: rows as i64,
            columns: columns as i64,
            packing: Packing::from(&self.rows_of(program, out)),
            before: before.unwrap_or_default(),
            after: after.unwrap_or_default(),
            has_before: i32::from(before.is_some()),
            has_after: i32::from(after.is_some()),
            epsilon,
            unused: 0,
        }
    }
}

/// The numbers of an activation of such an array.
fn activate(x: &Tensor, activation: i64) -> Result<Activate> {
    let columns = x.dims().last().copied().unwrap_or(1);
    let rows = x.elem_count() / columns.max(1);
    Ok(Activate { rows: rows as i64, columns: columns as i64, activation })
}
