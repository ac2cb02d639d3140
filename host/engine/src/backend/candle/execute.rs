//! Each instruction as candle's tensor operations.

use candle_core::{D, Tensor};

use crate::backend::candle::Candle;
use crate::backend::candle::attention::Padding;
use crate::backend::{BackendError, no_labels};
use crate::program::build::Program;
use crate::program::instruction::{Activation, Dropout, Instruction, Integers, RowChoice, Scalar};
use crate::program::value::{Extent, ValueId};

type Result<T> = std::result::Result<T, BackendError>;

/// 1 / sqrt(2 pi).
const DENSITY: f64 = 0.398_942_280_401_432_7;
/// sqrt(2 / pi).
const TANH_SCALE: f64 = 0.797_884_560_802_865_4;

pub(super) fn activate(activation: Activation, x: &Tensor) -> Result<Tensor> {
    Ok(match activation {
        Activation::Gelu => x.gelu_erf()?,
        Activation::GeluTanh => x.gelu()?,
        Activation::Relu => x.relu()?,
        Activation::Silu => x.silu()?,
        Activation::Tanh => x.tanh()?,
    })
}

pub(super) fn sigmoid(x: &Tensor) -> Result<Tensor> {
    Ok(((x.neg()?.exp()? + 1.0)?).recip()?)
}

/// The derivative of an activation at x.
pub(super) fn slope(activation: Activation, x: &Tensor) -> Result<Tensor> {
    Ok(match activation {
        Activation::Gelu => {
            let cumulative = (((x / std::f64::consts::SQRT_2)?.erf()? + 1.0)? * 0.5)?;
            let density = ((x.sqr()? * -0.5)?.exp()? * DENSITY)?;
            (cumulative + (x * density)?)?
        }
        Activation::GeluTanh => {
            let cube = (x.powf(3.0)? * 0.044_715)?;
            let tanh = ((x + cube)? * TANH_SCALE)?.tanh()?;
            let inner = (((x.sqr()? * (3.0 * 0.044_715))? + 1.0)? * TANH_SCALE)?;
            let rest = (tanh.sqr()?.neg()? + 1.0)?;
            (((&tanh + 1.0)? * 0.5)? + ((x * 0.5)? * (rest * inner)?)?)?
        }
        Activation::Relu => x.gt(0.0)?.to_dtype(x.dtype())?,
        Activation::Silu => {
            let sigmoid = sigmoid(x)?;
            let rest = (sigmoid.neg()? + 1.0)?;
            (&sigmoid * ((x * rest)? + 1.0)?)?
        }
        Activation::Tanh => (x.tanh()?.sqr()?.neg()? + 1.0)?,
    })
}

/// Which rows of the tables each row of a batch takes, and whether it is virtual.
#[derive(Default)]
struct Lookup {
    is_virtual: Vec<bool>,
    words: Vec<u32>,
    prompt: Vec<u32>,
    positions: Vec<u32>,
    types: Vec<u32>,
}

impl Candle {
    pub(super) fn integers(&self, integers: &Integers) -> Result<Tensor> {
        let values: Vec<u32> = match integers {
            Integers::Label(field) => {
                let labels = self.batch.labels.get(field).ok_or_else(|| no_labels(field))?;
                labels.iter().map(|&label| label as u32).collect()
            }
            Integers::ExampleLabel(field) => {
                let labels = self.batch.labels_of_examples(field).ok_or_else(|| no_labels(field))?;
                labels.iter().map(|&label| label as u32).collect()
            }
            Integers::MaskedTokens => self.batch.masked_tokens.iter().map(|&token| token as u32).collect(),
            Integers::TargetTokens => self.batch.target.tokens.iter().map(|&token| token as u32).collect(),
            Integers::Constant(values) => values.iter().map(|&value| value as u32).collect(),
            Integers::Words(field) => {
                let numbers = self.batch.word_numbers.get(field).ok_or_else(|| {
                    BackendError::Wrong(format!("the batch has no numbers of words of the field {field}"))
                })?;
                numbers.iter().map(|&number| number as u32).collect()
            }
            Integers::Spans { field, width } => {
                let numbers = self.batch.span_numbers(field, *width).ok_or_else(|| {
                    BackendError::Wrong(format!("the batch has no spans of the field {field}"))
                })?;
                numbers.iter().map(|&number| number as u32).collect()
            }
        };
        self.indices(values)
    }

