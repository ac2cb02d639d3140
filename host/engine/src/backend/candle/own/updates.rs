//! Instructions of low-rank updates where products are of bf16: by the kernels of `low_rank.rs`,
//! those of one input together, as of queries and values.

use candle_core::Tensor;

use super::launch::Own;
use super::low_rank::{Dropped, Factor, RANKS, Source, Update, Wide};
use super::numbers::{Mask, Packing, UPDATES};
use crate::backend::BackendError;
use crate::backend::candle::products::Products;
use crate::backend::candle::{Candle, masks};
use crate::program::build::Program;
use crate::program::instruction::{Dropout, Instruction};
use crate::program::value::ValueId;

type Result<T> = std::result::Result<T, BackendError>;

/// What is alike of updates that kernels work on together: the wide values, shapes, scale, with
/// which probability rows are dropped, and whether factors train.
#[derive(PartialEq)]
struct Alike {
    values: [Option<ValueId>; 3],
    shapes: [(usize, usize); 2],
    scale: f32,
    probability: Option<f32>,
    trains: [bool; 2],
}

/// Where an update's columns begin in its result.
fn first_column(update: &Instruction) -> usize {
    match *update {
        Instruction::LowRank { first_column, .. } | Instruction::LowRankBackward { first_column, .. } => {
            first_column
        }
        _ => 0,
    }
}

impl Candle {
    fn alike(&self, program: &Program, update: &Instruction) -> Option<Alike> {
        let shapes = |a: ValueId, b: ValueId| [self.shape(program, a), self.shape(program, b)];
        match *update {
            Instruction::LowRank { x, a, b, y, scale, dropout, .. } => Some(Alike {
                values: [Some(x), Some(y), None],
                shapes: shapes(a, b),
                scale,
                probability: dropout.map(|dropout| dropout.probability),
                trains: [false; 2],
            }),
            Instruction::LowRankBackward { dy, x, a, b, da, db, dx, scale, dropout, .. } => Some(Alike {
                values: [Some(dy), x, dx.map(|(dx, _)| dx)],
                shapes: shapes(a, b),
                scale,
                probability: dropout.map(|dropout| dropout.probability),
                trains: [da.is_some(), db.is_some()],
            }),
            _ => None,
        }
    }

    /// By how much the columns of each update lie behind those of the one before, where kernels
    /// can work on all of them together.
    pub(super) fn step_between(&self, program: &Program, updates: &[Instruction]) -> Option<usize> {
        let alike = self.alike(program, updates.first()?)?;
        let (rank, _) = alike.shapes[0];
        let same = updates.iter().all(|update| self.alike(program, update).as_ref() == Some(&alike));
        let steps = updates.windows(2).map(|pair| first_column(&pair[1]).checked_sub(first_column(&pair[0])));
        let steps = steps.collect::<Option<Vec<usize>>>()?;
        let step = steps.first().copied().unwrap_or(0);
        let spaced = steps.iter().all(|&other| other == step && step >= alike.shapes[1].0);
        (self.by_kernels(rank) && same && spaced && updates.len() <= UPDATES).then_some(step)
    }

    /// Updates from this instruction on whose gradients kernels compute together, in the order of
    /// their columns, and the step between these; none where no kernel computes its own.
    fn backward_together(
        &self,
        program: &Program,
        instruction: &Instruction,
    ) -> Option<(Vec<Instruction>, usize)> {
        let mut updates = vec![instruction.clone()];
        let mut step = self.step_between(program, &updates)?;
        for next in program.instructions().skip(self.place + 1) {
            let mut more = [&updates[..], std::slice::from_ref(next)].concat();
            more.sort_by_key(first_column);
            let Some(wider) = self.step_between(program, &more) else { break };
            (updates, step) = (more, wider);
        }
        Some((updates, step))
    }

