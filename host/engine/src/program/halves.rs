//! Which values the second backend stores in bf16, where products are of such numbers and
//! it has kernels of its own: those that products, norms, activations and attention alone
//! read and write, of a row for each token. What an expression touches is fp32.

use crate::program::absorb::AbsorbedBackward;
use crate::program::attend::{Attend, AttendBackward};
use crate::program::build::Program;
use crate::program::instruction::Instruction;
use crate::program::value::{Extent, Storage, ValueId};

/// By value: whether it is stored in bf16.
pub fn halves(program: &Program) -> Vec<bool> {
    let mut halves: Vec<bool> =
        program.values.iter().map(|value| value.storage == Storage::Working).collect();
    for (half, value) in halves.iter_mut().zip(&program.values) {
        let rows = matches!(value.extents[..], [Extent::Tokens | Extent::Virtual | Extent::Targets, _]);
        *half &= rows;
    }
    for output in &program.outputs {
        halves[program.root(output.value).0 as usize] = false;
    }
    for instruction in program.instructions() {
        let (Rounds::ByKernels(taken) | Rounds::ByCopies(taken)) = rounds(program, instruction);
        for (value, _) in instruction.accesses() {
            if !taken.contains(&Some(value)) {
                halves[program.root(value).0 as usize] = false;
            }
        }
    }
    let of_root = |place: usize| halves[program.root(ValueId(place as u32)).0 as usize];
    (0..halves.len()).map(of_root).collect()
}

/// Values of an instruction that may be of bf16.
pub enum Rounds {
    /// Its kernels read and write them as they are.
    ByKernels(Vec<Option<ValueId>>),
    /// Its composition takes copies in fp32.
    ByCopies(Vec<Option<ValueId>>),
}

/// How an instruction takes values of bf16, and which of its values.
pub fn rounds(program: &Program, instruction: &Instruction) -> Rounds {
    use Instruction as I;
    use Rounds::{ByCopies, ByKernels};
    match *instruction {
        I::Embed { out, .. } => ByKernels(vec![Some(out)]),
        I::EmbedBackward { gradient, .. } => ByKernels(vec![Some(gradient)]),
        I::Linear { x, y, .. } => ByKernels(vec![Some(x), Some(y)]),
        I::LinearInputGradient { dy, dx, .. } => ByKernels(vec![Some(dy), Some(dx)]),
        I::LinearWeightGradient { dy, x, .. } => ByKernels(vec![Some(dy), Some(x)]),
        I::AddBias { y, .. } => ByKernels(vec![Some(y)]),
        I::ColumnSums { dy, .. } => ByKernels(vec![Some(dy)]),
        I::LowRank { x, hidden, y, .. } => ByKernels(vec![Some(x), Some(hidden), Some(y)]),
        I::LowRankBackward { dy, x, hidden, dhidden, dx, .. } => {
            ByKernels(vec![Some(dy), x, Some(hidden), Some(dhidden), dx.map(|(dx, _)| dx)])
        }
        I::Norm { y, residual, normalized, out, .. } => {
            ByKernels(vec![Some(y), residual, Some(normalized), Some(out)])
        }
        I::Recover { normalized, out, .. } => ByKernels(vec![Some(normalized), Some(out)]),
        I::NormBackward { dout, normalized, dv, dy, .. } => {
            ByKernels(vec![Some(dout), Some(normalized), Some(dv), dy])
        }
        I::Activate { x, out, slope, .. } => ByKernels(vec![Some(x), Some(out), slope]),
        I::ActivateBackward { dout, x, dx, slope, .. } => {
            ByKernels(vec![Some(dout), Some(x), Some(dx), slope])
        }
        I::RmsNorm { out, .. } => ByKernels(vec![Some(out)]),
        I::RmsNormBackward { dout, .. } => ByKernels(vec![Some(dout)]),
        I::Gate { x, out, .. } => ByKernels(vec![Some(x), Some(out)]),
        I::GateBackward { dout, x, dx, .. } => ByKernels(vec![Some(dout), Some(x), Some(dx)]),
        I::Attention { qkv, out, .. } => ByKernels(vec![Some(qkv), Some(out)]),
        I::AttentionBackward { dout, qkv, dqkv, .. } => ByKernels(vec![Some(dout), Some(qkv), Some(dqkv)]),
        I::TakeRows { x, .. } => ByKernels(vec![Some(x)]),
        I::TakeRowsBackward { dx, .. } => ByKernels(vec![Some(dx)]),
        I::Attend(attend) if attend.memory_of_one_query(program).is_some() => ByKernels(vec![attend.memory]),
        I::AttendBackward(AttendBackward { forward, dmemory, .. })
            if forward.memory_of_one_query(program).is_some() =>
        {
            ByKernels(vec![forward.memory, dmemory])
        }
        I::Attend(Attend { queries, memory, out, .. }) => ByKernels(vec![Some(queries), memory, Some(out)]),
        I::AttendBackward(AttendBackward { forward, dout, dqueries, dmemory, .. }) => {
            ByKernels(vec![Some(forward.queries), forward.memory, Some(dout), dqueries, dmemory])
        }
        I::Absorbed(absorbed) => ByCopies(vec![Some(absorbed.x)]),
        I::AbsorbedBackward(AbsorbedBackward { forward, dx, .. }) => {
            ByCopies(vec![Some(forward.x), dx.map(|(dx, _)| dx)])
        }
        _ => ByCopies(Vec::new()),
    }
}
