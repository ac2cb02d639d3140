//! Which values each instruction reads and writes: what lifetimes, the reverse pass and
//! the choice of rows go by.

use crate::program::attend::AttendRecalled;
use crate::program::build::Program;
use crate::program::instruction::Instruction;
use crate::program::value::ValueId;

/// How an instruction touches a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    /// Written without looking at what was there.
    Write,
    /// Read and written in place.
    Update,
}

impl Instruction {
    /// All values that the instruction touches.
    pub fn accesses(&self) -> Vec<(ValueId, Access)> {
        use Access::{Read, Update, Write};
        use Instruction as I;
        let adds = |accumulate: bool| if accumulate { Update } else { Write };
        let mut list = Vec::new();
        {
            let mut note = |access: Access, values: &[Option<ValueId>]| {
                list.extend(values.iter().flatten().map(|&value| (value, access)));
            };
            match *self {
                I::Embed { word, position, token_type, prompt, out, .. } => {
                    note(Read, &[Some(word), position, token_type, prompt]);
                    note(Write, &[Some(out)]);
                }
                I::EmbedBackward { gradient, word, position, token_type, prompt, .. } => {
                    note(Read, &[Some(gradient)]);
                    note(Update, &[word, position, token_type, prompt]);
                }
                // Several writers fill the columns of one value.
                I::Linear { x, weight, y, first_column: _ } => {
                    note(Read, &[Some(x), Some(weight)]);
                    note(Write, &[Some(y)]);
                }
                I::LinearInputGradient { dy, weight, dx, accumulate, .. } => {
                    note(Read, &[Some(dy), Some(weight)]);
                    note(adds(accumulate), &[Some(dx)]);
                }
                I::LinearWeightGradient { dy, x, dweight, accumulate, .. } => {
                    note(Read, &[Some(dy), Some(x)]);
                    note(adds(accumulate), &[Some(dweight)]);
                }
                I::AddBias { y, bias, .. } => {
                    note(Read, &[Some(bias)]);
                    note(Update, &[Some(y)]);
                }
                I::ColumnSums { dy, dbias, accumulate, .. } => {
                    note(Read, &[Some(dy)]);
                    note(adds(accumulate), &[Some(dbias)]);
                }
                I::LowRank { x, a, b, hidden, y, .. } => {
                    note(Read, &[Some(x), Some(a), Some(b)]);
                    note(Write, &[Some(hidden)]);
                    note(Update, &[Some(y)]);
                }
                I::LowRankBackward { dy, x, a, b, hidden, dhidden, da, db, dx, .. } => {
                    note(Read, &[Some(dy), x, Some(a), Some(b), Some(hidden)]);
                    note(Write, &[Some(dhidden)]);
                    note(Update, &[da, db]);
                    if let Some((dx, accumulate)) = dx {
                        note(adds(accumulate), &[Some(dx)]);
                    }
                }
                I::Norm { y, bias, residual, gain, shift, normalized, scale, out, .. } => {
                    note(Read, &[Some(y), bias, residual, Some(gain), Some(shift)]);
                    note(Write, &[Some(normalized), Some(scale), Some(out)]);
                }
                I::Recover { normalized, gain, shift, out, .. } => {
                    note(Read, &[Some(normalized), Some(gain), Some(shift)]);
                    note(Write, &[Some(out)]);
                }
                I::NormBackward { dout, normalized, scale, gain, dv, dy, dgain, dshift, dbias, .. } => {
                    note(Read, &[Some(dout), Some(normalized), Some(scale), Some(gain)]);
                    note(Write, &[Some(dv), dy]);
                    note(Update, &[dgain, dshift, dbias]);
                }
                I::Activate { x, bias, out, slope, .. } => {
                    note(Read, &[Some(x), bias]);
                    note(Write, &[Some(out), slope]);
                }
                I::ActivateBackward { dout, x, bias, dx, slope, .. } => {
                    note(Read, &[Some(dout), Some(x), bias, slope]);
                    note(Write, &[Some(dx)]);
                }
                I::Attention { qkv, out, log_sums, kept, .. } => {
                    note(Read, &[Some(qkv)]);
                    note(Write, &[Some(out), Some(log_sums), kept]);
                }
                I::AttentionBackward { dout, qkv, log_sums, kept, dqkv, .. } => {
                    note(Read, &[Some(dout), Some(qkv), Some(log_sums), Some(kept)]);
                    note(Write, &[Some(dqkv)]);
                }
                I::ReachedRows { table, out, .. } => {
                    note(Read, &[Some(table)]);
                    note(Write, &[Some(out)]);
                }
                I::ReachedRowsBackward { dout, dtable, .. } => {
                    note(Read, &[Some(dout)]);
                    note(Update, &[Some(dtable)]);
                }
                I::Disentangled { qkv, positions, out, log_sums, .. } => {
                    note(Read, &[Some(qkv), Some(positions)]);
                    note(Write, &[Some(out), Some(log_sums)]);
                }
                I::DisentangledBackward { dout, qkv, positions, log_sums, dqkv, dpositions, .. } => {
                    note(Read, &[Some(dout), Some(qkv), Some(positions), Some(log_sums)]);
                    note(Write, &[Some(dqkv), dpositions]);
                }
                I::Attend(ref attend) => list.extend(attend.accesses()),
                I::AttendBackward(ref backward) => list.extend(backward.accesses()),
                I::Absorbed(ref absorbed) => list.extend(absorbed.accesses()),
                I::AbsorbedBackward(ref backward) => list.extend(backward.accesses()),
                I::AttendRecalled(AttendRecalled { qkv, memory, bias, out, .. }) => {
                    note(Read, &[Some(qkv), bias.map(|(table, _)| table)]);
                    note(Update, &[Some(memory)]);
                    note(Write, &[Some(out)]);
                }
                I::RmsNorm { x, gain, scale, out, .. } => {
                    note(Read, &[Some(x), Some(gain)]);
                    note(Write, &[Some(scale), Some(out)]);
                }
                I::RmsNormBackward { dout, x, scale, gain, dx, dgain, .. } => {
                    note(Read, &[Some(dout), Some(x), Some(scale), Some(gain)]);
                    note(Write, &[Some(dx)]);
                    note(Update, &[dgain]);
                }
                I::GateBackward { dout, x, dx, .. } => {
                    note(Read, &[Some(dout), Some(x)]);
                    note(Write, &[Some(dx)]);
                }
                I::TakeRows { x, out, .. } | I::Dropout { x, out, .. } | I::Gate { x, out, .. } => {
                    note(Read, &[Some(x)]);
                    note(Write, &[Some(out)]);
                }
                I::TakeRowsBackward { dout, dx, accumulate, .. } => {
                    note(Read, &[Some(dout)]);
                    note(adds(accumulate), &[Some(dx)]);
                }
                I::CrossEntropy { logits, losses, log_sums, .. } => {
                    note(Read, &[Some(logits)]);
                    note(Write, &[Some(losses), Some(log_sums)]);
                }
                I::CrossEntropyBackward { logits, log_sums, dlosses, dlogits, .. } => {
                    note(Read, &[Some(logits), Some(log_sums), Some(dlosses)]);
                    note(Write, &[Some(dlogits)]);
                }
                I::SumLoss { x, .. } => note(Read, &[Some(x)]),
                I::Fill { out, .. } | I::Constant { out, .. } => note(Write, &[Some(out)]),
                I::Copy { x, out, accumulate } | I::Fold { x, out, accumulate, .. } => {
                    note(Read, &[Some(x)]);
                    note(adds(accumulate), &[Some(out)]);
                }
                I::CopyRange { x, out, .. } => {
                    note(Read, &[Some(x)]);
                    note(Update, &[Some(out)]);
                }
                I::Unary { x, out, .. }
                | I::Affine { x, out, .. }
                | I::Power { x, out, .. }
                | I::Permute { x, out, .. } => {
                    note(Read, &[Some(x)]);
                    note(Write, &[Some(out)]);
                }
                I::UnaryBackward { x, y, dy, dx, .. } => {
                    note(Read, &[Some(x), Some(y), Some(dy)]);
                    note(Write, &[Some(dx)]);
                }
                I::Binary { a, b, out, .. } => {
                    note(Read, &[Some(a), Some(b)]);
                    note(Write, &[Some(out)]);
                }
                I::Winner { a, b, dy, out, .. } => {
                    note(Read, &[Some(a), Some(b), Some(dy)]);
                    note(Write, &[Some(out)]);
                }
                I::Matmul { a, b, out, accumulate, .. } => {
                    note(Read, &[Some(a), Some(b)]);
                    note(adds(accumulate), &[Some(out)]);
                }
                I::Rows { table, out, .. } => {
                    note(Read, &[Some(table)]);
                    note(Write, &[Some(out)]);
                }
                I::RowsBackward { dout, dtable, accumulate, .. } => {
                    note(Read, &[Some(dout)]);
                    note(adds(accumulate), &[Some(dtable)]);
                }
                I::Integers { out, .. } | I::Positions { out } => note(Write, &[Some(out)]),
                I::Shift { x, out, .. }
                | I::DivideWhole { x, out, .. }
                | I::Largest { x, out }
                | I::ArgMax { x, out, .. } => {
                    note(Read, &[Some(x)]);
                    note(Write, &[Some(out)]);
                }
                I::Compare { a, b, out, .. } => {
                    note(Read, &[Some(a), Some(b)]);
                    note(Write, &[Some(out)]);
                }
                I::Gather { table, places, out, .. } => {
                    note(Read, &[Some(table), Some(places)]);
                    note(Write, &[Some(out)]);
                }
                I::GatherBackward { dout, places, dtable, accumulate, .. } => {
                    note(Read, &[Some(dout), Some(places)]);
                    note(adds(accumulate), &[Some(dtable)]);
                }
            }
        }
        list
    }
}

impl Program {
    /// Whether none of these instructions reads a value, nor does the reverse rule of
    /// what wrote it. Views of the value count as the value.
    pub(super) fn unread(&self, value: ValueId, instructions: &[Instruction]) -> bool {
        let root = self.root(value);
        let forgets = |instruction: &Instruction| {
            matches!(
                instruction,
                Instruction::Linear { .. }
                    | Instruction::AddBias { .. }
                    | Instruction::LowRank { .. }
                    | Instruction::Dropout { .. }
                    | Instruction::Embed { .. }
                    | Instruction::ReachedRows { .. }
                    | Instruction::Activate { .. }
            )
        };
        instructions.iter().all(|instruction| {
            let mut touched =
                instruction.accesses().into_iter().filter(|&(other, _)| self.root(other) == root);
            touched.all(|(_, access)| access != Access::Read && forgets(instruction))
        })
    }
}
