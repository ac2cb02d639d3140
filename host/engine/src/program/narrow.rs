//! Rows that nobody reads are not computed. A classification head reads one row
//! of each sequence, a masked-language-model head the masked rows: what works on
//! each row by itself before the head, back to the last attention, then runs on
//! the chosen rows alone.

use std::collections::BTreeMap;

use crate::program::access::Access;
use crate::program::build::Program;
use crate::program::instruction::{Instruction, RowChoice};
use crate::program::value::{Extent, Storage, ValueId};

impl RowChoice {
    /// The rows that are chosen from.
    fn all(self) -> Extent {
        match self {
            RowChoice::FirstToken | RowChoice::Virtual | RowChoice::Masked | RowChoice::Words => {
                Extent::Tokens
            }
            RowChoice::LastTarget | RowChoice::MaskedTarget => Extent::Targets,
        }
    }

    /// The rows that are chosen.
    pub(super) fn taken(self) -> Extent {
        match self {
            RowChoice::FirstToken | RowChoice::LastTarget => Extent::Sequences,
            RowChoice::Masked | RowChoice::MaskedTarget => Extent::Masked,
            RowChoice::Words => Extent::Words,
            RowChoice::Virtual => Extent::Virtual,
        }
    }
}

/// Moves the choice of rows of a forward program to the earliest place where it
/// gives the same result.
pub fn narrow(program: &mut Program) {
    let heads = [RowChoice::FirstToken, RowChoice::Masked, RowChoice::LastTarget, RowChoice::MaskedTarget];
    for choice in heads {
        let chosen = chosen_alone(program, choice);
        if chosen.contains(&true) {
            rewrite(program, choice, &chosen);
        }
    }
}

/// The values with a row a token that the instruction touches, where it works on
/// each row by itself.
fn by_row(instruction: &mut Instruction) -> Option<Vec<&mut ValueId>> {
    Some(match instruction {
        Instruction::Linear { x, y, .. } => vec![x, y],
        Instruction::AddBias { y, .. } => vec![y],
        Instruction::LowRank { x, hidden, y, .. } => vec![x, hidden, y],
        Instruction::Norm { y, residual, normalized, scale, out, .. } => {
            [y, normalized, scale, out].into_iter().chain(residual).collect()
        }
        Instruction::RmsNorm { x, scale, out, .. } => vec![x, scale, out],
        Instruction::Activate { x, out, .. }
        | Instruction::Gate { x, out, .. }
        | Instruction::Dropout { x, out, .. }
        | Instruction::Copy { x, out, .. } => vec![x, out],
        _ => return None,
    })
}

/// By value: whether it is made row by row, and read at the chosen rows alone.
fn chosen_alone(program: &Program, choice: RowChoice) -> Vec<bool> {
    let mut chosen: Vec<bool> = program
        .values
        .iter()
        .map(|value| {
            value.extents.first() == Some(&choice.all())
                && matches!(value.storage, Storage::Working | Storage::InPlaceOf(_))
        })
        .collect();
    let taken = program.forward.iter().filter_map(|instruction| match *instruction {
        Instruction::TakeRows { x, choice: its, .. } if its == choice => Some(x),
        _ => None,
    });
    if taken.count() == 0 {
        return vec![false; chosen.len()];
    }
    for output in &program.outputs {
        chosen[output.value.0 as usize] = false;
    }
    // Until nothing changes: what a reader of all rows touches is made whole,
    // and so is all of which it is made.
    loop {
        let before = chosen.clone();
        for instruction in &program.forward {
            let mut copy = instruction.clone();
            let aligned: Option<Vec<ValueId>> =
                by_row(&mut copy).map(|values| values.into_iter().map(|value| *value).collect());
            match (instruction, aligned) {
                (Instruction::TakeRows { choice: its, .. }, _) if *its == choice => {}
                (_, Some(aligned)) => {
                    let written = instruction.accesses().into_iter().filter(|(_, how)| *how != Access::Read);
                    let whole = written
                        .filter(|(value, _)| aligned.contains(value))
                        .any(|(value, _)| !chosen[value.0 as usize]);
                    if whole {
                        aligned.iter().for_each(|value| chosen[value.0 as usize] = false);
                    }
                }
                (_, None) => {
                    for (value, _) in instruction.accesses() {
                        chosen[value.0 as usize] = false;
                    }
                }
            }
        }
        // Values in one place are narrowed together.
        for value in 0..chosen.len() {
            let root = program.root(ValueId(value as u32)).0 as usize;
            let both = chosen[value] && chosen[root];
            (chosen[value], chosen[root]) = (both, both);
        }
        if chosen == before {
            return chosen;
        }
    }
}

fn rewrite(program: &mut Program, choice: RowChoice, chosen: &[bool]) {
    let rows = choice.taken();
    // A value that was made whole and then chosen from is now made where its
    // chosen rows were.
    let mut instead: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    for instruction in &program.forward {
        if let Instruction::TakeRows { x, out, .. } = *instruction
            && chosen[x.0 as usize]
        {
            instead.entry(x).or_insert(out);
        }
    }
    for (&whole, &narrowed) in &instead {
        program.values[narrowed.0 as usize].storage = program.value(whole).storage;
    }
    for value in &mut program.values {
        if let Storage::InPlaceOf(other) = &mut value.storage {
            *other = *instead.get(other).unwrap_or(other);
        }
    }
    for (value, _) in program.values.iter_mut().zip(chosen).filter(|(_, chosen)| **chosen) {
        value.extents[0] = rows;
    }
    // Rows that are chosen of a value that others read whole.
    let mut taken: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    for mut instruction in std::mem::take(&mut program.forward) {
        if let Instruction::TakeRows { x, out, .. } = instruction
            && let Some(&first) = instead.get(&x)
        {
            if first != out {
                program.forward.push(Instruction::Copy { x: first, out, accumulate: false });
            }
            continue;
        }
        let narrowed = |value: &ValueId| chosen.get(value.0 as usize).copied().unwrap_or(false);
        if let Some(aligned) = by_row(&mut instruction)
            && aligned.iter().any(|value| narrowed(value))
        {
            for value in aligned {
                *value = match narrowed(value) {
                    true => *instead.get(value).unwrap_or(value),
                    false => *taken.entry(*value).or_insert_with(|| take(program, *value, choice, rows)),
                };
            }
        }
        program.forward.push(instruction);
    }
}

/// The chosen rows of a value, taken here.
pub(super) fn take(program: &mut Program, x: ValueId, choice: RowChoice, rows: Extent) -> ValueId {
    let mut extents = program.value(x).extents.clone();
    extents[0] = rows;
    let wants_gradient = program.value(x).wants_gradient;
    let out = program.add_value(extents, Storage::Working, wants_gradient);
    program.forward.push(Instruction::TakeRows { x, out, choice });
    out
}
