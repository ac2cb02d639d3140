//! Derivatives of activations that are kept from the forward pass, where most of what
//! they are computed of is known: in place of what went into the activation, where
//! nobody else reads that any more.

use crate::program::build::Program;
use crate::program::instruction::{Activation, Instruction};
use crate::program::value::{Storage, ValueId};

/// Lets activations leave their derivatives for the reverse pass.
pub fn keep_slopes(program: &mut Program) {
    for place in 0..program.forward.len() {
        if let Some((x, later)) = find(program, place) {
            let extents = program.value(x).extents.clone();
            let kept = program.add_value(extents, Storage::InPlaceOf(x), false);
            for instruction in [&mut program.forward[place], &mut program.backward[later]] {
                if let Instruction::Activate { slope, .. } | Instruction::ActivateBackward { slope, .. } =
                    instruction
                {
                    *slope = Some(kept);
                }
            }
        }
    }
}

/// What goes into the activation at this place, and the place in the reverse pass of its
/// only further reader.
fn find(program: &Program, place: usize) -> Option<(ValueId, usize)> {
    let Instruction::Activate { x, activation, .. } = program.forward[place] else { return None };
    // That of the others costs no more than to keep it.
    let worth = matches!(activation, Activation::Gelu | Activation::GeluTanh | Activation::Silu);
    let root = program.root(x);
    let touches = |instruction: &Instruction| {
        instruction.accesses().iter().any(|(value, _)| program.root(*value) == root)
    };
    let output = program.outputs.iter().any(|output| program.root(output.value) == root);
    let working = program.value(root).storage == Storage::Working;
    if !worth || output || !working || program.forward[place + 1..].iter().any(touches) {
        return None;
    }
    let mut readers = program.backward.iter().enumerate().filter(|(_, instruction)| touches(instruction));
    match (readers.next(), readers.next()) {
        (Some((later, Instruction::ActivateBackward { x: read, .. })), None) if *read == x => {
            Some((x, later))
        }
        _ => None,
    }
}
