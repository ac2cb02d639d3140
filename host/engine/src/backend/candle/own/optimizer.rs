//! AdamW over all tensors that train, in one launch.

use candle_core::{Device, Tensor};

use super::kernels::ADAMW;
use super::launch::Own;
use super::numbers::AdamW as Numbers;
use crate::backend::candle::Candle;
use crate::backend::{AdamW, BackendError, Number};
use crate::parameters::Parameters;

type Result<T> = std::result::Result<T, BackendError>;

/// Elements that a warp updates.
const PIECE: usize = 1024;

/// A tensor that trains, with its gradient and its moments, flat; and the rule by
/// which it is updated.
pub struct Trained {
    pub parameter: Tensor,
    pub gradient: Tensor,
    pub moments: [Tensor; 2],
    pub rule: AdamW,
}

/// The kernel's structure of the same name.
#[repr(C)]
#[derive(Clone, Copy)]
struct Entry {
    /// Addresses of parameter, gradient and both moments.
    arrays: [u64; 4],
    elements: i64,
    first_piece: i64,
    factors: [f32; 8],
}

impl Entry {
    /// As words of 32 bits, in which tables go to a device.
    fn words(self) -> Vec<u32> {
        let wide = self.arrays.into_iter().chain([self.elements as u64, self.first_piece as u64]);
        let wide = wide.flat_map(|word| [word as u32, (word >> 32) as u32]);
        wide.chain(self.factors.into_iter().map(f32::to_bits)).collect()
    }
}

/// Factors of an update in the precision of the parameters, as in
/// `kernels::adamw`.
fn factors(rule: &AdamW) -> [f32; 8] {
    let correction = |beta: f64| 1.0 - beta.powf(rule.update as f64);
    [
        1.0 - rule.learning_rate * rule.weight_decay,
        rule.beta1,
        1.0 - rule.beta1,
        rule.beta2,
        1.0 - rule.beta2,
        rule.learning_rate / correction(rule.beta1),
        1.0 / correction(rule.beta2).sqrt(),
        rule.epsilon,
    ]
    .map(|factor| factor as f32)
}

impl Own {
    /// Updates all of the tensors by their gradients, multiplied by a number on the
    /// device. On a GPU that happens where they lie; on candle's CPU device, whose
    /// tensors cannot be written to, others take their place.
    ///
    /// # Errors
    /// What the driver says; nothing has changed then.
    pub fn update(&self, trained: &mut [Trained], scale: &Tensor, device: &Device) -> Result<()> {
        let mut copies = match self.on_gpu() {
            true => Vec::new(),
            false => trained.iter().map(copy).collect::<Result<Vec<_>>>()?,
        };
        let (mut table, mut pieces) = (Vec::new(), 0);
        for (number, tensor) in trained.iter().enumerate() {
            let elements = tensor.parameter.elem_count();
            let arrays = match copies.get_mut(number) {
                Some(copy) => copy.each_mut().map(|array| array.as_mut_ptr() as u64),
                None => {
                    let [first, second] = &tensor.moments;
                    let arrays = [&tensor.parameter, &tensor.gradient, first, second];
                    let mut addresses = [0; 4];
                    for (address, array) in addresses.iter_mut().zip(arrays) {
                        *address = self.address(array)?;
                    }
                    addresses
                }
            };
            let entry = Entry {
                arrays,
                elements: elements as i64,
                first_piece: pieces,
                factors: factors(&tensor.rule),
            };
            table.extend(entry.words());
            pieces += elements.div_ceil(PIECE) as i64;
        }
        let numbers = Numbers { rows: pieces, tensors: trained.len() as i64, piece: PIECE as i64 };
        let words = table.len();
        let table = Tensor::from_vec(table, words, device)?;
        self.run_in_place(&ADAMW, numbers, &[&table, scale])?;
        for (tensor, [parameter, _, first, second]) in trained.iter_mut().zip(copies) {
            let array = |elements: Vec<f32>| {
                let count = elements.len();
                Tensor::from_vec(elements, count, device)
            };
            tensor.parameter = array(parameter)?;
            tensor.moments = [array(first)?, array(second)?];
        }
        Ok(())
    }
}

impl Candle {
    /// Updates parts of blocks, named by block and place, each by its rule and its
    /// gradient, multiplied by a number.
    pub(in crate::backend::candle) fn update_at_once(
        &mut self,
        own: &Own,
        parameters: &Parameters,
        rules: &[(usize, usize, AdamW)],
        scale: &Number,
    ) -> Result<()> {
        // All memory is taken before anything changes.
        let mut trained = Vec::with_capacity(rules.len());
        for &(block, place, rule) in rules {
            let part = &parameters.blocks[block].parts[place];
            let gradient = self.gradient(block, part.offset, part.elements)?.contiguous()?;
            let moments = match self.moments.get(&(block, part.offset)) {
                Some(moments) => moments.clone(),
                None => [gradient.zeros_like()?, gradient.zeros_like()?],
            };
            let parameter = self.blocks.part(block, part.offset, part.elements)?;
            trained.push(Trained { parameter, gradient, moments, rule });
        }
        own.update(&mut trained, &self.scalar(scale)?, &self.device)?;
        for (&(block, place, _), tensor) in rules.iter().zip(trained) {
            let part = &parameters.blocks[block].parts[place];
            if !own.on_gpu() {
                self.set_part(block, part.offset, tensor.parameter)?;
            }
            self.moments.insert((block, part.offset), tensor.moments);
        }
        self.gradients.clear();
        Ok(())
    }
}

/// The elements of parameter, gradient and moments.
fn copy(trained: &Trained) -> Result<[Vec<f32>; 4]> {
    let [first, second] = &trained.moments;
    let arrays = [&trained.parameter, &trained.gradient, first, second].map(Tensor::to_vec1::<f32>);
    let [parameter, gradient, first, second] = arrays;
    Ok([parameter?, gradient?, first?, second?])
}
