//! Rows that are looked up in tables, and the gradients of these: every row goes to its
//! place, in the order of the batch.

use candle_core::{DType, Tensor};

use super::arrays::Made;
use super::kernels::EMBED;
use super::launch::Own;
use super::numbers::Embed;
use super::sums::{Groups, Summands};
use crate::backend::BackendError;
use crate::backend::candle::Candle;
use crate::backend::candle::lists::flags;
use crate::program::build::Program;
use crate::program::instruction::Instruction;
use crate::program::value::ValueId;

type Result<T> = std::result::Result<T, BackendError>;

/// A table, where each row of a gradient goes in it, and by what that is multiplied.
struct Destination {
    table: ValueId,
    groups: Groups,
    scale: f32,
}

impl Candle {
    /// The lists that [`Self::run_embed`] takes: words, and where the embedding has such a
    /// table, positions, types, rows of the prompt and whether a row takes one.
    pub(super) fn embed_lists(&self, program: &Program, instruction: &Instruction) -> [Option<Vec<u32>>; 5] {
        let Instruction::Embed { position, token_type, prompt, out, .. } = *instruction else {
            return Default::default();
        };
        let rows = self.lookup(program, out);
        let of_prompt = prompt.map(|_| (rows.prompt, flags(&rows.is_virtual, true)));
        let (prompts, are_virtual) = of_prompt.unzip();
        let positions = position.map(|_| rows.positions);
        [Some(rows.words), positions, token_type.map(|_| rows.types), prompts, are_virtual]
    }

    /// What an embedding's rows add up to; answers whether the instruction is one.
    pub(super) fn run_embed(
        &mut self,
        own: &Own,
        program: &Program,
        instruction: &Instruction,
    ) -> Result<bool> {
        let Instruction::Embed { word, factor, position, token_type, prompt, out, .. } = *instruction else {
            return Ok(false);
        };
        let table = |table: ValueId| match self.stored(program.root(out)) {
            // What becomes bf16 is looked up in such tables.
            DType::BF16 => self.weight(program, table),
            _ => self.get(program, table),
        };
        let tables = [Some(word), position, token_type, prompt];
        let tables = tables.into_iter().map(|value| value.map(table).transpose());
        let lists = self.embed_lists(program, instruction).into_iter();
        let lists = lists.map(|list| list.map(|list| self.indices(list)).transpose());
        let inputs = tables.chain(lists).collect::<Result<Vec<Option<Tensor>>>>()?;
        let inputs: Vec<Option<&Tensor>> = inputs.iter().map(Option::as_ref).collect();
        let (rows, columns) = self.shape(program, out);
        let numbers = Embed { rows: rows as i64, columns: columns as i64, factor, unused: 0 };
        let made = Made { count: rows * columns, dtype: self.stored(out) };
        let [sum] = own.run(&EMBED, numbers, &inputs, [made])?;
        self.set(program, out, sum, false)?;
        Ok(true)
    }

    /// The tables of an embedding that train.
    fn destinations(&self, program: &Program, instruction: &Instruction) -> Vec<Destination> {
        let Instruction::EmbedBackward { gradient, word, factor, padding, position, token_type, prompt } =
            *instruction
        else {
            return Vec::new();
        };
        let lookup = self.lookup(program, gradient);
        let real: Vec<bool> = lookup.is_virtual.iter().map(|&is_virtual| !is_virtual).collect();
        let tables = [
            (word, &lookup.words, lookup.without_gradient(padding), factor),
            (position, &lookup.positions, Vec::new(), 1.0),
            (token_type, &lookup.types, Vec::new(), 1.0),
            (prompt, &lookup.prompt, real, 1.0),
        ];
        let tables = tables.into_iter().filter_map(|(table, places, left_out, scale)| {
            Some(Destination { table: table?, groups: Groups::new(places, &left_out), scale })
        });
        tables.collect()
    }

    /// The lists that [`Self::run_embed_backward`] takes.
    pub(super) fn destination_lists(&self, program: &Program, instruction: &Instruction) -> Vec<Vec<u32>> {
        let all = self.destinations(program, instruction).into_iter();
        all.flat_map(|destination| destination.groups.lists()).filter(|list| !list.is_empty()).collect()
    }

    /// The gradients of an embedding's tables.
    pub(super) fn run_embed_backward(
        &mut self,
        own: &Own,
        program: &Program,
        instruction: &Instruction,
        gradient: ValueId,
    ) -> Result<()> {
        let array = self.peek(program, gradient)?;
        let (rows, columns) = self.shape(program, gradient);
        let summands = Summands { array: &array, factors: None, rows, pitch: columns, first: 0, columns };
        for Destination { table, groups, scale } in self.destinations(program, instruction) {
            let places = program.value(table).elements(&self.sizes) / columns.max(1);
            let lists = groups.lists();
            let sums = match lists[0].is_empty() {
                true => Tensor::zeros(places * columns, DType::F32, &self.device)?,
                false => {
                    let lists = lists.map(|list| self.indices(list));
                    let [order, pieces, groups, numbers] = lists;
                    own.grouped_sums(summands, &[order?, pieces?, groups?, numbers?], scale, places)?
                }
            };
            self.set(program, table, sums, true)?;
        }
        Ok(())
    }
}
