//! Instructions that choose: places, comparisons, and parts of tables by them.
//! Integers are kept as real numbers, which are exact up to 2^24.

use host_ir::graph::Compare;

use crate::backend::BackendError;
use crate::backend::cpu::context::Context;
use crate::backend::cpu::tensor;
use crate::program::instruction::Instruction;
use crate::program::value::ValueId;

/// Places from this one on are no exact real numbers.
const MOST_PLACES: usize = 1 << 24;

impl Context<'_> {
    /// # Errors
    /// Integers that the batch lacks; a table too large for places.
    pub(super) fn choose(&self, instruction: &Instruction) -> Result<(), BackendError> {
        match *instruction {
            Instruction::Integers { ref source, out } => {
                let integers = self.integers(source)?;
                self.write(out).iter_mut().zip(integers.iter()).for_each(|(out, &x)| *out = x as f32);
            }
            Instruction::Shift { x, by, out } => {
                let (rows, out) = (self.views.sizes(x)[0] as i64, self.write(out));
                let width = out.len() / (rows as usize).max(1);
                for (row, to) in out.chunks_exact_mut(width.max(1)).enumerate() {
                    match usize::try_from(row as i64 + i64::from(by))
                        .ok()
                        .filter(|&from| from < rows as usize)
                    {
                        Some(from) => to.copy_from_slice(&self.read(x)[from * width..][..width]),
                        None => to.fill(0.0),
                    }
                }
            }
            Instruction::Positions { out } => {
                self.write(out).iter_mut().enumerate().for_each(|(place, out)| *out = place as f32);
            }
            Instruction::DivideWhole { x, divisor, remainder, out } => {
                for (out, &x) in self.write(out).iter_mut().zip(self.read(x)) {
                    let (x, divisor) = (x as i32, divisor as i32);
                    *out = if remainder { x.rem_euclid(divisor) } else { x.div_euclid(divisor) } as f32;
                }
            }
            Instruction::Compare { compare, a, b, out } => {
                let (a, b, sizes) = (self.shaped(a), self.shaped(b), self.views.sizes(out));
                let holds: fn(f32, f32) -> f32 = match compare {
                    Compare::Equal => |a, b| f32::from(u8::from(a == b)),
                    Compare::Less => |a, b| f32::from(u8::from(a < b)),
                };
                tensor::pairwise(holds, (a.0, &a.1), (b.0, &b.1), self.write(out), &sizes);
            }
            Instruction::Largest { x, out } => largest(self.read(x), self.write(out))?,
            Instruction::ArgMax { x, axis, out } => {
                let (x, sizes) = self.shaped(x);
                let (length, inner) = (sizes[axis], sizes[axis + 1..].iter().product::<usize>());
                for (place, out) in self.write(out).iter_mut().enumerate() {
                    let start = place / inner.max(1) * length * inner + place % inner.max(1);
                    let at = |step: usize| x[start + step * inner];
                    let best =
                        (1..length).fold(0, |best, step| if at(step) > at(best) { step } else { best });
                    *out = best as f32;
                }
            }
            Instruction::Gather { table, places, axes, out } => {
                let width = self.width(table, axes).max(1);
                let (table, out) = (self.read(table), self.write(out));
                numbered("parts", table.len() / width)?;
                for (part, &place) in out.chunks_exact_mut(width).zip(self.read(places)) {
                    let from = table.chunks_exact(width).nth(place as usize).ok_or_else(|| {
                        BackendError::Wrong(format!("place {place} of a table of {}", table.len() / width))
                    })?;
                    part.copy_from_slice(from);
                }
            }
            Instruction::GatherBackward { dout, places, axes, dtable, accumulate } => {
                let width = self.width(dtable, axes);
                let table = self.write(dtable);
                if !accumulate {
                    table.fill(0.0);
                }
                for (part, &place) in self.read(dout).chunks_exact(width.max(1)).zip(self.read(places)) {
                    let to = &mut table[place as usize * width..][..width];
                    to.iter_mut().zip(part).for_each(|(to, part)| *to += part);
                }
            }
            _ => self.fine_grained(instruction),
        }
        Ok(())
    }

    /// Elements of a part of a table whose first axes are counted.
    fn width(&self, table: ValueId, axes: usize) -> usize {
        self.views.sizes(table)[axes..].iter().product()
    }
}

/// Whether so many can be told apart by their places.
fn numbered(what: &str, count: usize) -> Result<(), BackendError> {
    match count > MOST_PLACES {
        true => {
            Err(BackendError::Wrong(format!("places in {count} {what}: at most {MOST_PLACES} have a number")))
        }
        false => Ok(()),
    }
}

/// Ascending places of the largest elements, as many as `places` has; of equal
/// ones the first.
///
/// # Errors
/// Too many elements for places.
pub fn largest(x: &[f32], places: &mut [f32]) -> Result<(), BackendError> {
    numbered("elements", x.len())?;
    let mut order: Vec<u32> = (0..x.len() as u32).collect();
    let better = |a: &u32, b: &u32| x[*b as usize].total_cmp(&x[*a as usize]).then(a.cmp(b));
    let count = places.len().min(order.len());
    if count > 0 && count < order.len() {
        order.select_nth_unstable_by(count - 1, better);
    }
    order.truncate(count);
    order.sort_unstable();
    places.iter_mut().zip(order).for_each(|(out, place)| *out = place as f32);
    Ok(())
}
