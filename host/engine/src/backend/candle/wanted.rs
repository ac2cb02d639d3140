//! Which lists a program's instructions look up: known from the batch before the program
//! runs, so that all of them go to the device at once.

use crate::backend::BackendError;
use crate::backend::candle::Candle;
use crate::backend::candle::attend::{behind, by_distance, recalled};
use crate::backend::candle::attention::Spread;
use crate::backend::candle::copies::Layout;
use crate::backend::candle::lists::{constants, flags};
use crate::backend::candle::relative;
use crate::program::attend::Attend;
use crate::program::build::Program;
use crate::program::instruction::{Instruction, RowChoice};
use crate::program::value::Extent;

type Result<T> = std::result::Result<T, BackendError>;

impl Candle {
    /// The lists of a run over the batch, whose sizes are known.
    ///
    /// # Errors
    /// What the batch lacks.
    pub(super) fn wanted(&self, program: &Program) -> Result<Layout> {
        let mut lists = Layout::default();
        for instruction in program.instructions() {
            if !self.works_on_nothing(program, instruction) {
                self.want(program, instruction, &mut lists)?;
            }
        }
        Ok(lists)
    }

    fn want(&self, program: &Program, instruction: &Instruction, lists: &mut Layout) -> Result<()> {
        if let Instruction::AttentionBackward { dqkv, .. } = *instruction
            && program.value(dqkv).extents[0] == Extent::Virtual
        {
            lists.add(self.chosen(RowChoice::Virtual));
        }
        #[cfg(feature = "cuda")]
        if self.own_wants(program, instruction, lists)? {
            return Ok(());
        }
        match *instruction {
            Instruction::Embed { position, token_type, prompt, out, .. } => {
                let rows = self.lookup(program, out);
                if prompt.is_some() {
                    lists.extend([
                        flags(&rows.is_virtual, true),
                        flags(&rows.is_virtual, false),
                        rows.prompt,
                    ]);
                }
                lists.add(rows.words);
                lists.extend(position.map(|_| rows.positions));
                lists.extend(token_type.map(|_| rows.types));
            }
            Instruction::EmbedBackward { gradient, word, padding, position, token_type, prompt, .. } => {
                let rows = self.lookup(program, gradient);
                if word.is_some() {
                    lists.extend([flags(&rows.without_gradient(padding), false), rows.words]);
                }
                if prompt.is_some() {
                    lists.extend([flags(&rows.is_virtual, true), rows.prompt]);
                }
                lists.extend(position.map(|_| rows.positions));
                lists.extend(token_type.map(|_| rows.types));
            }
            Instruction::TakeRows { choice, .. } | Instruction::TakeRowsBackward { choice, .. } => {
                lists.add(self.chosen(choice));
            }
            Instruction::CrossEntropy { ref labels, .. }
            | Instruction::CrossEntropyBackward { ref labels, .. }
            | Instruction::Integers { source: ref labels, .. } => lists.add(self.numbers(labels)?),
            Instruction::Rows { ref indices, .. } | Instruction::RowsBackward { ref indices, .. } => {
                lists.add(constants(indices));
            }
            Instruction::Attention { .. }
            | Instruction::AttentionBackward { .. }
            | Instruction::Absorbed(_)
            | Instruction::AbsorbedBackward(_) => {
                lists.extend(Spread::of(&self.batch.starts).lists());
            }
            Instruction::ReachedRows { buckets, .. } | Instruction::ReachedRowsBackward { buckets, .. } => {
                lists.add(self.reached(buckets));
            }
            Instruction::Disentangled { buckets, .. } | Instruction::DisentangledBackward { buckets, .. } => {
                let spread = Spread::of(&self.batch.starts);
                lists.add(relative::index(buckets, spread.longest));
                lists.extend(spread.lists());
            }
            Instruction::Attend(ref attend) => self.want_to_attend(program, attend, lists),
            Instruction::AttendBackward(ref backward) => {
                self.want_to_attend(program, &backward.forward, lists);
            }
            Instruction::AttendRecalled(ref attend) => {
                lists.extend(recalled(&self.recall()?, attend.bias.map(|(_, buckets)| buckets)).lists());
            }
            _ => {}
        }
        Ok(())
    }

    fn want_to_attend(&self, program: &Program, attend: &Attend, lists: &mut Layout) {
        let (queries, keys) = self.attend_starts(program, attend);
        let (queries, keys) = (Spread::of(&queries), Spread::of(keys));
        if attend.causal {
            lists.add(behind(queries.longest, keys.longest));
        }
        if let Some((_, buckets)) = attend.bias {
            lists.add(by_distance(queries.longest, keys.longest, buckets));
        }
        lists.extend(queries.lists());
        lists.extend(keys.lists());
    }
}
