//! Each instruction as candle's tensor operations.

use candle_core::{D, Tensor};

use crate::backend::BackendError;
use crate::backend::candle::Candle;
use crate::program::build::Program;
use crate::program::instruction::{Activation, Instruction, RowChoice, Scalar};
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

impl Candle {
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
            Instruction::Activate { x, bias, out, activation, .. } => {
                let x = self.with_bias(program, x, bias)?;
                self.set(program, out, activate(activation, &x)?, false)
            }
            Instruction::ActivateBackward { dout, x, bias, dx, activation, .. } => {
                let x = self.with_bias(program, x, bias)?;
                let gradient = (self.get(program, dout)? * slope(activation, &x)?)?;
                self.set(program, dx, gradient, false)
            }
            Instruction::Attention { qkv, heads, out, log_sums, dropout, .. } => {
                let size = program.value(out).columns(&self.sizes) / heads;
                let padding = self.padded(&self.batch.starts, heads, size)?;
                let mask = self.attention_mask(dropout, heads, padding.longest)?;
                let (context, sums) = padding.forward(&self.get(program, qkv)?, mask.as_ref())?;
                self.set(program, log_sums, sums.flatten_all()?, false)?;
                self.set(program, out, context, false)
            }
            Instruction::AttentionBackward { dout, qkv, heads, dqkv, dropout, .. } => {
                let size = program.value(dout).columns(&self.sizes) / heads;
                let padding = self.padded(&self.batch.starts, heads, size)?;
                let mask = self.attention_mask(dropout, heads, padding.longest)?;
                let (dout, qkv) = (self.get(program, dout)?, self.get(program, qkv)?);
                let (gradient, _) = padding.backward(&dout, &qkv, mask.as_ref())?;
                self.set_wanted_rows(program, dqkv, gradient)
            }
            Instruction::Attend(ref attend) => self.attend(program, attend),
            Instruction::AttendBackward(ref backward) => self.attend_backward(program, backward),
            Instruction::AttendRecalled(ref attend) => self.attend_recalled(program, attend),
            Instruction::Absorbed(ref absorbed) => self.absorbed(program, absorbed),
            Instruction::AbsorbedBackward(ref backward) => self.absorbed_backward(program, backward),
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
            _ => self.look_up(program, instruction),
        }
    }

    /// Puts those rows of all at a value's place that it has.
    pub(super) fn set_wanted_rows(&mut self, program: &Program, value: ValueId, all: Tensor) -> Result<()> {
        let rows = match program.value(value).extents[0] {
            Extent::Virtual => all.index_select(&self.indices(self.chosen(RowChoice::Virtual))?, 0)?,
            _ => all,
        };
        self.set(program, value, rows, false)
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
}
