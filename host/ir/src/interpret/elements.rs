//! The operations over elements: functions of one and of two numbers, broadcasting,
//! regions, reductions and products.

use super::Tensor;
use crate::graph::{Binary, Reduce, Unary};

pub fn unary(function: Unary, x: f32) -> f32 {
    let x = f64::from(x);
    let y = match function {
        Unary::Exp => x.exp(),
        Unary::Log => x.ln(),
        Unary::Sqrt => x.sqrt(),
        Unary::Abs => x.abs(),
        Unary::Tanh => x.tanh(),
        Unary::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Unary::Relu => x.max(0.0),
        Unary::Gelu => x * normal_distribution(x),
        Unary::Silu => x / (1.0 + (-x).exp()),
    };
    y as f32
}

/// The normal distribution function, by the series of Marsaglia 2004, eq. 3,
/// within its range and by its limits outside.
fn normal_distribution(x: f64) -> f64 {
    if x.abs() > 8.0 {
        return if x > 0.0 { 1.0 } else { 0.0 };
    }
    let (mut sum, mut term, mut odd) = (x, x, 1.0);
    while term.abs() > 1e-17 {
        odd += 2.0;
        term *= x * x / odd;
        sum += term;
    }
    0.5 + sum * (-0.5 * x * x - 0.918_938_533_204_672_8).exp()
}

pub fn binary(function: Binary, a: f32, b: f32) -> f32 {
    match function {
        Binary::Add => a + b,
        Binary::Subtract => a - b,
        Binary::Multiply => a * b,
        Binary::Divide => a / b,
        Binary::Maximum => a.max(b),
        Binary::Minimum => a.min(b),
    }
}

/// Strides of a dense array; those of `within`, with 0 along broadcast axes.
fn strides(shape: &[usize], within: &[usize]) -> Vec<usize> {
    let missing = within.len() - shape.len();
    let mut strides = vec![0; within.len()];
    let mut stride = 1;
    for axis in (0..shape.len()).rev() {
        strides[axis + missing] = if shape[axis] == 1 { 0 } else { stride };
        stride *= shape[axis];
    }
    strides
}

/// The offset that strides give a place of an array of a shape.
fn offset(mut place: usize, shape: &[usize], strides: &[usize]) -> usize {
    let mut offset = 0;
    for axis in (0..shape.len()).rev() {
        offset += place % shape[axis] * strides[axis];
        place /= shape[axis];
    }
    offset
}

/// The elements of a tensor as one of another shape, by broadcasting.
pub fn broadcast<'a>(tensor: &'a Tensor, shape: &[usize]) -> impl Iterator<Item = f32> + 'a {
    let strides = strides(&tensor.shape, shape);
    let (shape, count) = (shape.to_vec(), shape.iter().product::<usize>());
    let same = tensor.shape == shape;
    (0..count).map(move |place| tensor.values[if same { place } else { offset(place, &shape, &strides) }])
}

pub fn permute(x: &Tensor, axes: &[usize]) -> Vec<f32> {
    let plain = strides(&x.shape, &x.shape);
    let shape: Vec<usize> = axes.iter().map(|&axis| x.shape[axis]).collect();
    let strides: Vec<usize> = axes.iter().map(|&axis| plain[axis]).collect();
    (0..x.values.len()).map(|place| x.values[offset(place, &shape, &strides)]).collect()
}

/// The stretches of memory that a range of an axis takes.
pub fn regions(x: &Tensor, axis: usize, start: usize, length: usize) -> Vec<&[f32]> {
    let inner: usize = x.shape[axis + 1..].iter().product();
    let outer: usize = x.shape[..axis].iter().product();
    (0..outer).map(|block| &x.values[(block * x.shape[axis] + start) * inner..][..length * inner]).collect()
}

/// A reduction; the result lies as with axes of size 1 and as without them.
pub fn reduced(x: &Tensor, axes: &[usize], reduce: Reduce) -> Vec<f32> {
    let mut kept = x.shape.clone();
    axes.iter().for_each(|&axis| kept[axis] = 1);
    let strides = strides(&kept, &x.shape);
    let (count, each) =
        (kept.iter().product::<usize>(), axes.iter().map(|&axis| x.shape[axis]).product::<usize>() as f64);
    let places: Vec<usize> = match count {
        1 => Vec::new(),
        _ => (0..x.values.len()).map(|place| offset(place, &x.shape, &strides)).collect(),
    };
    let at = |place: usize| places.get(place).copied().unwrap_or(0);
    let sums = |of: &dyn Fn(usize, f64) -> f64| {
        let mut sums = vec![0.0; count];
        for (place, &value) in x.values.iter().enumerate() {
            sums[at(place)] += of(at(place), f64::from(value));
        }
        sums
    };
    let result = match reduce {
        Reduce::Sum => sums(&|_, value| value),
        Reduce::Mean => sums(&|_, value| value / each),
        Reduce::Norm => sums(&|_, value| value * value).into_iter().map(f64::sqrt).collect(),
        Reduce::Deviation => {
            let means = sums(&|_, value| value / each);
            let squares = sums(&|to, value| (value - means[to]) * (value - means[to]) / each);
            squares.into_iter().map(f64::sqrt).collect()
        }
        Reduce::LogSumExp => {
            let mut largest = vec![f64::NEG_INFINITY; count];
            for (place, &value) in x.values.iter().enumerate() {
                largest[at(place)] = largest[at(place)].max(f64::from(value));
            }
            let totals = sums(&|to, value| (value - largest[to]).exp());
            totals.into_iter().zip(&largest).map(|(total, largest)| total.ln() + largest).collect()
        }
        Reduce::Maximum => {
            let mut largest = vec![f64::NEG_INFINITY; count];
            for (place, &value) in x.values.iter().enumerate() {
                largest[at(place)] = largest[at(place)].max(f64::from(value));
            }
            largest
        }
    };
    result.into_iter().map(|value| value as f32).collect()
}

pub fn matmul(a: &Tensor, b: &Tensor) -> Result<Vec<f32>, String> {
    let (ra, rb) = (a.shape.len(), b.shape.len());
    let (m, k, n) = (a.shape[ra - 2], a.shape[ra - 1], b.shape[rb - 1]);
    let batches = a.values.len() / (m * k).max(1);
    let shared = rb == 2;
    if !shared && a.shape[..ra - 2] != b.shape[..rb - 2] {
        return Err(format!(
            "matmul of {:?} and {:?}: leading axes that broadcast are not evaluated here",
            a.shape, b.shape
        ));
    }
    let mut out = vec![0.0; batches * m * n];
    let mut row = vec![0.0f64; n];
    for batch in 0..batches {
        let b = if shared { &b.values[..] } else { &b.values[batch * k * n..][..k * n] };
        for i in 0..m {
            row.fill(0.0);
            for (inner, &x) in a.values[(batch * m + i) * k..][..k].iter().enumerate() {
                let b = &b[inner * n..][..n];
                row.iter_mut().zip(b).for_each(|(sum, &y)| *sum += f64::from(x) * f64::from(y));
            }
            let out = &mut out[(batch * m + i) * n..][..n];
            out.iter_mut().zip(&row).for_each(|(out, &sum)| *out = sum as f32);
        }
    }
    Ok(out)
}
