//! Layer norm against a plain one in double precision and finite differences.

use proptest::prelude::*;

use super::super::dropout::DropoutKey;
use super::super::reference::{assert_close, gradient, random, weighted, wide};
use super::*;

const EPSILON: f64 = 1e-5;

/// out in double precision; the masks are factors.
fn reference(y: &[f64], residual: &[f64], [bias, gain, shift]: [&[f64]; 3], masks: [&[f32]; 2]) -> Vec<f64> {
    let width = gain.len();
    let mut out = Vec::new();
    for row in 0..y.len() / width {
        let at = |j: usize| {
            let i = row * width + j;
            (y[i] + bias[j]) * f64::from(masks[0][i]) + residual[i]
        };
        let mean = (0..width).map(at).sum::<f64>() / width as f64;
        let variance = (0..width).map(|j| (at(j) - mean).powi(2)).sum::<f64>() / width as f64;
        for j in 0..width {
            let normalized = (at(j) - mean) / (variance + EPSILON).sqrt();
            out.push((normalized * gain[j] + shift[j]) * f64::from(masks[1][row * width + j]));
        }
    }
    out
}

fn check(rows: usize, width: usize, probability: f32, count: usize, differences: bool) {
    let threads = Threads::new(count).unwrap();
    let size = rows * width;
    let (y, residual, weights) = (random(size, 1), random(size, 2), random(size, 3));
    let (bias, gain, shift) = (random(width, 4), random(width, 5), random(width, 6));
    let starts = [0, 1, rows as u32];
    let places = [3, 8];
    let (starts, places) = if rows == 1 { (&starts[..2], &places[..1]) } else { (&starts[..], &places[..]) };
    let site = |site| RowDropout::new(DropoutKey { seed: 1, step: 2, site }, probability, starts, places);
    let (before, after) = (site(0), site(1));
    let ones = vec![1.0; size];
    let masks = [before, after].map(|site| {
        let mut mask = vec![0.0; size];
        dropout(&threads, &mut mask, &ones, width, site);
        mask
    });
    let masks = [&masks[0][..], &masks[1][..]];
    let affine = Affine { gain: &gain, shift: &shift };
    let terms = Forward {
        bias: Some(&bias),
        dropout: before,
        residual: Some(&residual),
        affine,
        epsilon: EPSILON as f32,
        dropout_after: after,
    };
    let (mut out, mut normalized, mut rstd) = (vec![0.0; size], y.clone(), vec![0.0; rows]);
    forward(&threads, &mut out, &mut normalized, &mut rstd, terms);
    let parameters = [wide(&bias), wide(&gain), wide(&shift)];
    let [wide_bias, wide_gain, wide_shift] = &parameters;
    let (wide_y, wide_residual) = (wide(&y), wide(&residual));
    let exact = reference(&wide_y, &wide_residual, [wide_bias, wide_gain, wide_shift], masks);
    assert_close(&out, &exact, 2e-6);

    let mut again = vec![0.0; size];
    recover(&threads, &mut again, &normalized, affine, after);
    assert_eq!(again, out);

    let terms = Backward {
        dout: &weights,
        normalized: &normalized,
        rstd: &rstd,
        gain: &gain,
        dropout: before,
        dropout_after: after,
    };
    let (mut dv, mut dy) = (vec![0.0; size], vec![0.0; size]);
    let mut sums = [vec![1.0; width], vec![1.0; width], vec![1.0; width]];
    let [dgain, dshift, dbias] = &mut sums;
    let gradients = Gradients { gain: Some(dgain), shift: Some(dshift), bias: Some(dbias) };
    backward(&threads, &mut dv, Some(&mut dy), terms, gradients);
    if !differences {
        return;
    }
    let parameters = [&wide_bias[..], &wide_gain[..], &wide_shift[..]];
    let loss = |y: &[f64], residual: &[f64], parameters: [&[f64]; 3]| {
        weighted(&reference(y, residual, parameters, masks), &weights)
    };
    assert_close(&dv, &gradient(&residual, |residual| loss(&wide_y, residual, parameters)), 1e-5);
    assert_close(&dy, &gradient(&y, |y| loss(y, &wide_residual, parameters)), 1e-5);
    for (index, (found, values)) in sums.iter().zip([&gain, &shift, &bias]).enumerate() {
        let place = [1, 2, 0][index];
        let mut expected = gradient(values, |values| {
            let mut parameters: [&[f64]; 3] = parameters;
            parameters[place] = values;
            loss(&wide_y, &wide_residual, parameters)
        });
        expected.iter_mut().for_each(|expected| *expected += 1.0);
        assert_close(found, &expected, 1e-5);
    }
}

