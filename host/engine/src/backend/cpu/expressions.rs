//! The fine-grained instructions, of which expressions are made.

use host_ir::graph::Unary;

use crate::backend::cpu::context::Context;
use crate::backend::cpu::tensor;
use crate::kernels::matmul::{Matrix, MatrixMut, nn, nt, tn};
use crate::kernels::{activation, elementwise};
use crate::program::instruction::Instruction;
use crate::program::value::ValueId;

/// The activation kernel of a function of expressions, where there is one.
fn as_activation(function: Unary) -> Option<activation::Activation> {
    match function {
        Unary::Gelu => Some(activation::Activation::Gelu),
        Unary::Silu => Some(activation::Activation::Silu),
        _ => None,
    }
}

impl Context<'_> {
    /// The operations of expressions.
    pub(super) fn fine_grained(&self, instruction: &Instruction) {
        let threads = self.threads;
        match *instruction {
            Instruction::Copy { x, out, accumulate } => match accumulate {
                true => elementwise::add(threads, self.write(out), self.read(x)),
                false => self.write(out).copy_from_slice(self.read(x)),
            },
            Instruction::Unary { function, x, out } => match as_activation(function) {
                Some(activation) => activation::activate(
                    threads,
                    activation,
                    self.write(out),
                    self.read(x),
                    None,
                    self.columns(out),
                ),
                None => tensor::unary(function, self.read(x), self.write(out)),
            },
            Instruction::UnaryBackward { function, x, y, dy, dx } => match as_activation(function) {
                Some(activation) => {
                    self.write(dx).copy_from_slice(self.read(dy));
                    activation::backward(
                        threads,
                        activation,
                        self.write(dx),
                        self.read(x),
                        None,
                        self.columns(dx),
                    );
                }
                None => tensor::unary_backward(
                    function,
                    self.read(x),
                    self.read(y),
                    self.read(dy),
                    self.write(dx),
                ),
            },
            Instruction::Affine { x, factor, offset, out } => {
                self.write(out).iter_mut().zip(self.read(x)).for_each(|(out, x)| *out = x * factor + offset);
            }
            Instruction::Power { x, exponent, out } => {
                self.write(out).iter_mut().zip(self.read(x)).for_each(|(out, x)| *out = x.powf(exponent));
            }
            Instruction::Binary { function, a, b, out } => {
                let (a, b, sizes) = (self.shaped(a), self.shaped(b), self.views.sizes(out));
                tensor::binary(function, (a.0, &a.1), (b.0, &b.1), self.write(out), &sizes);
            }
            Instruction::Winner { a, b, dy, out, larger } => {
                let (a, b, sizes) = (self.shaped(a), self.shaped(b), self.views.sizes(out));
                tensor::winner((a.0, &a.1), (b.0, &b.1), self.read(dy), self.write(out), &sizes, larger);
            }
            Instruction::Fold { fold, x, out, accumulate } => {
                let (x, sizes) = (self.shaped(x), self.views.sizes(out));
                tensor::fold(fold, (x.0, &x.1), (self.write(out), &sizes), accumulate);
            }
            Instruction::Permute { x, ref axes, out } => {
                let x = self.shaped(x);
                tensor::permute((x.0, &x.1), axes, self.write(out));
            }
            Instruction::CopyRange { x, out, axis, start, to, accumulate } => {
                let (x, sizes) = (self.shaped(x), self.views.sizes(out));
                tensor::copy_range((x.0, &x.1), (self.write(out), &sizes), axis, start, to, accumulate);
            }
            Instruction::Matmul { a, b, out, transpose, accumulate } => {
                self.matmul(a, b, out, transpose, accumulate)
            }
            Instruction::Rows { table, ref indices, out } => {
                let width = self.read(out).len() / indices.len().max(1);
                for (row, &index) in self.write(out).chunks_exact_mut(width.max(1)).zip(indices.iter()) {
                    row.copy_from_slice(&self.read(table)[index as usize * width..][..width]);
                }
            }
            Instruction::RowsBackward { dout, ref indices, dtable, accumulate } => {
                let table = self.write(dtable);
                if !accumulate {
                    table.fill(0.0);
                }
                let width = self.read(dout).len() / indices.len().max(1);
                for (row, &index) in self.read(dout).chunks_exact(width.max(1)).zip(indices.iter()) {
                    table[index as usize * width..][..width]
                        .iter_mut()
                        .zip(row)
                        .for_each(|(table, row)| *table += row);
                }
            }
            _ => {}
        }
    }

    fn matmul(&self, a: ValueId, b: ValueId, out: ValueId, transpose: (bool, bool), accumulate: bool) {
        let (a, b) = (self.shaped(a), self.shaped(b));
        let sizes = self.views.sizes(out);
        let (n, m) = (sizes[sizes.len() - 1], sizes[sizes.len() - 2]);
        let pair = |shape: &(&[f32], Vec<usize>)| (shape.1[shape.1.len() - 2], shape.1[shape.1.len() - 1]);
        let k = if transpose.0 { pair(&a).0 } else { pair(&a).1 };
        let beta = f32::from(u8::from(accumulate));
        let (stride_a, stride_b) = (pair(&a).1, pair(&b).1);
        let call = |a: &[f32], b: &[f32], out: &mut [f32], m: usize, k: usize| {
            let (a, b, out) = (Matrix::new(a, stride_a), Matrix::new(b, stride_b), MatrixMut::new(out, n));
            match transpose {
                (false, false) => nn(self.threads, [m, n, k], 1.0, a, b, beta, out),
                (false, true) => nt(self.threads, [m, n, k], 1.0, a, b, beta, out),
                _ => tn(self.threads, [m, n, k], 1.0, a, b, beta, out),
            }
        };
        let out = self.write(out);
        if sizes.len() > 2 && b.1.len() == sizes.len() {
            let (step_a, step_b) = (pair(&a).0 * pair(&a).1, pair(&b).0 * pair(&b).1);
            for (batch, out) in out.chunks_exact_mut((m * n).max(1)).enumerate() {
                call(&a.0[batch * step_a..][..step_a], &b.0[batch * step_b..][..step_b], out, m, k);
            }
        } else if transpose.0 && a.1.len() > 2 {
            // Leading axes of both operands are rows that are summed over.
            let rows = a.0.len() / stride_a.max(1);
            call(a.0, b.0, out, m, rows);
        } else {
            // Leading axes are further rows.
            let rows = out.len() / n.max(1);
            call(a.0, b.0, out, rows, k);
        }
    }
}
