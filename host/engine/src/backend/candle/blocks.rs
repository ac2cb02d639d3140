//! Parameters, by block. Where products are of bf16, blocks in which nothing trains stay
//! with the host, exact: what a program reads of them is brought to the device once, rounded
//! where products read it and tables of values that are rounded themselves.

use std::cell::RefCell;
use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use half::bf16;

use crate::backend::BackendError;
use crate::parameters::Parameters;

type Result<T> = std::result::Result<T, BackendError>;

enum Block {
    /// Its elements in fp32, flat.
    OnDevice(Tensor),
    /// The same, of which parts are brought.
    WithHost(Vec<f32>),
}

/// A part: its block, first element and number, and whether it is rounded to bf16.
type Key = (usize, usize, usize, bool);

pub struct Blocks {
    device: Device,
    blocks: Vec<Block>,
    brought: RefCell<BTreeMap<Key, Tensor>>,
}

impl Blocks {
    /// No block.
    pub fn new(device: &Device) -> Blocks {
        Blocks { device: device.clone(), blocks: Vec::new(), brought: RefCell::default() }
    }

    /// Takes the elements of all blocks; `stay` says that those in which nothing trains stay
    /// with the host.
    ///
    /// # Errors
    /// Memory that is not to be had.
    pub fn set(&mut self, parameters: &Parameters, elements: Vec<Vec<f32>>, stay: bool) -> Result<()> {
        self.brought.take();
        self.blocks.clear();
        for (block, elements) in parameters.blocks.iter().zip(elements) {
            let count = elements.len();
            self.blocks.push(match stay && !block.trains() {
                true => Block::WithHost(elements),
                false => Block::OnDevice(Tensor::from_vec(elements, count, &self.device)?),
            });
        }
        Ok(())
    }

    /// Puts other elements in the place of a block's.
    ///
    /// # Errors
    /// Memory that is not to be had.
    pub fn write(&mut self, block: usize, elements: &[f32]) -> Result<()> {
        self.brought.get_mut().retain(|&(other, ..), _| other != block);
        match &mut self.blocks[block] {
            Block::OnDevice(tensor) => {
                *tensor = Tensor::from_slice(elements, elements.len(), &self.device)?;
            }
            Block::WithHost(kept) => kept.copy_from_slice(elements),
        }
        Ok(())
    }

    /// Puts an array of fp32 in the place of a block that is on the device.
    pub fn replace(&mut self, block: usize, array: Tensor) {
        self.blocks[block] = Block::OnDevice(array);
    }

    pub fn elements(&self, block: usize) -> usize {
        match &self.blocks[block] {
            Block::OnDevice(tensor) => tensor.elem_count(),
            Block::WithHost(elements) => elements.len(),
        }
    }

    /// The elements of a block that has stayed with the host.
    pub fn with_host(&self, block: usize) -> Option<&[f32]> {
        match &self.blocks[block] {
            Block::OnDevice(_) => None,
            Block::WithHost(elements) => Some(elements),
        }
    }

    /// Elements of a block in fp32, flat.
    ///
    /// # Errors
    /// Memory that is not to be had.
    pub fn part(&self, block: usize, first: usize, count: usize) -> Result<Tensor> {
        match &self.blocks[block] {
            Block::OnDevice(tensor) => Ok(tensor.narrow(0, first, count)?),
            Block::WithHost(elements) => self.bring((block, first, count, false), || {
                Tensor::from_slice(&elements[first..first + count], count, &self.device)
            }),
        }
    }

    /// The same rounded to bf16, where the block has stayed with the host.
    ///
    /// # Errors
    /// Memory that is not to be had.
    pub fn rounded(&self, block: usize, first: usize, count: usize) -> Result<Option<Tensor>> {
        let Some(elements) = self.with_host(block) else { return Ok(None) };
        let brought = self.bring((block, first, count, true), || {
            let halves = elements[first..first + count].iter().map(|&element| bf16::from_f32(element));
            Tensor::from_vec(halves.collect::<Vec<bf16>>(), count, &self.device)
        });
        brought.map(Some)
    }

    fn bring(&self, key: Key, make: impl FnOnce() -> candle_core::Result<Tensor>) -> Result<Tensor> {
        if let Some(known) = self.brought.borrow().get(&key) {
            return Ok(known.clone());
        }
        let made = make()?;
        self.brought.borrow_mut().insert(key, made.clone());
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::parameters::{Block as Described, Parameters};

    #[test]
    fn what_stays_with_the_host_is_exact_and_is_brought_as_it_is_asked_for() {
        let mut parameters = Parameters::default();
        parameters.blocks.push(Described { parts: Vec::new(), elements: 3 });
        let mut blocks = Blocks::new(&Device::Cpu);
        let read = |tensor: Tensor| tensor.to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap();
        // The second number has more bits than bf16.
        let elements = vec![1.0, 1.001, -3.0];
        blocks.set(&parameters, vec![elements.clone()], false).unwrap();
        assert!(blocks.with_host(0).is_none() && blocks.rounded(0, 0, 3).unwrap().is_none());
        assert_eq!(read(blocks.part(0, 1, 2).unwrap()), [1.001, -3.0]);
        blocks.set(&parameters, vec![elements.clone()], true).unwrap();
        assert_eq!(blocks.with_host(0), Some(&elements[..]));
        assert_eq!(read(blocks.part(0, 1, 2).unwrap()), [1.001, -3.0]);
        assert_eq!(read(blocks.rounded(0, 0, 2).unwrap().unwrap()), [1.0, 1.0]);
        // Others take their place in what was brought, too.
        blocks.write(0, &[2.0, 4.0, 8.0]).unwrap();
        assert_eq!(read(blocks.part(0, 1, 2).unwrap()), [4.0, 8.0]);
        assert_eq!(read(blocks.rounded(0, 0, 2).unwrap().unwrap()), [2.0, 4.0]);
    }
}