#[test]
fn forward_and_backward_agree_with_double_precision() {
    check(1, 7, 0.0, 1, true);
    check(5, 33, 0.2, 2, true);
    check(9, 16, 0.5, 1, true);
    check(513, 96, 0.1, 2, false);
}

#[test]
fn without_bias_dropout_and_residual() {
    let threads = Threads::new(2).unwrap();
    let (rows, width) = (4, 20);
    let y = random(rows * width, 1);
    let (gain, shift) = (random(width, 2), random(width, 3));
    let affine = Affine { gain: &gain, shift: &shift };
    let (mut out, mut normalized, mut rstd) = (vec![0.0; 80], y.clone(), vec![0.0; rows]);
    let terms = Forward {
        bias: None,
        dropout: None,
        residual: None,
        affine,
        epsilon: EPSILON as f32,
        dropout_after: None,
    };
    forward(&threads, &mut out, &mut normalized, &mut rstd, terms);
    let (zeros, ones) = (vec![0.0; 80], vec![1.0; 80]);
    let parameters = [&zeros[..width], &wide(&gain)[..], &wide(&shift)[..]];
    assert_close(&out, &reference(&wide(&y), &zeros, parameters, [&ones, &ones]), 2e-6);
}

#[test]
fn a_large_common_offset_costs_no_accuracy_of_the_variance() {
    let (width, offset) = (768, 1000.0);
    let mut y = random(width, 1);
    y.iter_mut().for_each(|y| *y += offset);
    let (gain, shift) = (vec![1.0; width], vec![0.0; width]);
    let terms = Forward {
        bias: None,
        dropout: None,
        residual: None,
        affine: Affine { gain: &gain, shift: &shift },
        epsilon: EPSILON as f32,
        dropout_after: None,
    };
    let (mut out, mut normalized, mut rstd) = (vec![0.0; width], y.clone(), vec![0.0]);
    forward(&Threads::new(1).unwrap(), &mut out, &mut normalized, &mut rstd, terms);
    let (zeros, ones) = (vec![0.0; width], vec![1.0; width]);
    let parameters = [&zeros[..], &wide(&gain), &zeros];
    assert_close(&out, &reference(&wide(&y), &zeros, parameters, [&ones, &ones]), 1e-4);
}

#[test]
fn threads_do_not_change_a_bit() {
    let (rows, width) = (700, 200);
    let (y, dout) = (random(rows * width, 1), random(rows * width, 2));
    let (gain, shift) = (random(width, 3), random(width, 4));
    let (starts, places) = ([0, 300, 700], [0, 1]);
    let dropout = RowDropout::new(DropoutKey { seed: 5, step: 1, site: 9 }, 0.1, &starts, &places);
    let run = |count| {
        let threads = Threads::new(count).unwrap();
        let (mut out, mut normalized, mut rstd) = (vec![0.0; y.len()], y.clone(), vec![0.0; rows]);
        let terms = Forward {
            bias: Some(&shift),
            dropout,
            residual: Some(&dout),
            affine: Affine { gain: &gain, shift: &shift },
            epsilon: 1e-12,
            dropout_after: None,
        };
        forward(&threads, &mut out, &mut normalized, &mut rstd, terms);
        let (mut dv, mut dy) = (vec![0.0; rows * width], vec![0.0; rows * width]);
        let mut sums = [vec![0.0; width], vec![0.0; width], vec![0.0; width]];
        let [dgain, dshift, dbias] = &mut sums;
        let gradients = Gradients { gain: Some(dgain), shift: Some(dshift), bias: Some(dbias) };
        let terms = Backward {
            dout: &dout,
            normalized: &normalized,
            rstd: &rstd,
            gain: &gain,
            dropout,
            dropout_after: None,
        };
        backward(&threads, &mut dv, Some(&mut dy), terms, gradients);
        (out, dv, dy, sums)
    };
    assert!(run(1) == run(2));
    assert!(run(1) == run(3));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn any_shape(rows in 1usize..6, width in 2usize..40, dropped in any::<bool>(), count in 1usize..3) {
        check(rows, width, if dropped { 0.3 } else { 0.0 }, count, true);
    }
}
