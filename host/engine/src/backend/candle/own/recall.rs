//! Attention of a generation's rows to what was said before, by kernels in which a warp takes
//! a head; keys and values are put where they are remembered.

use candle_core::{DType, Tensor};

use super::arrays::Made;
use super::attention::longest;
use super::kernels::{RECALL, REMEMBER};
use super::launch::Own;
use super::numbers::Recall as Numbers;
use crate::backend::BackendError;
use crate::backend::candle::copies::Layout;
use crate::backend::candle::{ATTENTION_COLUMNS, Candle};
use crate::batch::Recall;
use crate::kernels::relative::Buckets;
use crate::program::attend::AttendRecalled;
use crate::program::build::Program;
use crate::program::value::Storage;

type Result<T> = std::result::Result<T, BackendError>;

/// By how far a key is back from the newest token: the bucket of the distance.
fn by_distance_back(recall: &Recall, buckets: Buckets) -> Vec<u32> {
    (0..longest(&recall.starts) as isize).map(|back| buckets.of(-back) as u32).collect()
}

impl Candle {
    /// Whether the kernels take the heads of an attention.
    pub(super) fn recalls(&self, program: &Program, attend: &AttendRecalled) -> bool {
        program.value(attend.out).columns(&self.sizes) <= ATTENTION_COLUMNS * attend.heads
    }

    /// The lists that they take.
    pub(super) fn want_to_recall(&self, attend: &AttendRecalled, lists: &mut Layout) -> Result<()> {
        let recall = self.recall()?;
        if let Some((_, buckets)) = attend.bias {
            lists.add(by_distance_back(&recall, buckets));
        }
        lists.extend([recall.own, recall.starts, recall.rows]);
        Ok(())
    }

    /// The first elements of memory that outlives a run, which nobody else holds, to be written
    /// to. It grows by half of what is there at least, so that it is seldom copied.
    fn room(&mut self, slot: usize, count: usize) -> Result<Tensor> {
        let known = self.kept.get(&slot).map_or(0, Tensor::elem_count);
        if known < count {
            let zeros = Tensor::zeros(count.max(known + known / 2) - known, DType::F32, &self.device)?;
            let grown = match self.kept.get(&slot) {
                Some(kept) => Tensor::cat(&[kept, &zeros], 0)?,
                None => zeros,
            };
            self.kept.insert(slot, grown);
        }
        let kept = self.kept.get(&slot).ok_or_else(|| BackendError::Wrong("nothing is remembered".into()))?;
        Ok(kept.narrow(0, 0, count)?)
    }

    /// The attention by its kernels; answers whether there are any.
    pub(super) fn own_attend_recalled(
        &mut self,
        own: &Own,
        program: &Program,
        attend: &AttendRecalled,
    ) -> Result<bool> {
        let Storage::Kept { slot } = program.value(program.root(attend.memory)).storage else {
            return Ok(false);
        };
        if !self.recalls(program, attend) {
            return Ok(false);
        }
        let recall = self.recall()?;
        let queries = recall.own.len();
        let width = program.value(attend.out).columns(&self.sizes);
        let biases = match attend.bias {
            Some((table, buckets)) => {
                let list = self.indices(by_distance_back(&recall, buckets))?;
                Some(self.peek(program, table)?.index_select(&list, 0)?)
            }
            None => None,
        };
        let [rows, starts, list] =
            [recall.own, recall.starts, recall.rows].map(|numbers| self.indices(numbers));
        let (rows, starts, list) = (rows?, starts?, list?);
        let numbers = Numbers {
            rows: queries as i64,
            heads: attend.heads as i64,
            size: (width / attend.heads) as i64,
            scale: attend.scale,
            unused: 0,
        };
        let qkv = self.peek(program, attend.qkv)?;
        let memory = self.room(slot, program.value(attend.memory).elements(&self.sizes))?;
        own.run_into(&REMEMBER, numbers, &[Some(&qkv), Some(&rows)], &memory)?;
        let of_heads = Numbers { rows: numbers.rows * numbers.heads, ..numbers };
        let inputs = [Some(&qkv), Some(&memory), Some(&starts), Some(&list), biases.as_ref()];
        let made = Made { count: queries * width, dtype: self.stored(program.root(attend.out)) };
        let [context] = own.run(&RECALL, of_heads, &inputs, [made])?;
        self.set(program, attend.out, context, false)?;
        Ok(true)
    }
}
