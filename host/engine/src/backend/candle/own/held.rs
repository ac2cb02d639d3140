//! What is known of the arrays that values hold: which of them no other value can hold, so
//! that kernels may write to them, and what was lately made of values for products.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};

use candle_core::Tensor;

use crate::program::value::ValueId;

/// Operands that are kept: what the projections of one input read, and the gradients of
/// their outputs.
const OPERANDS: usize = 4;

#[derive(Default)]
pub struct Held {
    /// By value that owns memory.
    alone: Vec<Cell<bool>>,
    operands: RefCell<VecDeque<(ValueId, Tensor)>>,
    /// Values that are not there: who reads them recovers them from these, what a norm has
    /// normalized, its gain and its shift.
    recovered: BTreeMap<ValueId, [Tensor; 3]>,
}

impl Held {
    /// Nothing is known of so many values.
    pub fn clear(&mut self, values: usize) {
        self.alone.clear();
        self.alone.resize(values, Cell::new(false));
        self.operands.get_mut().clear();
        self.recovered.clear();
    }

    /// The value is recovered by whoever reads it, until another takes its place.
    pub fn recover_later(&mut self, root: ValueId, from: [Tensor; 3]) {
        self.recovered.insert(root, from);
    }

    /// From what the value is to be recovered, if it is.
    pub fn recovered(&self, root: ValueId) -> Option<[Tensor; 3]> {
        self.recovered.get(&root).cloned()
    }

    /// The value holds another array now, which others may hold, too; or none.
    pub fn replaced(&mut self, root: ValueId) {
        self.recovered.remove(&root);
        self.shared(root);
        self.changed(root);
    }

    /// Somebody has the array that the value holds.
    pub fn shared(&self, root: ValueId) {
        self.alone[root.0 as usize].set(false);
    }

    /// The value holds an array that was made for it.
    pub fn made(&self, root: ValueId) {
        self.alone[root.0 as usize].set(true);
    }

    /// What was made of the value is not what it is any more.
    pub fn changed(&self, root: ValueId) {
        self.operands.borrow_mut().retain(|&(other, _)| other != root);
    }

    /// Whether the value's array may be written to.
    pub fn alone(&self, root: ValueId) -> bool {
        self.alone[root.0 as usize].get()
    }

    /// The operand that was made of a value.
    pub fn operand(&self, root: ValueId) -> Option<Tensor> {
        let operands = self.operands.borrow();
        operands.iter().find(|&&(other, _)| other == root).map(|(_, operand)| operand.clone())
    }

    pub fn keep_operand(&self, root: ValueId, operand: Tensor) {
        let mut operands = self.operands.borrow_mut();
        if operands.len() == OPERANDS {
            operands.pop_front();
        }
        operands.push_back((root, operand));
    }
}