    fn chosen(&self, choice: RowChoice) -> Result<Tensor> {
        let rows: Vec<u32> = match choice {
            RowChoice::FirstToken => {
                let starts = &self.batch.starts[..self.batch.sequences()];
                starts.iter().map(|start| start + self.batch.virtual_tokens).collect()
            }
            RowChoice::Masked => self.batch.masked_rows.clone(),
            RowChoice::Words => self.batch.word_rows.clone(),
            RowChoice::LastTarget => self.batch.target.last_rows().collect(),
            RowChoice::MaskedTarget => self.batch.target.masked_rows.clone(),
        };
        self.indices(rows)
    }

    /// Which rows of the tables the rows of `value` take.
    fn lookup(&self, program: &Program, value: ValueId) -> Lookup {
        let (batch, target) = (&self.batch, &self.batch.target);
        let decodes = program.value(value).extents.first() == Some(&Extent::Targets);
        let (starts, ids, virtual_tokens) = match decodes {
            true => (&target.starts, &target.ids, 0),
            false => (&batch.starts, &batch.ids, batch.virtual_tokens),
        };
        let mut lookup = Lookup {
            positions: if decodes { target.positions.clone() } else { batch.positions.clone() },
            types: if decodes { Vec::new() } else { batch.token_types.clone() },
            ..Lookup::default()
        };
        for range in starts.windows(2) {
            for row in range[0]..range[1] {
                let number = row - range[0];
                let is_virtual = number < virtual_tokens;
                lookup.is_virtual.push(is_virtual);
                lookup.prompt.push(if is_virtual { number } else { 0 });
                lookup.words.push(if is_virtual { 0 } else { ids[row as usize] });
            }
        }
        lookup
    }

    /// A list on the device, to which it is copied once a batch: layers ask for the same.
    pub(super) fn indices(&self, values: Vec<u32>) -> Result<Tensor> {
        if let Some(known) = self.lists.borrow().get(&values) {
            return Ok(known.clone());
        }
        let list = Tensor::from_slice(&values, values.len(), &self.device)?;
        self.lists.borrow_mut().insert(values, list.clone());
        Ok(list)
    }

    /// [rows, 1]: 1 for virtual rows, or for the others.
    fn indicator(&self, flags: &[bool], of: bool) -> Result<Tensor> {
        let values: Vec<f32> = flags.iter().map(|&flag| f32::from(u8::from(flag == of))).collect();
        let count = values.len();
        Ok(Tensor::from_vec(values, (count, 1), &self.device)?)
    }

    fn add_columns(
        &mut self,
        program: &Program,
        y: ValueId,
        part: &Tensor,
        first_column: usize,
        accumulate: bool,
    ) -> Result<()> {
        let total = program.value(y).columns(&self.sizes);
        let width = part.dim(D::Minus1)?;
        if width == total {
            return self.set(program, y, part.clone(), accumulate);
        }
        let rows = part.dim(0)?;
        let zeros = |columns: usize| Tensor::zeros((rows, columns), part.dtype(), &self.device);
        let wide = Tensor::cat(&[&zeros(first_column)?, part, &zeros(total - first_column - width)?], 1)?;
        // The columns of one value are filled one range after another.
        self.set(program, y, wide, true)
    }

