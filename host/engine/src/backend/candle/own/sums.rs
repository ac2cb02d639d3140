//! Sums over rows in an order of their own: of columns, of rows that are looked up, and of
//! squares.

use candle_core::{DType, Device, Tensor};

use super::kernels::{ROW_SUMS, SQUARES};
use super::launch::Own;
use super::numbers::{RowSums, Squares};
use crate::backend::BackendError;

type Result<T> = std::result::Result<T, BackendError>;

/// Rows of a piece at most, and columns of a strip, as in `cuda/sums.cuh`.
const SPAN: usize = 128;
const STRIP: usize = 128;
/// Elements of a piece of squares.
const PIECE: usize = 2048;

/// Rows that are summed up by where they go.
pub struct Groups {
    /// The rows in order of their places in the table.
    order: Vec<u32>,
    /// Where pieces begin in it, and where it ends.
    pieces: Vec<u32>,
    /// By place that rows go to: its first piece, with the end of the last; and the place.
    groups: Vec<u32>,
    places: Vec<u32>,
}

impl Groups {
    /// Of rows by their places, but for those that are left out.
    pub fn new(places: &[u32], left_out: &[bool]) -> Groups {
        let mut order: Vec<u32> = (0..places.len() as u32).collect();
        order.retain(|&row| !left_out.get(row as usize).copied().unwrap_or(false));
        order.sort_by_key(|&row| places[row as usize]);
        let (mut pieces, mut groups, mut found) = (vec![0], Vec::new(), Vec::new());
        let mut begin = 0;
        for run in order.chunk_by(|&one, &other| places[one as usize] == places[other as usize]) {
            groups.push(pieces.len() as u32 - 1);
            found.push(places[run[0] as usize]);
            pieces.extend((SPAN..run.len()).step_by(SPAN).map(|row| (begin + row) as u32));
            begin += run.len();
            pieces.push(begin as u32);
        }
        groups.push(pieces.len() as u32 - 1);
        Groups { order, pieces, groups, places: found }
    }

    /// What goes to the device of it.
    pub fn lists(self) -> [Vec<u32>; 4] {
        [self.order, self.pieces, self.groups, self.places]
    }
}

/// What is summed up: some columns of a matrix, by the elements of another one, or alone.
#[derive(Clone, Copy)]
pub struct Summands<'a> {
    pub array: &'a Tensor,
    pub factors: Option<&'a Tensor>,
    pub rows: usize,
    pub pitch: usize,
    pub first: usize,
    pub columns: usize,
}

impl Summands<'_> {
    /// Pieces of rows, where these are summed up as they are.
    fn pieces(&self) -> usize {
        self.rows.div_ceil(SPAN).max(1)
    }

    fn numbers(&self, pieces: usize, scale: f32) -> RowSums {
        let strips = self.columns.div_ceil(STRIP);
        RowSums {
            rows: (pieces * strips) as i64,
            strips: strips as i64,
            columns: self.columns as i64,
            first: self.first as i64,
            pitch: self.pitch as i64,
            span: if pieces == 1 { self.rows } else { SPAN } as i64,
            total: self.rows as i64,
            scale,
            unused: 0,
        }
    }
}

impl Own {
    /// The sum of all rows, flat.
    ///
    /// # Errors
    /// As [`Own::run`].
    pub fn column_sums(&self, summands: Summands<'_>) -> Result<Tensor> {
        let Summands { factors, columns, .. } = summands;
        let mut rows = summands.pieces();
        let inputs = [Some(summands.array), factors];
        let [mut sums] = self.run(&ROW_SUMS, summands.numbers(rows, 1.0), &inputs, [rows * columns])?;
        while rows > 1 {
            let further = Summands { array: &sums, factors: None, rows, pitch: columns, first: 0, columns };
            let pieces = further.pieces();
            let numbers = further.numbers(pieces, 1.0);
            [sums] = self.run(&ROW_SUMS, numbers, &[Some(&sums)], [pieces * columns])?;
            rows = pieces;
        }
        Ok(sums)
    }

    /// Sums of rows by where they go, times a number, in a table of zeros otherwise, flat.
    /// `lists` are those of [`Groups`], on the device, with a row at least.
    ///
    /// # Errors
    /// As [`Own::run`].
    pub fn grouped_sums(
        &self,
        summands: Summands<'_>,
        lists: &[Tensor; 4],
        scale: f32,
        table_rows: usize,
    ) -> Result<Tensor> {
        let [order, pieces, groups, places] = lists;
        let columns = summands.columns;
        let table = Tensor::zeros(table_rows * columns, DType::F32, summands.array.device())?;
        let count = pieces.elem_count() - 1;
        let inputs = [Some(summands.array), summands.factors, Some(order), Some(pieces)];
        let [sums] = self.run(&ROW_SUMS, summands.numbers(count, scale), &inputs, [count * columns])?;
        let further =
            Summands { array: &sums, factors: None, rows: count, pitch: columns, first: 0, columns };
        let numbers = further.numbers(places.elem_count(), 1.0);
        self.run_into(&ROW_SUMS, numbers, &[Some(&sums), None, None, Some(groups), Some(places)], &table)?;
        Ok(table)
    }

