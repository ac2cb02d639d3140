//! Keys and values that are not made. Attention that is asked for one query a sequence
//! needs two vectors a head and sequence in their place, where nothing of their
//! projections trains and no hook adds to them.

use crate::parameters::{Parameters, Part};
use crate::program::access::Access;
use crate::program::attend::Attend;
use crate::program::backward::Reverse;
use crate::program::build::Program;
use crate::program::instruction::{Dropout, Instruction};
use crate::program::value::{Extent, Sizes, Storage, ValueId};

/// Softmax attention of one query a sequence over the rows of x, whose keys and values
/// are x weight^T + bias and are not made (DeepSeek-AI 2024, section 2.1.2).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Absorbed {
    /// [sequences, heads * size].
    pub queries: ValueId,
    /// [tokens, inputs].
    pub x: ValueId,
    /// Projections of keys and of values, one below the other, [2 * heads * size, inputs].
    pub weight: ValueId,
    /// That of keys changes nothing.
    pub bias: Option<ValueId>,
    pub heads: usize,
    pub scale: f32,
    /// [sequences, heads * size].
    pub out: ValueId,
    /// What each head's query is multiplied with x by, [sequences, heads * inputs].
    pub moved: ValueId,
    /// By sequence and head, [heads * tokens]. A backend may compute both again.
    pub probabilities: ValueId,
    /// Working memory, [sequences, heads * inputs].
    pub means: ValueId,
    pub dropout: Option<Dropout>,
}

/// Gradients of [`Absorbed`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AbsorbedBackward {
    pub forward: Absorbed,
    pub dout: ValueId,
    pub dqueries: Option<ValueId>,
    /// That of x, and whether it is added to.
    pub dx: Option<(ValueId, bool)>,
    /// Working memory, [sequences, heads * inputs] each.
    pub dmeans: ValueId,
    pub dmoved: ValueId,
}

impl Absorbed {
    /// All values that the instruction touches.
    pub fn accesses(&self) -> Vec<(ValueId, Access)> {
        let read = [Some(self.queries), Some(self.x), Some(self.weight), self.bias];
        let read = read.into_iter().flatten().map(|value| (value, Access::Read));
        let written = [self.out, self.moved, self.probabilities, self.means];
        read.chain(written.map(|value| (value, Access::Write))).collect()
    }
}

impl AbsorbedBackward {
    /// All values that the instruction touches.
    pub fn accesses(&self) -> Vec<(ValueId, Access)> {
        let Absorbed { queries, x, weight, bias, moved, probabilities, .. } = self.forward;
        let read = [Some(queries), Some(x), Some(weight), bias, Some(moved), Some(probabilities)];
        let read = read.into_iter().flatten().chain([self.dout]).map(|value| (value, Access::Read));
        let written = [self.dqueries, Some(self.dmeans), Some(self.dmoved)];
        let written = written.into_iter().flatten().map(|value| (value, Access::Write));
        let dx = self.dx.map(|(dx, adds)| (dx, if adds { Access::Update } else { Access::Write }));
        read.chain(written).chain(dx).collect()
    }
}

/// What makes the keys and values of an attention: rows, weight and bias.
struct Projections {
    x: ValueId,
    weight: ValueId,
    bias: Option<ValueId>,
}

/// Rewrites attention of one query a sequence whose keys and values are frozen
/// projections of rows.
pub fn absorb_projections(program: &mut Program, parameters: &Parameters) {
    let found = program.forward.iter().find_map(|instruction| {
        let Instruction::Attend(attend) = *instruction else { return None };
        Some((attend, attend.memory?, find(program, parameters, &attend)?))
    });
    let Some((attend, memory, Projections { x, weight, bias })) = found else { return };
    let Attend { queries, heads, scale, out, dropout, .. } = attend;
    let inputs = program.value(x).extents[1];
    let Extent::Fixed(columns) = inputs else { return };
    let mut working = |extents: Vec<Extent>| program.add_value(extents, Storage::Working, false);
    let of_heads = vec![Extent::Sequences, Extent::Fixed(heads * columns)];
    let (moved, means) = (working(of_heads.clone()), working(of_heads));
    let probabilities = working(vec![Extent::TokensTimes(heads)]);
    let absorbed =
        Absorbed { queries, x, weight, bias, heads, scale, out, moved, probabilities, means, dropout };
    program.forward.retain_mut(|instruction| match instruction {
        Instruction::Attend(other) if *other == attend => {
            *instruction = Instruction::Absorbed(absorbed);
            true
        }
        Instruction::Linear { y, .. } | Instruction::AddBias { y, .. } => *y != memory,
        _ => true,
    });
}

/// The frozen projections that make all of an attention's keys and values.
fn find(program: &Program, parameters: &Parameters, attend: &Attend) -> Option<Projections> {
    let &Attend { queries, memory: Some(memory), bias: None, causal: false, .. } = attend else {
        return None;
    };
    let kept = program.outputs.iter().any(|output| program.root(output.value) == memory);
    let of_sequences = program.value(queries).extents[0] == Extent::Sequences;
    if kept || !of_sequences || program.value(memory).storage != Storage::Working {
        return None;
    }
    let touching = program
        .forward
        .iter()
        .filter(|instruction| instruction.accesses().iter().any(|(value, _)| program.root(*value) == memory));
    let frozen = |parameter: ValueId| {
        let value = program.value(parameter);
        let Storage::Parameter { block, offset } = value.storage else { return false };
        // It may be a part of a larger one, of which something else trains.
        let range = offset..offset + value.elements(&Sizes::default());
        let inside = |part: &Part| part.offset < range.end && range.start < part.offset + part.elements;
        let trained = parameters.blocks[block].parts.iter().any(|part| part.trained && inside(part));
        let whole = value.extents[0] == program.value(memory).extents[1];
        whole && !(value.wants_gradient && trained)
    };
    let (mut linear, mut added) = (None, None);
    for instruction in touching {
        match *instruction {
            Instruction::Linear { x, weight, y, .. } if y == memory && linear.is_none() && frozen(weight) => {
                linear = Some((x, weight));
            }
            Instruction::AddBias { y, bias, .. } if y == memory && added.is_none() && frozen(bias) => {
                added = Some(bias);
            }
            Instruction::Attend(ref other) if other == attend => {}
            _ => return None,
        }
    }
    linear.map(|(x, weight)| Projections { x, weight, bias: added })
}

impl Reverse<'_> {
    /// The reverse rule of [`Absorbed`].
    pub(super) fn absorbed(&mut self, forward: Absorbed) {
        let Some(dout) = self.gradient(forward.out) else { return };
        let dqueries = self.wants(forward.queries).then(|| self.like(forward.queries));
        let dx = self.wants(forward.x).then(|| self.target(forward.x));
        let (dmeans, dmoved) = (self.like(forward.means), self.like(forward.moved));
        self.push(Instruction::AbsorbedBackward(AbsorbedBackward {
            forward,
            dout,
            dqueries,
            dx,
            dmeans,
            dmoved,
        }));
        if let Some(dqueries) = dqueries {
            self.hand_over(forward.queries, dqueries);
        }
    }
}
