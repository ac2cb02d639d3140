use proptest::prelude::*;
use pulp::x86::{V3, V4};

use super::super::reference::{assert_close, random};
use super::*;

/// A product with operands of other strides than their widths, the last row cut short.
struct Case {
    size: [usize; 3],
    across: bool,
    alpha: f32,
    beta: f32,
    a: Vec<f32>,
    b: Vec<f32>,
    before: Vec<f32>,
}

impl Case {
    fn new(size @ [m, n, k]: [usize; 3], across: bool, alpha: f32, beta: f32) -> Case {
        let [rows, columns] = if across { [n, k] } else { [k, n] };
        let mut before = random(m * (n + 2) - 2, 3);
        if beta == 0.0 {
            (0..m).for_each(|row| before[row * (n + 2)..][..n].fill(f32::NAN));
        }
        let (a, b) = (random(m * (k + 3) - 3, 1), random(rows * (columns + 1) - 1, 2));
        Case { size, across, alpha, beta, a, b, before }
    }

    /// Its results on a kind of machine.
    fn on(&self, simd: impl Simd) -> Vec<f32> {
        let &Case { size: size @ [_, n, k], across, alpha, beta, .. } = self;
        let (a, b) = (Matrix::new(&self.a, k + 3), Matrix::new(&self.b, if across { k } else { n } + 1));
        let mut c = self.before.clone();
        let product = Product { size, alpha, beta, a, b, across, c: c.as_mut_ptr(), stride: n + 2 };
        simd.vectorize(product);
        c
    }

    fn exact(&self) -> Vec<f64> {
        let [m, n, k] = self.size;
        let mut results: Vec<f64> = self.before.iter().map(|&x| f64::from(x)).collect();
        for (row, column) in (0..m).flat_map(|row| (0..n).map(move |column| (row, column))) {
            let b = |i: usize| {
                if self.across { self.b[column * (k + 1) + i] } else { self.b[i * (n + 1) + column] }
            };
            let sum: f64 = (0..k).map(|i| f64::from(self.a[row * (k + 3) + i]) * f64::from(b(i))).sum();
            let place = &mut results[row * (n + 2) + column];
            let kept = if self.beta == 0.0 { 0.0 } else { f64::from(self.beta) * *place };
            *place = f64::from(self.alpha) * sum + kept;
        }
        results
    }

    /// Results are right on each kind of machine that this one is, and the same bits.
    fn check(&self) {
        let Some(narrow) = V3::try_new() else { return eprintln!("skipped: no AVX2 here") };
        let results = self.on(narrow);
        assert_close(&results, &self.exact(), 1e-4);
        let Some(wide) = V4::try_new() else { return eprintln!("skipped: no AVX-512 here") };
        assert_eq!(self.on(wide), results);
    }
}

#[test]
fn tiles_of_every_height_and_width_are_right() {
    for across in [false, true] {
        for rows in 1..=13 {
            Case::new([rows, 2 * 64 + 3 * rows, 40 + rows], across, 0.5, 1.0).check();
        }
        for columns in [1, 8, 16, 17, 40, 63, 64, 65] {
            Case::new([7, columns, 9], across, -2.0, 0.0).check();
        }
    }
}

#[test]
fn parts_of_a_long_inner_dimension_add_up() {
    for inner in [1, INNER - 1, INNER, INNER + 1, 3 * INNER + 5] {
        Case::new([8, 20, inner], true, 1.0, 0.0).check();
        Case::new([8, 20, inner], false, 1.0, -0.5).check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]
    #[test]
    fn any_size_is_right(m in 1usize..150, n in 1usize..150, k in 1usize..150, across in any::<bool>()) {
        Case::new([m, n, k], across, -0.7, 0.3).check();
    }
}