    /// Runs an instruction of a low-rank update; answers whether it is one. Those that are run
    /// with it are counted in `ahead`.
    pub(super) fn run_low_rank(
        &mut self,
        own: &Own,
        program: &Program,
        instruction: &Instruction,
    ) -> Result<bool> {
        match instruction {
            Instruction::LowRank { .. } => {
                let updates = std::slice::from_ref(instruction);
                match self.step_between(program, updates) {
                    Some(step) => self.run_updates(own, program, updates, step, &[])?,
                    None => self.run_by_products(own, program, instruction)?,
                }
            }
            Instruction::LowRankBackward { .. } => match self.backward_together(program, instruction) {
                Some((updates, step)) => {
                    // The first of the program says whether there is a gradient to add to.
                    let adds =
                        matches!(instruction, Instruction::LowRankBackward { dx: Some((_, true)), .. });
                    self.run_backward(own, program, &updates, step, adds)?;
                    self.ahead = updates.len() - 1;
                }
                None => self.run_backward_by_products(own, program, instruction)?,
            },
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Runs low-rank updates by kernels, added to their result; or in its place, with the biases
    /// of their columns.
    pub(super) fn run_updates(
        &mut self,
        own: &Own,
        program: &Program,
        updates: &[Instruction],
        step: usize,
        biases: &[&Tensor],
    ) -> Result<()> {
        let Some(&Instruction::LowRank { x, a, b, y, first_column, scale, .. }) = updates.first() else {
            return Ok(());
        };
        let ((rank, inputs), (outputs, _)) = (self.shape(program, a), self.shape(program, b));
        let (rows, pitch) = self.shape(program, y);
        let (mut factors, mut hiddens, mut dropouts) = (Vec::new(), Vec::new(), Vec::new());
        for update in updates {
            if let Instruction::LowRank { a, b, hidden, dropout, .. } = *update {
                factors.push([self.weight(program, a)?, self.weight(program, b)?]);
                hiddens.push(hidden);
                dropouts.push(dropout);
            }
        }
        let of = |which: usize| factors.iter().map(|pair| &pair[which]).collect::<Vec<&Tensor>>();
        // Rows of all updates lie one behind the other.
        let dtype = self.stored(program.root(hiddens[0]));
        let count = rows * rank;
        // SAFETY: all of it is written.
        let low = unsafe { Tensor::empty(updates.len() * count, dtype, &self.device) }?;
        let wide = Wide { rows, columns: inputs, first: 0, step: 0, pitch: inputs, rank };
        let dropped = self.dropped(program, x, dropouts.into_iter())?;
        let by_a = Factor { array: &of(0)[..], across: false, scale: 1.0 };
        own.low_rank_down(wide, &self.peek(program, x)?, dropped.as_ref(), by_a, &low)?;
        for (update, &hidden) in hiddens.iter().enumerate() {
            self.set(program, hidden, low.narrow(0, update * count, count)?, false)?;
        }
        let lows = hiddens.iter().map(|&hidden| self.operand(own, program, hidden));
        let lows = lows.collect::<Result<Vec<Tensor>>>()?;
        let wide = Wide { rows, columns: outputs, first: first_column, step, pitch, rank };
        let by_b = Factor { array: &of(1)[..], across: true, scale };
        let result = self.writable(program, y, false)?;
        let update = Update { out: &result, adds: biases.is_empty(), biases };
        own.low_rank_up(wide, &lows.iter().collect::<Vec<_>>(), None, by_b, update)
    }

    /// Runs the gradients of low-rank updates by kernels; `adds` says whether the gradient of
    /// their input is added to.
    fn run_backward(
        &mut self,
        own: &Own,
        program: &Program,
        updates: &[Instruction],
        step: usize,
        adds: bool,
    ) -> Result<()> {
        let Some(&Instruction::LowRankBackward { dy, x, a, b, da, db, dx, first_column, scale, .. }) =
            updates.first()
        else {
            return Ok(());
        };
        let ((rank, inputs), (outputs, _)) = (self.shape(program, a), self.shape(program, b));
        let (rows, pitch) = self.shape(program, dy);
        let (mut factors, mut hiddens, mut dropouts) = (Vec::new(), Vec::new(), Vec::new());
        let mut gradients = Vec::new();
        for update in updates {
            if let Instruction::LowRankBackward { a, b, hidden, da, db, dropout, .. } = *update {
                factors.push([self.weight(program, a)?, self.weight(program, b)?]);
                hiddens.push(hidden);
                dropouts.push(dropout);
                gradients.push([da, db]);
            }
        }
        let by_b: Vec<&Tensor> = factors.iter().map(|pair| &pair[1]).collect();
        let count = rows * rank;
        // SAFETY: all of it is written.
        let low = unsafe { Tensor::empty(updates.len() * count, self.products.operands(), &self.device) }?;
        let wide = Wide { rows, columns: outputs, first: first_column, step, pitch, rank };
        let gradient = self.peek(program, dy)?;
        own.low_rank_down(wide, &gradient, None, Factor { array: &by_b, across: true, scale }, &low)?;
        if db.is_some() {
            let lows = hiddens.iter().map(|&hidden| self.operand(own, program, hidden));
            let lows = lows.collect::<Result<Vec<Tensor>>>()?;
            let lows: Vec<&Tensor> = lows.iter().collect();
            let of = Factor { array: (), across: true, scale };
            let sums = own.low_rank_gradient(wide, Source::new(&gradient, None), &lows, of)?;
            self.set_each(program, gradients.iter().map(|pair| pair[1]), &sums)?;
        }
        let lows = (0..updates.len()).map(|update| low.narrow(0, update * count, count));
        let lows = lows.collect::<candle_core::Result<Vec<Tensor>>>()?;
        let wide = Wide { rows, columns: inputs, first: 0, step: 0, pitch: inputs, rank };
        if let (Some(_), Some(x)) = (da, x) {
            let dropped = self.dropped(program, x, dropouts.iter().copied())?;
            let lows: Vec<&Tensor> = lows.iter().collect();
            let of = Factor { array: (), across: false, scale: 1.0 };
            let (array, vectors) = match self.held.recovered(program.root(x)) {
                Some([normalized, gain, shift]) => (normalized, Some([gain, shift])),
                None => (self.peek(program, x)?, None),
            };
            let recovered = vectors.as_ref().map(|vectors| vectors.each_ref());
            let source = Source { array: &array, recovered, dropped: dropped.as_ref() };
            let sums = own.low_rank_gradient(wide, source, &lows, of)?;
            self.set_each(program, gradients.iter().map(|pair| pair[0]), &sums)?;
        }
        let Some((dx, _)) = dx else { return Ok(()) };
        let by_a: Vec<&Tensor> = factors.iter().map(|pair| &pair[0]).collect();
        let by_a = Factor { array: &by_a[..], across: false, scale: 1.0 };
        let dropped = self.dropped(program, dx, dropouts.into_iter())?;
        let out = self.writable(program, dx, !adds)?;
        let lows: Vec<&Tensor> = lows.iter().collect();
        own.low_rank_up(wide, &lows, dropped.as_ref(), by_a, Update { out: &out, adds, biases: &[] })
    }

    /// Whether what is recovered from a norm here is read by gradients of low-rank updates alone,
    /// for which kernels recover it: it is neither written nor read again then.
    pub(super) fn is_recovered_later(&self, program: &Program, out: ValueId) -> bool {
        let root = program.root(out);
        if program.outputs.iter().any(|output| program.root(output.value) == root) {
            return false;
        }
        let last = self.last_use[root.0 as usize];
        let rest = program.instructions().skip(self.place + 1).take(last.saturating_sub(self.place));
        let mut readers =
            rest.filter(|reader| reader.accesses().iter().any(|&(value, _)| program.root(value) == root));
        readers.all(|reader| match *reader {
            Instruction::LowRankBackward { dy, x: Some(_), a, dx, .. } => {
                let others = [Some(dy), dx.map(|(dx, _)| dx)];
                let alone = others.iter().flatten().all(|&value| program.root(value) != root);
                alone && self.by_kernels(self.shape(program, a).0)
            }
            _ => false,
        })
    }

    /// Adds what lies one behind the other to gradients of as many elements each.
    fn set_each(
        &mut self,
        program: &Program,
        gradients: impl Iterator<Item = Option<ValueId>>,
        sums: &Tensor,
    ) -> Result<()> {
        let mut start = 0;
        for gradient in gradients.flatten() {
            let count = program.value(gradient).elements(&self.sizes);
            self.set(program, gradient, sums.narrow(0, start, count)?, true)?;
            start += count;
        }
        Ok(())
    }

    /// Whether there are kernels for a rank, or else products.
    fn by_kernels(&self, rank: usize) -> bool {
        self.products == Products::Bf16 && rank <= RANKS
    }

    /// By what the dropouts of the rows of a value drop them for each update.
    fn dropped(
        &self,
        program: &Program,
        value: ValueId,
        dropouts: impl Iterator<Item = Option<Dropout>>,
    ) -> Result<Option<Dropped>> {
        let masks = dropouts.map(|dropout| masks::mask(&self.step, dropout?).map(Mask::from));
        let Some(masks) = masks.collect::<Option<Vec<Mask>>>() else { return Ok(None) };
        let rows = self.rows_of(program, value);
        let (packing, lists) = (Packing::from(&rows), self.packing_arrays(&rows)?);
        Ok(Some(Dropped { masks, packing, lists }))
    }
}