    /// The sum of the squares of all elements of arrays, which are contiguous.
    ///
    /// # Errors
    /// As [`Own::run`].
    pub fn square_sum(&self, arrays: &[Tensor], device: &Device) -> Result<Tensor> {
        let (mut table, mut pieces) = (Vec::new(), 0);
        // On the processor they are copied to where their addresses stay.
        let copies = match self.on_gpu() {
            true => Vec::new(),
            false => {
                arrays.iter().map(|array| array.to_vec1::<f32>()).collect::<candle_core::Result<Vec<_>>>()?
            }
        };
        for (number, array) in arrays.iter().enumerate() {
            let address = match copies.get(number) {
                Some(copy) => copy.as_ptr() as u64,
                None => self.address(array)?,
            };
            let count = array.elem_count();
            let entry = [address, count as u64, pieces as u64];
            table.extend(entry.into_iter().flat_map(|word| [word as u32, (word >> 32) as u32]));
            pieces += count.div_ceil(PIECE);
        }
        let numbers = Squares { rows: pieces as i64, arrays: arrays.len() as i64, piece: PIECE as i64 };
        let words = table.len();
        let table = Tensor::from_vec(table, words, device)?;
        let [sums] = self.run(&SQUARES, numbers, &[Some(&table)], [pieces])?;
        let summands = Summands { array: &sums, factors: None, rows: pieces, pitch: 1, first: 0, columns: 1 };
        Ok(self.column_sums(summands)?.reshape(())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize) -> Tensor {
        let value = |index: usize| ((index * 31) as f32).sin();
        Tensor::from_vec((0..count).map(value).collect::<Vec<f32>>(), count, &Device::Cpu).unwrap()
    }

    fn apart(found: &Tensor, expected: &Tensor) -> f32 {
        let difference = (found.flatten_all().unwrap() - expected.flatten_all().unwrap()).unwrap();
        difference.abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    #[test]
    fn columns_are_summed_up_whatever_the_number_of_rows() {
        let own = Own::new(&Device::Cpu).unwrap();
        for rows in [1, 3, 64, 65, 5000] {
            let (array, factors) =
                (values(rows * 70), values(rows * 70 + 1).narrow(0, 1, rows * 70).unwrap());
            let factors = factors.contiguous().unwrap();
            let shaped = |x: &Tensor| x.reshape((rows, 70)).unwrap().narrow(1, 2, 66).unwrap();
            let summands = Summands { array: &array, factors: None, rows, pitch: 70, first: 2, columns: 66 };
            let expected = shaped(&array).sum(0).unwrap();
            assert!(apart(&own.column_sums(summands).unwrap(), &expected) < 1e-5 * rows as f32, "{rows}");
            let summands = Summands { factors: Some(&factors), ..summands };
            let expected = (shaped(&array) * shaped(&factors)).unwrap().sum(0).unwrap();
            assert!(apart(&own.column_sums(summands).unwrap(), &expected) < 1e-5 * rows as f32, "{rows}");
        }
    }

    #[test]
    fn rows_go_to_their_places_and_none_is_lost() {
        let own = Own::new(&Device::Cpu).unwrap();
        // One place gets more rows than a piece has, one none; some rows are left out.
        let rows = 300;
        let places: Vec<u32> = (0..rows as u32).map(|row| if row % 2 == 0 { 4 } else { row % 9 }).collect();
        let left_out: Vec<bool> = (0..rows).map(|row| row % 7 == 0).collect();
        let array = values(rows * 5);
        let lists = Groups::new(&places, &left_out).lists();
        let lists = lists.map(|list| Tensor::new(list.as_slice(), &Device::Cpu).unwrap());
        let summands = Summands { array: &array, factors: None, rows, pitch: 5, first: 0, columns: 5 };
        let found = own.grouped_sums(summands, &lists, 3.0, 11).unwrap().to_vec1::<f32>().unwrap();
        let elements = array.to_vec1::<f32>().unwrap();
        let mut expected = vec![0.0f32; 11 * 5];
        for row in (0..rows).filter(|&row| !left_out[row]) {
            for column in 0..5 {
                expected[places[row] as usize * 5 + column] += 3.0 * elements[row * 5 + column];
            }
        }
        assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-3), "{found:?}\n{expected:?}");
        let none = Groups::new(&places, &vec![true; rows]).lists();
        assert!(none[0].is_empty() && none[3].is_empty());
    }

    #[test]
    fn squares_of_all_arrays_are_summed_up() {
        let own = Own::new(&Device::Cpu).unwrap();
        let arrays = [values(5000), values(1), values(2048)];
        let found = own.square_sum(&arrays, &Device::Cpu).unwrap().to_scalar::<f32>().unwrap();
        let expected: f32 =
            arrays.iter().map(|x| x.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap()).sum();
        assert!((found - expected).abs() < 1e-3 * expected, "{found} {expected}");
    }
}
