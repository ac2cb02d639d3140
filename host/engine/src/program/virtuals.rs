//! Gradients of real tokens that end at frozen embeddings are not computed. Where
//! nothing below the first block trains but a prompt, the reverse pass goes on with the
//! virtual rows alone from the queries, keys and values of that block down.

use std::collections::BTreeSet;

use crate::program::access::Access;
use crate::program::attend::AttendBackward;
use crate::program::build::Program;
use crate::program::instruction::{Instruction, RowChoice};
use crate::program::value::{Extent, Storage, Value, ValueId};

/// Narrows gradients of which the virtual rows alone are read.
pub fn narrow_to_virtual(program: &mut Program) {
    let chosen = read_at_virtual_rows(program);
    if chosen.is_empty() {
        return;
    }
    for mut instruction in std::mem::take(&mut program.backward) {
        let mut taken = Vec::new();
        if is_narrow(&instruction, &chosen) {
            let aligned = by_row(&mut instruction).unwrap_or_default();
            for value in aligned.into_iter().filter(|value| !chosen.contains(value)) {
                *value = take(program, *value);
            }
        } else {
            // All rows are made where somebody reads those of another output.
            for out in wholly_made(&mut instruction).into_iter().filter(|out| chosen.contains(out)) {
                let extents = program.value(*out).extents.clone();
                let x = program.add_value(extents, Storage::Working, false);
                taken.push(Instruction::TakeRows { x, out: *out, choice: RowChoice::Virtual });
                *out = x;
            }
        }
        program.backward.push(instruction);
        program.backward.extend(taken);
    }
    for value in chosen {
        program.values[value.0 as usize].extents[0] = Extent::Virtual;
    }
}

/// The values that an instruction writes or adds to.
fn writes(instruction: &Instruction) -> impl Iterator<Item = ValueId> + use<> {
    let accesses = instruction.accesses().into_iter();
    accesses.filter(|(_, access)| *access != Access::Read).map(|(value, _)| value)
}

/// Whether an instruction works on virtual rows alone.
fn is_narrow(instruction: &Instruction, chosen: &BTreeSet<ValueId>) -> bool {
    let by_row = by_row(&mut instruction.clone()).is_some();
    by_row && writes(instruction).all(|value| chosen.contains(&value))
}

/// The outputs of an instruction that has all rows of what it reads.
fn wholly_made(instruction: &mut Instruction) -> Vec<&mut ValueId> {
    match instruction {
        Instruction::NormBackward { dv, dy, .. } => std::iter::once(dv).chain(dy).collect(),
        Instruction::DisentangledBackward { dqkv, .. } => vec![dqkv],
        Instruction::AttendBackward(AttendBackward { dqueries, .. }) => dqueries.iter_mut().collect(),
        _ => Vec::new(),
    }
}

/// The values with a row a token that an instruction of the reverse pass touches, where
/// it works on each row by itself.
fn by_row(instruction: &mut Instruction) -> Option<Vec<&mut ValueId>> {
    Some(match instruction {
        Instruction::LinearInputGradient { dy, dx, .. } => vec![dy, dx],
        Instruction::NormBackward {
            dout,
            normalized,
            scale,
            dv,
            dy,
            dgain: None,
            dshift: None,
            dbias: None,
            ..
        } => [dout, normalized, scale, dv].into_iter().chain(dy).collect(),
        Instruction::RmsNormBackward { dout, x, scale, dx, dgain: None, .. } => vec![dout, x, scale, dx],
        Instruction::Dropout { x, out, .. } | Instruction::Copy { x, out, .. } => vec![x, out],
        _ => return None,
    })
}

/// Gradients with a row a token of which nobody reads but virtual rows.
fn read_at_virtual_rows(program: &Program) -> BTreeSet<ValueId> {
    let prompted = |instruction: &Instruction| match *instruction {
        Instruction::EmbedBackward { gradient, word: None, position: None, token_type: None, .. } => {
            Some(gradient)
        }
        _ => None,
    };
    if !program.backward.iter().any(|instruction| prompted(instruction).is_some()) {
        return BTreeSet::new();
    }
    let all = (0..program.values.len() as u32).map(ValueId);
    let viewed: BTreeSet<ValueId> =
        all.filter(|&value| program.root(value) != value).map(|view| program.root(view)).collect();
    let forward: BTreeSet<ValueId> =
        program.forward.iter().flat_map(Instruction::accesses).map(|(value, _)| value).collect();
    let mut chosen: BTreeSet<ValueId> = program.backward.iter().flat_map(writes).collect();
    chosen.retain(|&value| {
        let Value { extents, storage, .. } = program.value(value);
        let by_token = *storage == Storage::Working && extents.first() == Some(&Extent::Tokens);
        by_token && !viewed.contains(&value) && !forward.contains(&value)
    });
    // Until nothing changes: what works on all rows needs all rows of what it reads, adds
    // to all rows, and seldom has outputs that can be made apart.
    loop {
        let before = chosen.len();
        for instruction in &program.backward {
            if is_narrow(instruction, &chosen) {
                continue;
            }
            let mut copy = instruction.clone();
            let mut apart: Vec<ValueId> = wholly_made(&mut copy).into_iter().map(|value| *value).collect();
            if let Instruction::AttentionBackward { dqkv, .. } = *instruction {
                apart.push(dqkv);
            }
            for (value, access) in instruction.accesses() {
                let made = access == Access::Write && apart.contains(&value);
                if !made && prompted(instruction) != Some(value) {
                    chosen.remove(&value);
                }
            }
        }
        if chosen.len() == before {
            return chosen;
        }
    }
}

/// The virtual rows of a value, taken here.
fn take(program: &mut Program, x: ValueId) -> ValueId {
    let mut extents = program.value(x).extents.clone();
    // One number a row is a matrix of one column.
    let single = extents.len() == 1;
    let mut from = x;
    if single {
        extents.push(Extent::Fixed(1));
        from = program.add_value(extents.clone(), Storage::InPlaceOf(x), false);
    }
    extents[0] = Extent::Virtual;
    let out = program.add_value(extents, Storage::Working, false);
    program.backward.push(Instruction::TakeRows { x: from, out, choice: RowChoice::Virtual });
    match single {
        true => program.add_value(vec![Extent::Virtual], Storage::InPlaceOf(out), false),
        false => out,
    }
}
