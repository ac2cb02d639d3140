//! The fine-grained operations of expressions, on dense row-major arrays of up
//! to five axes. They carry hooks and losses, not the model: simple loops.

use host_ir::graph::{Binary, Unary};

use crate::program::instruction::Fold;

/// Strides by which an array of `sizes` is read as one of `wanted`, with 0
/// along axes that broadcast.
fn broadcast_strides(sizes: &[usize], wanted: &[usize]) -> Vec<usize> {
    let missing = wanted.len() - sizes.len();
    let mut strides = vec![0; wanted.len()];
    let mut stride = 1;
    for axis in (0..sizes.len()).rev() {
        strides[axis + missing] = if sizes[axis] == 1 { 0 } else { stride };
        stride *= sizes[axis];
    }
    strides
}

/// Calls with the offset that `strides` give each place of an array of `sizes`,
/// in row-major order.
fn each_offset(sizes: &[usize], strides: &[usize], mut call: impl FnMut(usize)) {
    let Some((&last, leading)) = sizes.split_last() else { return call(0) };
    let last_stride = strides[leading.len()];
    let mut place = vec![0; leading.len()];
    let mut base = 0;
    if sizes.contains(&0) {
        return;
    }
    loop {
        for step in 0..last {
            call(base + step * last_stride);
        }
        let mut axis = leading.len();
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            place[axis] += 1;
            base += strides[axis];
            if place[axis] < leading[axis] {
                break;
            }
            base -= strides[axis] * leading[axis];
            place[axis] = 0;
        }
    }
}

/// out = function(x).
pub fn unary(function: Unary, x: &[f32], out: &mut [f32]) {
    let of: fn(f32) -> f32 = match function {
        Unary::Exp => f32::exp,
        Unary::Log => f32::ln,
        Unary::Sqrt => f32::sqrt,
        Unary::Abs => f32::abs,
        Unary::Tanh => f32::tanh,
        Unary::Sigmoid => sigmoid,
        Unary::Relu => |x| x.max(0.0),
        // These two are kernels of the model too.
        Unary::Gelu | Unary::Silu => |x| x,
    };
    for (out, &x) in out.iter_mut().zip(x) {
        *out = of(x);
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// dx = dy * function'(x), with y = function(x).
pub fn unary_backward(function: Unary, x: &[f32], y: &[f32], dy: &[f32], dx: &mut [f32]) {
    let slope: fn(f32, f32) -> f32 = match function {
        Unary::Exp => |_, y| y,
        Unary::Log => |x, _| 1.0 / x,
        Unary::Sqrt => |_, y| 0.5 / y,
        Unary::Abs => |x, _| if x == 0.0 { 0.0 } else { x.signum() },
        Unary::Tanh => |_, y| 1.0 - y * y,
        Unary::Sigmoid => |_, y| y * (1.0 - y),
        Unary::Relu => |x, _| if x > 0.0 { 1.0 } else { 0.0 },
        Unary::Gelu | Unary::Silu => |_, _| 1.0,
    };
    for (((dx, &dy), &x), &y) in dx.iter_mut().zip(dy).zip(x).zip(y) {
        *dx = dy * slope(x, y);
    }
}

/// Element by element, broadcast to the sizes of `out`.
pub fn binary(
    function: Binary,
    a: (&[f32], &[usize]),
    b: (&[f32], &[usize]),
    out: &mut [f32],
    sizes: &[usize],
) {
    let of: fn(f32, f32) -> f32 = match function {
        Binary::Add => |a, b| a + b,
        Binary::Subtract => |a, b| a - b,
        Binary::Multiply => |a, b| a * b,
        Binary::Divide => |a, b| a / b,
        Binary::Maximum => f32::max,
        Binary::Minimum => f32::min,
    };
    pairwise(of, a, b, out, sizes);
}

/// out = of(a, b), broadcast to the sizes of `out`.
pub fn pairwise(
    of: fn(f32, f32) -> f32,
    a: (&[f32], &[usize]),
    b: (&[f32], &[usize]),
    out: &mut [f32],
    sizes: &[usize],
) {
    if a.0.len() == out.len() && b.0.len() == out.len() {
        for ((out, &a), &b) in out.iter_mut().zip(a.0).zip(b.0) {
            *out = of(a, b);
        }
        return;
    }
    let mut place = 0;
    each_offset(sizes, &broadcast_strides(a.1, sizes), |offset| {
        out[place] = a.0[offset];
        place += 1;
    });
    let mut place = 0;
    each_offset(sizes, &broadcast_strides(b.1, sizes), |offset| {
        out[place] = of(out[place], b.0[offset]);
        place += 1;
    });
}

/// out = dy where a wins over b, half of it where they are equal, else 0; all
/// broadcast to `sizes`.
pub fn winner(
    a: (&[f32], &[usize]),
    b: (&[f32], &[usize]),
    dy: &[f32],
    out: &mut [f32],
    sizes: &[usize],
    larger: bool,
) {
    binary(Binary::Subtract, a, b, out, sizes);
    for (out, &dy) in out.iter_mut().zip(dy) {
        let lead = if larger { *out } else { -*out };
        *out = dy
            * if lead > 0.0 {
                1.0
            } else if lead == 0.0 {
                0.5
            } else {
                0.0
            };
    }
}

/// out (+)= x folded over the axes along which `out` has size 1.
pub fn fold(fold: Fold, x: (&[f32], &[usize]), out: (&mut [f32], &[usize]), accumulate: bool) {
    let (out, out_sizes) = out;
    let strides = broadcast_strides(out_sizes, x.1);
    if !accumulate {
        out.fill(if fold == Fold::Sum { 0.0 } else { f32::NEG_INFINITY });
    }
    let mut place = 0;
    each_offset(x.1, &strides, |offset| {
        let value = x.0[place];
        place += 1;
        match fold {
            Fold::Sum => out[offset] += value,
            Fold::Maximum => out[offset] = out[offset].max(value),
        }
    });
}

/// out = x with its axes in another order.
pub fn permute(x: (&[f32], &[usize]), axes: &[usize], out: &mut [f32]) {
    let plain = broadcast_plain(x.1);
    let strides: Vec<usize> = axes.iter().map(|&axis| plain[axis]).collect();
    let sizes: Vec<usize> = axes.iter().map(|&axis| x.1[axis]).collect();
    let mut place = 0;
    each_offset(&sizes, &strides, |offset| {
        out[place] = x.0[offset];
        place += 1;
    });
}

/// Strides of a dense row-major array.
fn broadcast_plain(sizes: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; sizes.len()];
    for axis in (1..sizes.len()).rev() {
        strides[axis - 1] = strides[axis] * sizes[axis];
    }
    strides
}

/// Copies places from `start` on along an axis to those from `to` on.
pub fn copy_range(
    x: (&[f32], &[usize]),
    out: (&mut [f32], &[usize]),
    axis: usize,
    start: usize,
    to: usize,
    accumulate: bool,
) {
    let inner: usize = x.1[axis + 1..].iter().product();
    let outer: usize = x.1[..axis].iter().product();
    let length = (x.1[axis] - start).min(out.1[axis] - to);
    for block in 0..outer {
        let from = &x.0[(block * x.1[axis] + start) * inner..][..length * inner];
        let into = &mut out.0[(block * out.1[axis] + to) * inner..][..length * inner];
        match accumulate {
            true => into.iter_mut().zip(from).for_each(|(into, from)| *into += from),
            false => into.copy_from_slice(from),
        }
    }
}