    /// Runs one instruction.
    pub(super) fn run(&mut self, program: &Program, instruction: &Instruction) -> Result<()> {
        #[cfg(feature = "cuda")]
        if self.run_own(program, instruction)? {
            return Ok(());
        }
        match *instruction {
            Instruction::Embed { word, factor, position, token_type, prompt, out, .. } => {
                let rows = self.lookup(program, out);
                let flags = rows.is_virtual;
                let words = self.get(program, word)?.index_select(&self.indices(rows.words)?, 0)?;
                let mut sum = (words * f64::from(factor))?;
                if let Some(prompt) = prompt {
                    let prompt = self.get(program, prompt)?.index_select(&self.indices(rows.prompt)?, 0)?;
                    let words = sum.broadcast_mul(&self.indicator(&flags, false)?)?;
                    sum = (words + prompt.broadcast_mul(&self.indicator(&flags, true)?)?)?;
                }
                for (table, numbers) in [(position, rows.positions), (token_type, rows.types)] {
                    if let Some(table) = table {
                        sum = (sum + self.get(program, table)?.index_select(&self.indices(numbers)?, 0)?)?;
                    }
                }
                self.set(program, out, sum, false)
            }
            Instruction::EmbedBackward { gradient, word, factor, padding, position, token_type, prompt } => {
                let rows = self.lookup(program, gradient);
                let gradient = self.get(program, gradient)?;
                let entries = rows.is_virtual.iter().zip(&rows.words);
                let without: Vec<bool> =
                    entries.map(|(&is_virtual, &word)| is_virtual || Some(word) == padding).collect();
                let words = gradient.broadcast_mul(&self.indicator(&without, false)?)?;
                let words = (words * f64::from(factor))?;
                let virtuals = gradient.broadcast_mul(&self.indicator(&rows.is_virtual, true)?)?;
                for (table, rows, numbers) in [
                    (word, &words, rows.words),
                    (position, &gradient, rows.positions),
                    (token_type, &gradient, rows.types),
                    (prompt, &virtuals, rows.prompt),
                ] {
                    if let Some(table) = table {
                        let zeros = Tensor::zeros(
                            program.value(table).sizes(&self.sizes),
                            gradient.dtype(),
                            &self.device,
                        )?;
                        let sum = zeros.index_add(&self.indices(numbers)?, rows, 0)?;
                        self.set(program, table, sum, true)?;
                    }
                }
                Ok(())
            }
            Instruction::Linear { x, weight, y, first_column } => {
                let weight = self.weight(program, weight)?.t()?;
                let product = self.products.of(&self.get(program, x)?, &weight)?;
                self.add_columns(program, y, &product, first_column, false)
            }
            Instruction::LinearInputGradient { dy, weight, dx, first_column, accumulate } => {
                let weight = self.weight(program, weight)?;
                let dy = self.get(program, dy)?.narrow(1, first_column, weight.dim(0)?)?.contiguous()?;
                self.set(program, dx, self.products.of(&dy, &weight)?, accumulate)
            }
            Instruction::LinearWeightGradient { dy, x, dweight, first_column, accumulate } => {
                let outputs = program.value(dweight).sizes(&self.sizes)[0];
                let dy = self.get(program, dy)?.narrow(1, first_column, outputs)?.contiguous()?.t()?;
                let gradient = self.products.of(&dy, &self.get(program, x)?)?;
                self.set(program, dweight, gradient, accumulate)
            }
            Instruction::AddBias { y, bias, first_column } => {
                let rows = self.get(program, y)?.dim(0)?;
                let bias = self.get(program, bias)?;
                let wide = bias.broadcast_as((rows, bias.dim(0)?))?.contiguous()?;
                self.add_columns(program, y, &wide, first_column, true)
            }
            Instruction::ColumnSums { dy, dbias, first_column, accumulate } => {
                let width = program.value(dbias).elements(&self.sizes);
                let sums = self.get(program, dy)?.narrow(1, first_column, width)?.sum(0)?;
                self.set(program, dbias, sums, accumulate)
            }
            Instruction::LowRank { x, a, b, hidden, y, first_column, scale, dropout } => {
                let input = self.get(program, x)?;
                let input = self.masked(program, input, dropout, x)?;
                let low = self.products.of(&input, &self.get(program, a)?.t()?)?;
                let delta = self.products.of(&low, &self.get(program, b)?.t()?)?;
                let delta = (delta * f64::from(scale))?;
                self.set(program, hidden, low, false)?;
                self.add_columns(program, y, &delta, first_column, true)
            }
            Instruction::LowRankBackward {
                dy,
                x,
                a,
                b,
                hidden,
                da,
                db,
                dx,
                first_column,
                scale,
                dropout,
                ..
            } => {
                let b_tensor = self.get(program, b)?;
                let dy = (self.get(program, dy)?.narrow(1, first_column, b_tensor.dim(0)?)?.contiguous()?
                    * f64::from(scale))?;
                let dlow = self.products.of(&dy, &b_tensor)?;
                if let Some(db) = db {
                    let gradient = self.products.of(&dy.t()?, &self.get(program, hidden)?)?;
                    self.set(program, db, gradient, true)?;
                }
                if let (Some(da), Some(x)) = (da, x) {
                    let input = self.get(program, x)?;
                    let input = self.masked(program, input, dropout, x)?;
                    let gradient = self.products.of(&dlow.t()?, &input)?;
                    self.set(program, da, gradient, true)?;
                }
                if let Some((dx, accumulate)) = dx {
                    let gradient = self.products.of(&dlow, &self.get(program, a)?)?;
                    let gradient = self.masked(program, gradient, dropout, dx)?;
                    self.set(program, dx, gradient, accumulate)?;
                }
                Ok(())
            }
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
                let mut v = self.get(program, y)?;
                if let Some(bias) = bias {
                    v = v.broadcast_add(&self.get(program, bias)?)?;
                }
                v = self.masked(program, v, dropout, out)?;
                if let Some(residual) = residual {
                    v = (v + self.get(program, residual)?)?;
                }
                let centred = v.broadcast_sub(&v.mean_keepdim(D::Minus1)?)?;
                let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
                let rstd = (variance + f64::from(epsilon))?.sqrt()?.recip()?;
                let x = centred.broadcast_mul(&rstd)?;
                self.set(program, scale, rstd.squeeze(D::Minus1)?, false)?;
                self.set(program, normalized, x, false)?;
                self.recover(program, normalized, gain, shift, out, after)
            }
            Instruction::Recover { normalized, gain, shift, out, after } => {
                self.recover(program, normalized, gain, shift, out, after)
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
                let gradient = self.get(program, dout)?;
                let gradient = self.masked(program, gradient, after, dout)?;
                let x = self.get(program, normalized)?;
                if let Some(dgain) = dgain {
                    self.set(program, dgain, (&gradient * &x)?.sum(0)?, true)?;
                }
                if let Some(dshift) = dshift {
                    self.set(program, dshift, gradient.sum(0)?, true)?;
                }
                let g = gradient.broadcast_mul(&self.get(program, gain)?)?;
                let mean = g.mean_keepdim(D::Minus1)?;
                let inner = (&g * &x)?.mean_keepdim(D::Minus1)?;
                let centred = (g.broadcast_sub(&mean)? - x.broadcast_mul(&inner)?)?;
                let v = centred.broadcast_mul(&self.get(program, scale)?.unsqueeze(1)?)?;
                let before = self.masked(program, v.clone(), dropout, dout)?;
                if let Some(dbias) = dbias {
                    self.set(program, dbias, before.sum(0)?, true)?;
                }
                self.set(program, dv, v, false)?;
                dy.map_or(Ok(()), |dy| self.set(program, dy, before, false))
            }
            Instruction::Activate { x, bias, out, activation } => {
                let x = self.with_bias(program, x, bias)?;
                self.set(program, out, activate(activation, &x)?, false)
            }
            Instruction::ActivateBackward { dout, x, bias, dx, activation } => {
                let x = self.with_bias(program, x, bias)?;
                let gradient = (self.get(program, dout)? * slope(activation, &x)?)?;
                self.set(program, dx, gradient, false)
            }
            Instruction::Attention { qkv, heads, out, log_sums, dropout } => {
                let size = program.value(out).columns(&self.sizes) / heads;
                let padding = Padding::new(&self.batch.starts, heads, size, (&self.device, self.products))?;
                let mask = self.attention_mask(dropout, heads, padding.longest)?;
                let (context, sums) = padding.forward(&self.get(program, qkv)?, mask.as_ref())?;
                self.set(program, log_sums, sums.flatten_all()?, false)?;
                self.set(program, out, context, false)
            }
            Instruction::AttentionBackward { dout, qkv, heads, dqkv, dropout, .. } => {
                let size = program.value(dout).columns(&self.sizes) / heads;
                let padding = Padding::new(&self.batch.starts, heads, size, (&self.device, self.products))?;
                let mask = self.attention_mask(dropout, heads, padding.longest)?;
                let (dout, qkv) = (self.get(program, dout)?, self.get(program, qkv)?);
                let (gradient, _) = padding.backward(&dout, &qkv, mask.as_ref())?;
                self.set(program, dqkv, gradient, false)
            }
            Instruction::Attend(ref attend) => self.attend(program, attend),
            Instruction::AttendBackward(ref backward) => self.attend_backward(program, backward),
            Instruction::AttendRecalled(ref attend) => self.attend_recalled(program, attend),
            Instruction::RmsNorm { x, gain, epsilon, scale, out, after } => {
                let x = self.get(program, x)?;
                let square = x.sqr()?.mean_keepdim(D::Minus1)?;
                let rstd = (square + f64::from(epsilon))?.sqrt()?.recip()?;
                let scaled = x.broadcast_mul(&rstd)?.broadcast_mul(&self.get(program, gain)?)?;
                let scaled = self.masked(program, scaled, after, out)?;
                self.set(program, scale, rstd.squeeze(D::Minus1)?, false)?;
                self.set(program, out, scaled, false)
            }
            Instruction::RmsNormBackward { dout, x, scale, gain, after, dx, dgain } => {
                let gradient = self.get(program, dout)?;
                let gradient = self.masked(program, gradient, after, dout)?;
                let rstd = self.get(program, scale)?.unsqueeze(1)?;
                let normalized = self.get(program, x)?.broadcast_mul(&rstd)?;
                if let Some(dgain) = dgain {
                    self.set(program, dgain, (&gradient * &normalized)?.sum(0)?, true)?;
                }
                let g = gradient.broadcast_mul(&self.get(program, gain)?)?;
                let inner = (&g * &normalized)?.mean_keepdim(D::Minus1)?;
                let centred = (g - normalized.broadcast_mul(&inner)?)?;
                self.set(program, dx, centred.broadcast_mul(&rstd)?, false)
            }
            Instruction::Gate { x, out, activation } => {
                let (gate, linear) = self.halves(program, x)?;
                self.set(program, out, (activate(activation, &gate)? * linear)?, false)
            }
            Instruction::GateBackward { dout, x, dx, activation } => {
                let (gate, linear) = self.halves(program, x)?;
                let dout = self.get(program, dout)?;
                let dgate = ((&dout * linear)? * slope(activation, &gate)?)?;
                let dlinear = (dout * activate(activation, &gate)?)?;
                self.set(program, dx, Tensor::cat(&[&dgate, &dlinear], 1)?, false)
            }
            Instruction::TakeRows { x, out, choice } => {
                let rows = self.get(program, x)?.index_select(&self.chosen(choice)?, 0)?;
                self.set(program, out, rows, false)
            }
            Instruction::TakeRowsBackward { dout, dx, choice, accumulate } => {
                let zeros = Tensor::zeros(
                    program.value(dx).sizes(&self.sizes),
                    candle_core::DType::F32,
                    &self.device,
                )?;
                let gradient = zeros.index_add(&self.chosen(choice)?, &self.get(program, dout)?, 0)?;
                self.set(program, dx, gradient, accumulate)
            }
            Instruction::Dropout { x, out, dropout } => {
                let x = self.get(program, x)?;
                let dropped = self.masked(program, x, Some(dropout), out)?;
                self.set(program, out, dropped, false)
            }
            Instruction::CrossEntropy { logits, ref labels, losses, log_sums } => {
                let logits = self.get(program, logits)?;
                let labels = self.integers(labels)?;
                let maximum = logits.max_keepdim(D::Minus1)?;
                let sums = logits.broadcast_sub(&maximum)?.exp()?.sum_keepdim(D::Minus1)?;
                let sums = (sums.log()? + maximum)?;
                let chosen = logits.gather(&labels.unsqueeze(1)?, 1)?;
                self.set(program, losses, (&sums - chosen)?.squeeze(1)?, false)?;
                self.set(program, log_sums, sums.squeeze(1)?, false)
            }
            Instruction::CrossEntropyBackward { logits, ref labels, log_sums, dlosses, dlogits } => {
                let logits = self.get(program, logits)?;
                let labels = self.integers(labels)?.unsqueeze(1)?;
                let p = logits.broadcast_sub(&self.get(program, log_sums)?.unsqueeze(1)?)?.exp()?;
                let ones = Tensor::ones(labels.shape(), p.dtype(), &self.device)?;
                let target = p.zeros_like()?.scatter_add(&labels, &ones, 1)?;
                let gradient = (p - target)?.broadcast_mul(&self.get(program, dlosses)?.unsqueeze(1)?)?;
                self.set(program, dlogits, gradient, false)
            }
            Instruction::SumLoss { x, loss } => {
                let sum = self.get(program, x)?.sum_all()?;
                self.losses[loss] = Some(match self.losses[loss].take() {
                    Some(before) => (before + sum)?,
                    None => sum,
                });
                Ok(())
            }
            Instruction::Fill { out, scalar } => {
                let value = match scalar {
                    Scalar::Constant(value) => value,
                    Scalar::LossWeight(loss) => self.step.loss_weights[loss],
                    Scalar::MicroBatchShare => self.step.micro_batch_share,
                };
                let filled = Tensor::full(value, program.value(out).sizes(&self.sizes), &self.device)?;
                self.set(program, out, filled, false)
            }
            Instruction::Constant { out, ref values } => {
                let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
                let tensor = Tensor::from_vec(values, program.value(out).sizes(&self.sizes), &self.device)?;
                self.set(program, out, tensor, false)
            }
            _ => self.relative(program, instruction),
        }
    }

    /// The halves of a matrix's columns.
    fn halves(&self, program: &Program, x: ValueId) -> Result<(Tensor, Tensor)> {
        let x = self.get(program, x)?;
        let width = x.dim(1)? / 2;
        Ok((x.narrow(1, 0, width)?.contiguous()?, x.narrow(1, width, width)?.contiguous()?))
    }

    fn with_bias(&self, program: &Program, x: ValueId, bias: Option<ValueId>) -> Result<Tensor> {
        let x = self.get(program, x)?;
        Ok(match bias {
            Some(bias) => x.broadcast_add(&self.get(program, bias)?)?,
            None => x,
        })
    }

    fn recover(
        &mut self,
        program: &Program,
        normalized: ValueId,
        gain: ValueId,
        shift: ValueId,
        out: ValueId,
        after: Option<Dropout>,
    ) -> Result<()> {
        let x = self.get(program, normalized)?.broadcast_mul(&self.get(program, gain)?)?;
        let x = x.broadcast_add(&self.get(program, shift)?)?;
        let x = self.masked(program, x, after, out)?;
        self.set(program, out, x, false)
    }
}
