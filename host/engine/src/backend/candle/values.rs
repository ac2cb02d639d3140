//! What values hold: arrays of fp32 or bf16, some of them parts of parameters.

use candle_core::{DType, Tensor};

use crate::backend::BackendError;
use crate::backend::candle::Candle;
#[cfg(feature = "cuda")]
use crate::backend::candle::products::Products;
use crate::compile::Compiled;
use crate::program::access::Access;
use crate::program::build::Program;
use crate::program::instruction::Instruction;
use crate::program::value::{Storage, ValueId};

impl Candle {
    /// The first elements of memory that outlives a run, where they lie, if there are so many;
    /// else zeros behind those that there are.
    pub(super) fn remembered(&self, slot: usize, count: usize) -> Result<Tensor, BackendError> {
        let Some(kept) = self.kept.get(&slot) else {
            return Ok(Tensor::zeros(count, DType::F32, &self.device)?);
        };
        let known = kept.elem_count();
        if known >= count {
            return Ok(kept.narrow(0, 0, count)?);
        }
        let zeros = Tensor::zeros(count - known, DType::F32, &self.device)?;
        Ok(Tensor::cat(&[kept, &zeros], 0)?)
    }

    /// By value: whether it is stored in bf16, which kernels of our own read and write.
    pub(super) fn stored_halves(&self, compiled: &Compiled) -> Vec<bool> {
        #[cfg(feature = "cuda")]
        if self.own.is_some() && self.products == Products::Bf16 {
            return compiled.halves.clone();
        }
        vec![false; compiled.halves.len()]
    }

    /// What a value is stored in.
    pub(super) fn stored(&self, value: ValueId) -> DType {
        if self.halves[value.0 as usize] { DType::BF16 } else { DType::F32 }
    }

    /// The elements of a value as an array of its shape, in fp32, which may be kept.
    pub(super) fn get(&self, program: &Program, value: ValueId) -> Result<Tensor, BackendError> {
        let held = self.peek(program, value)?;
        #[cfg(feature = "cuda")]
        if held.dtype() == DType::F32 {
            self.held.shared(program.root(value));
        }
        Ok(held.to_dtype(DType::F32)?)
    }

    /// The same as it is stored, to be read and not to be kept.
    pub(super) fn peek(&self, program: &Program, value: ValueId) -> Result<Tensor, BackendError> {
        let root = program.root(value);
        let sizes = program.value(value).sizes(&self.sizes);
        let count: usize = sizes.iter().product();
        let flat = match program.value(root).storage {
            Storage::Parameter { block, offset } => self.blocks.part(block, offset, count)?,
            Storage::Gradient { block, offset } => self.gradient(block, offset, count)?,
            Storage::Kept { slot } => self.remembered(slot, count)?,
            Storage::Working | Storage::InPlaceOf(_) => {
                let held = self.values[root.0 as usize].clone();
                held.ok_or_else(|| {
                    BackendError::Wrong(format!("value {} is read before it is written", value.0))
                })?
            }
        };
        Ok(flat.reshape(sizes)?)
    }

    /// Whether an instruction reads a value without elements, or writes such values alone,
    /// as all that follows from the masked rows of a batch where no token is masked. Several
    /// of candle's operations refuse such arrays. Probabilities of attention are none of
    /// them: this backend keeps none, and long sequences have none that could be kept.
    pub(super) fn works_on_nothing(&self, program: &Program, instruction: &Instruction) -> bool {
        let unread = match *instruction {
            Instruction::AttentionBackward { kept, .. } => Some(kept),
            _ => None,
        };
        let accesses = instruction.accesses();
        let (read, written): (Vec<_>, Vec<_>) =
            accesses.into_iter().partition(|&(_, access)| access == Access::Read);
        let nothing = |value: ValueId| program.value(value).elements(&self.sizes) == 0;
        read.iter().any(|&(value, _)| Some(value) != unread && nothing(value))
            || (!written.is_empty() && written.iter().all(|&(value, _)| nothing(value)))
    }

    /// What an instruction makes of nothing: zeros, and nothing is added.
    pub(super) fn give_nothing(
        &mut self,
        program: &Program,
        instruction: &Instruction,
    ) -> Result<(), BackendError> {
        for (value, access) in instruction.accesses() {
            if access != Access::Read {
                let (sizes, dtype) =
                    (program.value(value).sizes(&self.sizes), self.stored(program.root(value)));
                let zeros = Tensor::zeros(sizes, dtype, &self.device)?;
                self.set(program, value, zeros, access == Access::Update)?;
            }
        }
        Ok(())
    }

    /// A weight or a table, of its shape: where products are of bf16 and it does not train, in
    /// that, and else in fp32.
    pub(super) fn weight(&self, program: &Program, value: ValueId) -> Result<Tensor, BackendError> {
        if let Storage::Parameter { block, offset } = program.value(value).storage {
            let sizes = program.value(value).sizes(&self.sizes);
            if let Some(rounded) = self.blocks.rounded(block, offset, sizes.iter().product())? {
                return Ok(rounded.reshape(sizes)?);
            }
        }
        self.get(program, value)
    }

    /// Puts elements at a value's place, added to what is there if so said.
    pub(super) fn set(
        &mut self,
        program: &Program,
        value: ValueId,
        elements: Tensor,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        let root = program.root(value);
        #[cfg(feature = "cuda")]
        self.held.replaced(root);
        if let Storage::Gradient { block, offset } = program.value(root).storage {
            return self.set_gradient((block, offset), elements.flatten_all()?, accumulate);
        }
        if let Storage::Kept { slot } = program.value(root).storage {
            let flat = elements.flatten_all()?;
            let sum = match accumulate {
                true => (self.remembered(slot, flat.elem_count())? + flat)?,
                false => flat,
            };
            self.kept.insert(slot, sum);
            return Ok(());
        }
        let held = self.values[root.0 as usize].take();
        let elements = match held {
            Some(held) if accumulate => {
                let held = held.to_dtype(DType::F32)?.reshape(elements.shape())?;
                (held + elements.to_dtype(DType::F32)?)?
            }
            _ => elements.contiguous()?,
        };
        self.values[root.0 as usize] = Some(elements.to_dtype(self.stored(root))?);
        Ok(())
    }
}
