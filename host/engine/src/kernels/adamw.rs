//! AdamW (Loshchilov and Hutter 2019) in place, in one pass over the parameter,
//! its gradient and its two moments.

use super::parallel::{Threads, take};
use super::simd::vectorize;

/// The settings of one step, as of torch.optim.AdamW.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
    /// The number of this step, from 1.
    pub step: u64,
    /// What the gradient is multiplied by before it is used, as for clipping.
    pub gradient_scale: f64,
}

/// The factors of a step in the precision of the parameters.
#[derive(Clone, Copy)]
struct Factors {
    decay: f32,
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    step_size: f32,
    root_correction: f32,
    epsilon: f32,
    gradient_scale: f32,
}

/// One step:
///
///     p = p (1 - learning_rate weight_decay)
///     m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g²
///     p = p - learning_rate / (1 - beta1^step) m / (sqrt(v / (1 - beta2^step)) + epsilon)
pub fn step(
    threads: &Threads,
    settings: &AdamW,
    mut parameter: &mut [f32],
    gradient: &[f32],
    mut first: &mut [f32],
    mut second: &mut [f32],
) {
    let length = parameter.len();
    assert!(gradient.len() == length && first.len() == length && second.len() == length);
    let correction = |beta: f64| 1.0 - beta.powf(settings.step as f64);
    let factors = Factors {
        decay: (1.0 - settings.learning_rate * settings.weight_decay) as f32,
        beta1: settings.beta1 as f32,
        rest1: (1.0 - settings.beta1) as f32,
        beta2: settings.beta2 as f32,
        rest2: (1.0 - settings.beta2) as f32,
        step_size: (settings.learning_rate / correction(settings.beta1)) as f32,
        root_correction: (1.0 / correction(settings.beta2).sqrt()) as f32,
        epsilon: settings.epsilon as f32,
        gradient_scale: settings.gradient_scale as f32,
    };
    threads.run(threads.row_ranges(length, 1).map(|range| {
        let parameter = take(&mut parameter, range.len());
        let (first, second) = (take(&mut first, range.len()), take(&mut second, range.len()));
        let gradient = &gradient[range];
        move || {
            vectorize(
                #[inline(always)]
                || update(factors, parameter, gradient, first, second),
            )
        }
    }));
}

#[inline(always)]
fn update(factors: Factors, parameter: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32]) {
    let Factors { decay, beta1, rest1, beta2, rest2, step_size, root_correction, epsilon, gradient_scale } =
        factors;
    let moments = first.iter_mut().zip(second);
    for ((p, g), (m, v)) in parameter.iter_mut().zip(gradient).zip(moments) {
        let g = g * gradient_scale;
        *m = beta1 * *m + rest1 * g;
        *v = beta2 * *v + rest2 * g * g;
        *p = *p * decay - step_size * *m / (v.sqrt() * root_correction + epsilon);
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::{assert_close, random, wide};
    use super::*;

    #[test]
    fn steps_agree_with_double_precision_and_between_thread_counts() {
        let length = 70_003;
        let settings = |step| AdamW {
            learning_rate: 1e-2 / step as f64,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.1,
            step,
            gradient_scale: 0.5,
        };
        let run = |count| {
            let threads = Threads::new(count).unwrap();
            let (mut p, mut m, mut v) = (random(length, 1), vec![0.0; length], vec![0.0; length]);
            for number in 1..=5 {
                let g = random(length, 10 + number);
                step(&threads, &settings(number), &mut p, &g, &mut m, &mut v);
            }
            (p, m, v)
        };
        let (mut p, mut m, mut v) = (wide(&random(length, 1)), vec![0.0; length], vec![0.0; length]);
        for number in 1..=5 {
            let s = settings(number);
            for (i, g) in random(length, 10 + number).iter().enumerate() {
                let g = f64::from(*g) * 0.5;
                p[i] *= 1.0 - s.learning_rate * s.weight_decay;
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.999 * v[i] + 0.001 * g * g;
                let (m_hat, v_hat) =
                    (m[i] / (1.0 - 0.9f64.powi(number as i32)), v[i] / (1.0 - 0.999f64.powi(number as i32)));
                p[i] -= s.learning_rate * m_hat / (v_hat.sqrt() + s.epsilon);
            }
        }
        let (found_p, found_m, found_v) = run(1);
        assert_close(&found_p, &p, 1e-6);
        assert_close(&found_m, &m, 1e-6);
        assert_close(&found_v, &v, 1e-6);
        assert_eq!((found_p, found_m, found_v), run(2));
    }

    #[test]
    fn the_first_step_moves_by_the_learning_rate() {
        // After bias correction the first step is learning_rate * sign(g).
        let settings = AdamW {
            learning_rate: 0.01,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            step: 1,
            gradient_scale: 1.0,
        };
        let (mut p, mut m, mut v) = ([1.0, 1.0], [0.0; 2], [0.0; 2]);
        step(&Threads::new(1).unwrap(), &settings, &mut p, &[5.0, -1e-3], &mut m, &mut v);
        assert!((p[0] - 0.99).abs() < 1e-6 && (p[1] - 1.01).abs() < 1e-6);
    }
}
