//! Each instruction as a call of its kernel.

use crate::backend::BackendError;
use crate::backend::cpu::context::Context;
use crate::kernels::attention::{Known, Results, Wanted};
use crate::kernels::embedding::{Lookup, Tables};
use crate::kernels::layer_norm::Affine;
use crate::kernels::matmul::{Matrix, nn, nt, tn};
use crate::kernels::{
    activation, attention, cross_entropy, dropout, elementwise, embedding, gate, layer_norm, low_rank,
    reduce, rms_norm,
};
use crate::program::instruction::{Activation, Instruction, Scalar};
use crate::program::value::{Extent, ValueId};

fn kernel(activation: Activation) -> activation::Activation {
    match activation {
        Activation::Gelu => activation::Activation::Gelu,
        Activation::GeluTanh => activation::Activation::GeluNew,
        Activation::Relu => activation::Activation::Relu,
        Activation::Silu => activation::Activation::Silu,
        Activation::Tanh => activation::Activation::Tanh,
    }
}

impl Context<'_> {
    /// Runs one instruction.
    ///
    /// # Errors
    /// Integers that the batch lacks.
    pub fn execute(&self, instruction: &Instruction, losses: &mut [f64]) -> Result<(), BackendError> {
        let threads = self.threads;
        match *instruction {
            Instruction::Embed { word, factor, position, token_type, prompt, out, .. } => {
                let optional = |value: Option<ValueId>| value.map(|value| self.read(value));
                let (position, token_type, prompt) =
                    (optional(position), optional(token_type), optional(prompt));
                let tables = Tables { word: Some(self.read(word)), position, token_type, prompt };
                let lookup = self.lookup(out, factor);
                embedding::forward(threads, self.write(out), lookup, tables, self.columns(out));
            }
            Instruction::EmbedBackward { gradient, word, factor, padding, position, token_type, prompt } => {
                let optional = |value: Option<ValueId>| value.map(|value| self.write(value));
                let gradients = embedding::Gradients {
                    word: optional(word),
                    position: optional(position),
                    token_type: optional(token_type),
                    prompt: optional(prompt),
                };
                let lookup = Lookup { padding, ..self.lookup(gradient, factor) };
                let prompted = lookup.virtual_tokens > 0;
                embedding::backward(
                    threads,
                    gradients,
                    self.read(gradient),
                    lookup,
                    prompted,
                    self.columns(gradient),
                );
            }
            Instruction::Linear { x, weight, y, first_column } => {
                let (outputs, inputs) = (self.views.sizes(weight)[0], self.columns(weight));
                let rows = self.read(x).len() / inputs;
                let size = [rows, outputs, inputs];
                nt(
                    threads,
                    size,
                    1.0,
                    self.matrix(x, 0),
                    self.matrix(weight, 0),
                    0.0,
                    self.matrix_mut(y, first_column),
                );
            }
            Instruction::LinearInputGradient { dy, weight, dx, first_column, accumulate } => {
                let (outputs, inputs) = (self.views.sizes(weight)[0], self.columns(weight));
                let out = self.matrix_mut(dx, 0);
                let size = [out.values.len() / inputs, inputs, outputs];
                let beta = f32::from(u8::from(accumulate));
                nn(threads, size, 1.0, self.matrix(dy, first_column), self.matrix(weight, 0), beta, out);
            }
            Instruction::LinearWeightGradient { dy, x, dweight, first_column, accumulate } => {
                let (outputs, inputs) = (self.views.sizes(dweight)[0], self.columns(dweight));
                let rows = self.read(x).len() / inputs;
                let beta = f32::from(u8::from(accumulate));
                let (dy, x) = (self.matrix(dy, first_column), self.matrix(x, 0));
                tn(threads, [outputs, inputs, rows], 1.0, dy, x, beta, self.matrix_mut(dweight, 0));
            }
            Instruction::AddBias { y, bias, first_column } => {
                let (bias, width) = (self.read(bias), self.columns(y));
                match first_column == 0 && bias.len() == width {
                    true => elementwise::add_bias(threads, self.write(y), bias),
                    false => {
                        for row in self.write(y).chunks_exact_mut(width) {
                            row[first_column..].iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
                        }
                    }
                }
            }
            Instruction::ColumnSums { dy, dbias, first_column, accumulate } => {
                let (sums, rows) = (self.write(dbias), self.matrix(dy, first_column));
                if !accumulate {
                    sums.fill(0.0);
                }
                reduce::column_sums(threads, sums, rows.values, rows.stride);
            }
            Instruction::LowRank { x, a, b, hidden, y, first_column, scale, dropout } => {
                let factors = self.low_rank(a, b, scale, dropout, hidden);
                let out = self.matrix_mut(y, first_column);
                low_rank::forward(threads, self.write(hidden), out, self.matrix(x, 0), &factors);
            }
            Instruction::LowRankBackward {
                dy,
                x,
                a,
                b,
                hidden,
                dhidden,
                da,
                db,
                dx,
                first_column,
                scale,
                dropout,
            } => {
                let factors = self.low_rank(a, b, scale, dropout, hidden);
                if let Some((dx, false)) = dx {
                    elementwise::fill(threads, self.write(dx), 0.0);
                }
                let gradients = low_rank::Gradients {
                    a: da.map(|da| self.write(da)),
                    b: db.map(|db| self.write(db)),
                    x: dx.map(|(dx, _)| self.matrix_mut(dx, 0)),
                };
                // Without a gradient of `a` the input is not read.
                let x = x.map_or(Matrix::new(&[], factors.inputs), |x| self.matrix(x, 0));
                let dy = self.matrix(dy, first_column);
                low_rank::backward(
                    threads,
                    gradients,
                    self.write(dhidden),
                    dy,
                    self.read(hidden),
                    x,
                    &factors,
                );
            }
            Instruction::Norm {
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
                ..
            } => {
                let terms = layer_norm::Forward {
                    bias: bias.map(|bias| self.read(bias)),
                    dropout: self.mask(dropout, out),
                    residual: residual.map(|residual| self.read(residual)),
                    affine: Affine { gain: self.read(gain), shift: self.read(shift) },
                    epsilon,
                    dropout_after: self.mask(after, out),
                };
                layer_norm::forward(
                    threads,
                    self.write(out),
                    self.write(normalized),
                    self.write(scale),
                    terms,
                );
            }
            Instruction::Recover { normalized, gain, shift, out, after } => {
                let affine = Affine { gain: self.read(gain), shift: self.read(shift) };
                layer_norm::recover(
                    threads,
                    self.write(out),
                    self.read(normalized),
                    affine,
                    self.mask(after, out),
                );
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
                let terms = layer_norm::Backward {
                    dout: self.read(dout),
                    normalized: self.read(normalized),
                    rstd: self.read(scale),
                    gain: self.read(gain),
                    dropout: self.mask(dropout, dout),
                    dropout_after: self.mask(after, dout),
                };
                let optional = |value: Option<ValueId>| value.map(|value| self.write(value));
                let gradients = layer_norm::Gradients {
                    gain: optional(dgain),
                    shift: optional(dshift),
                    bias: optional(dbias),
                };
                layer_norm::backward(threads, self.write(dv), optional(dy), terms, gradients);
            }
            Instruction::Activate { x, bias, out, activation, slope } => {
                let bias = bias.map(|bias| self.read(bias));
                let (kind, width, out) = (kernel(activation), self.columns(out), self.write(out));
                match slope {
                    Some(x) => {
                        let x = self.write(x);
                        activation::activate_and_differentiate(threads, kind, out, x, bias, width);
                    }
                    None => activation::activate(threads, kind, out, self.read(x), bias, width),
                }
            }
            Instruction::ActivateBackward { dx, slope: Some(slope), .. } => {
                elementwise::multiply(threads, self.write(dx), self.read(slope));
            }
            Instruction::ActivateBackward { x, bias, dx, activation, slope: None, .. } => {
                let bias = bias.map(|bias| self.read(bias));
                activation::backward(
                    threads,
                    kernel(activation),
                    self.write(dx),
                    self.read(x),
                    bias,
                    self.columns(dx),
                );
            }
            Instruction::Attention { qkv, heads, out, log_sums, kept, dropout } => {
                let settings = self.attention(qkv, heads, dropout);
                let (ctx, lse, kept) =
                    (self.write(out), self.write(log_sums), kept.map(|kept| self.write(kept)));
                attention::forward(threads, Results { ctx, lse, kept }, self.read(qkv), &settings);
            }
            Instruction::AttentionBackward { dout, qkv, log_sums, kept, heads, dqkv, dropout } => {
                let settings = self.attention(qkv, heads, dropout);
                let (qkv, lse, kept) = (self.read(qkv), self.read(log_sums), Some(self.read(kept)));
                let known = Known { qkv, lse, kept };
                let narrow = self.program.value(dqkv).extents[0] == Extent::Virtual;
                let first_rows = narrow.then_some(self.batch.virtual_tokens as usize);
                let wanted = Wanted { dqkv: self.write(dqkv), first_rows };
                attention::backward(threads, wanted, self.read(dout), known, &settings);
            }
            Instruction::Attend(ref attend) => self.attend(attend),
            Instruction::AttendBackward(ref backward) => self.attend_backward(backward),
            Instruction::AttendRecalled(ref attend) => self.attend_recalled(attend)?,
            Instruction::Absorbed(ref absorbed) => self.absorbed(absorbed),
            Instruction::AbsorbedBackward(ref backward) => self.absorbed_backward(backward),
            Instruction::RmsNorm { x, gain, epsilon, scale, out, after } => {
                let (gain, after) = (self.read(gain), self.mask(after, out));
                let (out, scale) = (self.write(out), self.write(scale));
                rms_norm::forward(threads, out, scale, self.read(x), (gain, epsilon), after);
            }
            Instruction::RmsNormBackward { dout, x, scale, gain, after, dx, dgain } => {
                let terms = rms_norm::Backward {
                    dout: self.read(dout),
                    x: self.read(x),
                    rstd: self.read(scale),
                    gain: self.read(gain),
                    after: self.mask(after, dout),
                };
                let dgain = dgain.map(|dgain| self.write(dgain));
                rms_norm::backward(threads, self.write(dx), dgain, terms);
            }
            Instruction::Gate { x, out, activation } => {
                let width = self.columns(out);
                gate::forward(threads, kernel(activation), self.write(out), self.read(x), width);
            }
            Instruction::GateBackward { dout, x, dx, activation } => {
                let (width, dout) = (self.columns(dout), self.read(dout));
                gate::backward(threads, kernel(activation), self.write(dx), dout, self.read(x), width);
            }
            Instruction::ReachedRows { .. }
            | Instruction::ReachedRowsBackward { .. }
            | Instruction::Disentangled { .. }
            | Instruction::DisentangledBackward { .. } => self.relative(instruction),
            Instruction::TakeRows { x, out, choice } => {
                let width = self.columns(out);
                elementwise::gather_rows(threads, self.write(out), self.read(x), self.chosen(choice), width);
            }
            Instruction::TakeRowsBackward { dout, dx, choice, accumulate } => {
                if !accumulate {
                    elementwise::fill(threads, self.write(dx), 0.0);
                }
                let width = self.columns(dout);
                elementwise::scatter_add_rows(
                    threads,
                    self.write(dx),
                    self.read(dout),
                    self.chosen(choice),
                    width,
                );
            }
            Instruction::Dropout { x, out, dropout } => {
                dropout::dropout(
                    threads,
                    self.write(out),
                    self.read(x),
                    self.columns(out),
                    self.mask(Some(dropout), out),
                );
            }
            Instruction::CrossEntropy { logits, ref labels, losses, log_sums } => {
                let labels = self.integers(labels)?;
                cross_entropy::forward(
                    threads,
                    self.write(losses),
                    self.write(log_sums),
                    self.read(logits),
                    &labels,
                );
            }
            Instruction::CrossEntropyBackward { logits, ref labels, log_sums, dlosses, dlogits } => {
                let labels = self.integers(labels)?;
                let (log_sums, weights) = (self.read(log_sums), self.read(dlosses));
                let in_place = self.program.root(dlogits) == self.program.root(logits);
                let logits = (!in_place).then(|| self.read(logits));
                cross_entropy::backward(threads, self.write(dlogits), logits, log_sums, &labels, weights);
            }
            Instruction::SumLoss { x, loss } => {
                losses[loss] += self.read(x).iter().map(|&element| f64::from(element)).sum::<f64>();
            }
            Instruction::Fill { out, scalar } => {
                let value = match scalar {
                    Scalar::Constant(value) => value,
                    Scalar::LossWeight(loss) => self.step.loss_weights[loss],
                    Scalar::MicroBatchShare => self.step.micro_batch_share,
                };
                elementwise::fill(threads, self.write(out), value);
            }
            Instruction::Constant { out, ref values } => {
                self.write(out).iter_mut().zip(values.iter()).for_each(|(out, &value)| *out = value as f32);
            }
            _ => self.choose(instruction)?,
        }
        Ok(())
    }
}
