//! Gradients, by the pieces in which they are made, and AdamW composed of candle's
//! operations.

use candle_core::{DType, Tensor};

use crate::backend::candle::Candle;
use crate::backend::{AdamW, BackendError, Number};
use crate::parameters::Parameters;

impl Candle {
    /// The gradient of a range of a block, in the pieces in which it was made.
    pub(super) fn gradient(&self, block: usize, offset: usize, count: usize) -> Result<Tensor, BackendError> {
        for (&(other, start), gradient) in self.gradients.range((block, 0)..=(block, offset)).rev() {
            if other == block && start + gradient.elem_count() >= offset + count {
                return Ok(gradient.narrow(0, offset - start, count)?);
            }
        }
        Ok(Tensor::zeros(count, DType::F32, &self.device)?)
    }

    /// Puts other elements in the place of a part of a block.
    pub(super) fn set_part(
        &mut self,
        block: usize,
        offset: usize,
        elements: Tensor,
    ) -> Result<(), BackendError> {
        let whole = self.blocks.part(block, 0, self.blocks.elements(block))?;
        let end = offset + elements.elem_count();
        let updated = match elements.elem_count() == whole.elem_count() {
            true => elements,
            false => {
                let before = whole.narrow(0, 0, offset)?;
                let behind = whole.narrow(0, end, whole.elem_count() - end)?;
                Tensor::cat(&[&before, &elements, &behind], 0)?
            }
        };
        self.blocks.replace(block, updated);
        Ok(())
    }

    /// Puts a gradient at its place in a block. Products read parameters side by
    /// side or alone, so that pieces may overlap: these become one.
    pub(super) fn set_gradient(
        &mut self,
        (block, offset): (usize, usize),
        elements: Tensor,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        let (mut start, mut sum) = (offset, elements);
        if accumulate {
            while let Some((other, other_end)) = self.overlapping(block, start, start + sum.elem_count()) {
                let Some(piece) = self.gradients.remove(&(block, other)) else { break };
                let end = start + sum.elem_count();
                let (first, last) = (start.min(other), end.max(other_end));
                let padded = piece.pad_with_zeros(0, other - first, last - other_end)?;
                sum = (sum.pad_with_zeros(0, start - first, last - end)? + padded)?;
                start = first;
            }
        }
        self.gradients.insert((block, start), sum);
        Ok(())
    }

    /// A piece of a block's gradient, from its first element to after its last, that
    /// has elements of a range.
    fn overlapping(&self, block: usize, start: usize, end: usize) -> Option<(usize, usize)> {
        let pieces = self.gradients.range((block, 0)..(block, end));
        let mut ranges = pieces.map(|(&(_, first), piece)| (first, first + piece.elem_count()));
        ranges.rfind(|&(_, last)| last > start)
    }

    /// Euclidean norm of all gradients together.
    pub(super) fn norm_of_gradients(&self) -> Result<Number, BackendError> {
        #[cfg(feature = "cuda")]
        if let Some(own) = &self.own
            && !self.gradients.is_empty()
        {
            let gradients = self.gradients.values().map(Tensor::contiguous);
            let gradients = gradients.collect::<candle_core::Result<Vec<_>>>()?;
            return Ok(Number::OnDevice(own.square_sum(&gradients, &self.device)?.sqrt()?));
        }
        let squares = self.gradients.values().map(|gradient| gradient.sqr()?.sum_all());
        let squares = squares.collect::<candle_core::Result<Vec<_>>>()?;
        Ok(match squares.is_empty() {
            true => Number::Known(0.0),
            false => Number::OnDevice(Tensor::stack(&squares, 0)?.sum_all()?.sqrt()?),
        })
    }

    /// Updates a part of a block and its moments by its gradient, multiplied by a number.
    pub(super) fn update_part(
        &mut self,
        parameters: &Parameters,
        (block, part): (usize, usize),
        rule: &AdamW,
        scale: &Number,
    ) -> Result<(), BackendError> {
        let part = &parameters.blocks[block].parts[part];
        let gradient = self.gradient(block, part.offset, part.elements)?;
        let gradient = gradient.broadcast_mul(&self.scalar(scale)?)?;
        let parameter = self.blocks.part(block, part.offset, part.elements)?;
        let [first, second] = match self.moments.remove(&(block, part.offset)) {
            Some(moments) => moments,
            None => [gradient.zeros_like()?, gradient.zeros_like()?],
        };
        let first = ((first * rule.beta1)? + (&gradient * (1.0 - rule.beta1))?)?;
        let second = ((second * rule.beta2)? + (gradient.sqr()? * (1.0 - rule.beta2))?)?;
        let correction = |beta: f64| 1.0 - beta.powf(rule.update as f64);
        let denominator = ((second.sqrt()? / correction(rule.beta2).sqrt())? + rule.epsilon)?;
        let change = ((&first / denominator)? * (rule.learning_rate / correction(rule.beta1)))?;
        let decayed = (parameter * (1.0 - rule.learning_rate * rule.weight_decay))?;
        let updated = (decayed - change)?;
        self.set_part(block, part.offset, updated)?;
        self.moments.insert((block, part.offset), [first, second]);
        let last = parameters.blocks[block].parts.iter().rfind(|part| part.trained);
        if last.is_some_and(|last| last.offset == part.offset) {
            self.gradients.retain(|&(other, _), _| other != block);
        }
        Ok(())
    }
}
