//! Softmax cross-entropy of rows of logits with class numbers.

use super::parallel::{Threads, take};
use super::simd::{exp, maximum, sum_of, vectorize};

/// Fills `losses` `[rows]` with -log softmax(logits)`[label]` and `lse` `[rows]` with
/// the logarithm of the sum of exponentials, for `logits` [rows, classes]. A
/// negative label is none: its loss is 0.
pub fn forward(
    threads: &Threads,
    mut losses: &mut [f32],
    mut lse: &mut [f32],
    logits: &[f32],
    labels: &[i32],
) {
    let (rows, classes) = (labels.len(), width(logits.len(), labels));
    assert!(losses.len() == rows && lse.len() == rows);
    threads.run(threads.row_ranges(rows, classes).map(|rows| {
        let (losses, lse) = (take(&mut losses, rows.len()), take(&mut lse, rows.len()));
        let logits = &logits[rows.start * classes..rows.end * classes];
        let labels = &labels[rows];
        move || {
            vectorize(
                #[inline(always)]
                || {
                    let results = losses.iter_mut().zip(lse);
                    for ((x, &label), (loss, lse)) in logits.chunks_exact(classes).zip(labels).zip(results) {
                        *lse = log_sum_exp(x);
                        *loss = if label < 0 { 0.0 } else { *lse - x[label as usize] };
                    }
                },
            )
        }
    }));
}

/// Fills `dlogits` [rows, classes] with the gradient of Σ `weights[row]` *
/// `losses[row]`: (softmax - one at the label) * weight. The logits are given, or
/// stand in `dlogits` already.
pub fn backward(
    threads: &Threads,
    mut dlogits: &mut [f32],
    logits: Option<&[f32]>,
    lse: &[f32],
    labels: &[i32],
    weights: &[f32],
) {
    let (rows, classes) = (labels.len(), width(dlogits.len(), labels));
    assert!(lse.len() == rows && weights.len() == rows);
    threads.run(threads.row_ranges(rows, classes).map(|rows| {
        let dlogits = take(&mut dlogits, rows.len() * classes);
        move || {
            vectorize(
                #[inline(always)]
                || {
                    for (d, row) in dlogits.chunks_exact_mut(classes).zip(rows) {
                        if let Some(logits) = logits {
                            d.copy_from_slice(&logits[row * classes..(row + 1) * classes]);
                        }
                        if labels[row] < 0 {
                            d.fill(0.0);
                            continue;
                        }
                        let (lse, weight) = (lse[row], weights[row]);
                        d.iter_mut().for_each(
                            #[inline(always)]
                            |d| *d = weight * exp(*d - lse),
                        );
                        d[labels[row] as usize] -= weight;
                    }
                },
            )
        }
    }));
}

fn width(elements: usize, labels: &[i32]) -> usize {
    let classes = elements / labels.len().max(1);
    assert_eq!(elements, classes * labels.len(), "as many rows of logits as labels");
    classes.max(1)
}

/// log Σ e^x, without overflow.
#[inline(always)]
pub(super) fn log_sum_exp(x: &[f32]) -> f32 {
    let largest = maximum(x);
    let total = sum_of(
        x,
        #[inline(always)]
        |x| exp(x - largest),
    );
    largest + total.ln()
}

/// Makes a row of logits one of the logarithms of probabilities.
pub fn log_softmax(row: &mut [f32]) {
    vectorize(
        #[inline(always)]
        || {
            let largest = maximum(row);
            let sum = sum_of(row, |logit| exp(logit - largest));
            let log_sum = largest + sum.ln();
            row.iter_mut().for_each(|logit| *logit -= log_sum);
        },
    );
}

#[cfg(test)]
mod tests {
    use super::super::reference::{assert_close, gradient, random, wide};
    use super::*;

    fn exact(logits: &[f64], labels: &[i32]) -> Vec<f64> {
        let classes = logits.len() / labels.len();
        let row = |(x, &label): (&[f64], &i32)| {
            let largest = x.iter().copied().fold(f64::MIN, f64::max);
            let lse = largest + x.iter().map(|x| (x - largest).exp()).sum::<f64>().ln();
            if label < 0 { 0.0 } else { lse - x[label as usize] }
        };
        logits.chunks(classes).zip(labels).map(row).collect()
    }

    #[test]
    fn losses_and_gradients_agree_with_double_precision() {
        for (rows, classes) in [(1, 2), (5, 7), (3, 33)] {
            let (mut logits, weights) = (random(rows * classes, 1), random(rows, 2));
            logits[0] = 90.0;
            let labels: Vec<i32> =
                (0..rows).map(|row| if row == 2 { -100 } else { (row % classes) as i32 }).collect();
            let threads = Threads::new(2).unwrap();
            let (mut losses, mut lse) = (vec![0.0; rows], vec![0.0; rows]);
            forward(&threads, &mut losses, &mut lse, &logits, &labels);
            assert_close(&losses, &exact(&wide(&logits), &labels), 1e-6);
            let expected = gradient(&logits, |logits| {
                exact(logits, &labels).iter().zip(&weights).map(|(loss, &w)| loss * f64::from(w)).sum()
            });
            let mut d = vec![0.0; logits.len()];
            backward(&threads, &mut d, Some(&logits), &lse, &labels, &weights);
            assert_close(&d, &expected, 1e-6);
            let mut in_place = logits.clone();
            backward(&threads, &mut in_place, None, &lse, &labels, &weights);
            assert_eq!(d, in_place);
        }
    }

    #[test]
    fn a_large_vocabulary_is_summed_accurately_with_any_thread_count() {
        let (rows, classes) = (13, 30_522);
        let logits = random(rows * classes, 1);
        let labels: Vec<i32> = (0..rows as i32).map(|row| row * 2000).collect();
        let run = |count| {
            let threads = Threads::new(count).unwrap();
            let (mut losses, mut lse) = (vec![0.0; rows], vec![0.0; rows]);
            forward(&threads, &mut losses, &mut lse, &logits, &labels);
            let mut d = logits.clone();
            backward(&threads, &mut d, None, &lse, &labels, &[1.0; 13]);
            (losses, d)
        };
        let (losses, d) = run(1);
        assert_close(&losses, &exact(&wide(&logits), &labels), 1e-6);
        for row in d.chunks(classes) {
            assert!(row.iter().map(|&d| f64::from(d)).sum::<f64>().abs() < 1e-5);
        }
        assert_eq!((losses, d), run(2));
    }

    #[test]
    fn no_rows_are_no_work() {
        let threads = Threads::new(1).unwrap();
        forward(&threads, &mut [], &mut [], &[], &[]);
        backward(&threads, &mut [], None, &[], &[], &[]);
    }
}
