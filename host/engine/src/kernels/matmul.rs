//! Matrix products: of enough rows, columns and products by tiles of our own (`panels`)
//! where the machine has AVX2 or AVX-512, others by the `gemm` crate, whose kernels for
//! AVX-512, AVX2 or NEON are chosen when the program runs too. Each thread runs sequential
//! products on its share of the result: columns where they can be shared evenly, so that
//! each part of the right operand is packed by one thread alone, or where there are few
//! rows; else rows. So no thread needs a copy.

use gemm::Parallelism;

#[cfg(target_arch = "x86_64")]
use super::panels::{Product, multiply, pays};
use super::parallel::{SharedMatrix, Threads, take};

/// Multiplications below which a share is not worth waking another thread.
pub(super) const MINIMUM_PRODUCTS: usize = 1 << 20;
/// Fewer rows than this in a share leave the kernels short of work a column.
const MINIMUM_ROWS: usize = 24;
/// Rows and columns are cut at multiples of the kernels' tiles.
const ROW_UNIT: usize = 6;
const COLUMN_UNIT: usize = 64;

/// A row-major matrix of which rows start every `stride` elements.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    pub values: &'a [f32],
    pub stride: usize,
}

/// A row-major matrix to write into.
#[derive(Debug)]
pub struct MatrixMut<'a> {
    pub values: &'a mut [f32],
    pub stride: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of `stride` elements; a part of the columns is a slice that starts
    /// at the first of them.
    pub fn new(values: &'a [f32], stride: usize) -> Matrix<'a> {
        Matrix { values, stride }
    }

    /// The rows from `row` on.
    pub(super) fn rows_from(&self, row: usize) -> Matrix<'a> {
        Matrix { values: &self.values[row * self.stride..], stride: self.stride }
    }

    /// The columns from `column` on.
    pub(super) fn columns_from(&self, column: usize) -> Matrix<'a> {
        Matrix { values: &self.values[column..], stride: self.stride }
    }

    fn check(&self, rows: usize, columns: usize) {
        let needed = if rows == 0 || columns == 0 { 0 } else { (rows - 1) * self.stride + columns };
        assert!(columns <= self.stride && needed <= self.values.len(), "a matrix is shorter than its size");
    }
}

impl<'a> MatrixMut<'a> {
    /// See `Matrix::new`.
    pub fn new(values: &'a mut [f32], stride: usize) -> MatrixMut<'a> {
        MatrixMut { values, stride }
    }
}

/// Which of the operands is transposed in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A [m, k], B [k, n].
    Plain,
    /// A [m, k], B [n, k].
    TransposedB,
    /// A [k, m], B [k, n].
    TransposedA,
}

impl Form {
    fn check(self, [m, n, k]: [usize; 3], a: Matrix<'_>, b: Matrix<'_>) {
        match self {
            Form::Plain => (a.check(m, k), b.check(k, n)),
            Form::TransposedB => (a.check(m, k), b.check(n, k)),
            Form::TransposedA => (a.check(k, m), b.check(k, n)),
        };
    }
}

/// C = alpha A B + beta C with C [m, n], A [m, k], B [k, n]. With beta 0, C is
/// not read.
pub fn nn(
    threads: &Threads,
    size: [usize; 3],
    alpha: f32,
    a: Matrix<'_>,
    b: Matrix<'_>,
    beta: f32,
    c: MatrixMut<'_>,
) {
    product(threads, Form::Plain, size, (alpha, beta), a, b, c);
}

/// C = alpha A Bᵀ + beta C with C [m, n], A [m, k], B [n, k]: a linear layer
/// whose weight is [out, in].
pub fn nt(
    threads: &Threads,
    size: [usize; 3],
    alpha: f32,
    a: Matrix<'_>,
    b: Matrix<'_>,
    beta: f32,
    c: MatrixMut<'_>,
) {
    product(threads, Form::TransposedB, size, (alpha, beta), a, b, c);
}

/// C = alpha Aᵀ B + beta C with C [m, n], A [k, m], B [k, n]: the gradient of a
/// weight.
pub fn tn(
    threads: &Threads,
    size: [usize; 3],
    alpha: f32,
    a: Matrix<'_>,
    b: Matrix<'_>,
    beta: f32,
    c: MatrixMut<'_>,
) {
    product(threads, Form::TransposedA, size, (alpha, beta), a, b, c);
}

fn product(
    threads: &Threads,
    form: Form,
    [m, n, k]: [usize; 3],
    factors: (f32, f32),
    a: Matrix<'_>,
    b: Matrix<'_>,
    mut c: MatrixMut<'_>,
) {
    let stride = c.stride;
    let even = form != Form::TransposedA && n.is_multiple_of(threads.count() * COLUMN_UNIT);
    let few_rows = m < threads.count() * MINIMUM_ROWS && n > m;
    if even || few_rows {
        let shared = SharedMatrix::new(c.values, stride);
        let minimum = MINIMUM_PRODUCTS.div_ceil((m * k).max(1));
        threads.run(threads.ranges(n, minimum, COLUMN_UNIT).map(|columns| {
            let shared = &shared;
            move || {
                let b = match form {
                    Form::TransposedB => b.rows_from(columns.start),
                    _ => b.columns_from(columns.start),
                };
                let size = [m, columns.len(), k];
                let c = shared.pointer(0, columns.start, m, columns.len());
                // SAFETY: `pointer` has checked the block, and the tasks' columns
                // do not overlap.
                unsafe { raw(form, size, factors, a, b, c, stride) };
            }
        }));
        return;
    }
    let minimum = MINIMUM_PRODUCTS.div_ceil((n * k).max(1)).max(MINIMUM_ROWS);
    if m == 0 {
        return;
    }
    threads.run(threads.ranges(m, minimum, ROW_UNIT).map(|rows| {
        let values = take(&mut c.values, rows.len() * stride);
        move || {
            let a = match form {
                Form::TransposedA => a.columns_from(rows.start),
                _ => a.rows_from(rows.start),
            };
            sequential(form, [rows.len(), n, k], factors, a, b, MatrixMut { values, stride });
        }
    }));
}

/// A product on the calling thread.
pub(super) fn sequential(
    form: Form,
    size @ [m, n, _]: [usize; 3],
    factors: (f32, f32),
    a: Matrix<'_>,
    b: Matrix<'_>,
    c: MatrixMut<'_>,
) {
    Matrix { values: c.values, stride: c.stride }.check(m, n);
    // SAFETY: the block has just been checked, and `c` is borrowed exclusively.
    unsafe { raw(form, size, factors, a, b, c.values.as_mut_ptr(), c.stride) };
}

/// A product on the calling thread, into a pointer.
///
/// # Safety
/// `c` is valid for m rows of n elements every `stride`, and nobody else reads
/// or writes these elements meanwhile.
pub(super) unsafe fn raw(
    form: Form,
    [m, n, k]: [usize; 3],
    (alpha, beta): (f32, f32),
    a: Matrix<'_>,
    b: Matrix<'_>,
    c: *mut f32,
    stride: usize,
) {
    form.check([m, n, k], a, b);
    #[cfg(target_arch = "x86_64")]
    if form != Form::TransposedA && pays([m, n, k]) {
        let across = form == Form::TransposedB;
        let product = Product { size: [m, n, k], alpha, beta, a, b, across, c, stride };
        // SAFETY: both operands have been checked, and `c` is the caller's promise.
        return unsafe { multiply(product) };
    }
    let (a_row, b_row) = (a.stride as isize, b.stride as isize);
    let (a_column, a_row) = if form == Form::TransposedA { (a_row, 1) } else { (1, a_row) };
    let (b_column, b_row) = if form == Form::TransposedB { (b_row, 1) } else { (1, b_row) };
    // gemm names the factor of the destination alpha and that of the product beta.
    // SAFETY: both operands have been checked, and `c` is the caller's promise.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c,
            1,
            stride as isize,
            beta != 0.0,
            a.values.as_ptr(),
            a_column,
            a_row,
            b.values.as_ptr(),
            b_column,
            b_row,
            beta,
            alpha,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::reference::{assert_close, random};
    use super::*;

    fn check(form: Form, [m, n, k]: [usize; 3], threads: usize, alpha: f32, beta: f32) {
        let threads = Threads::new(threads).unwrap();
        let (a_rows, a_columns) = if form == Form::TransposedA { (k, m) } else { (m, k) };
        let (b_rows, b_columns) = if form == Form::TransposedB { (n, k) } else { (k, n) };
        // Strides that differ from the widths, with the last row cut short.
        let (lda, ldb, ldc) = (a_columns + 3, b_columns + 1, n + 2);
        let a = random(a_rows * lda - 3, 1);
        let b = random(b_rows * ldb - 1, 2);
        let before = random(m * ldc - 2, 3);
        let mut c = before.clone();
        if beta == 0.0 {
            (0..m).for_each(|row| c[row * ldc..row * ldc + n].fill(f32::NAN));
        }
        let call = match form {
            Form::Plain => nn,
            Form::TransposedB => nt,
            Form::TransposedA => tn,
        };
        let (a_view, b_view) = (Matrix::new(&a, lda), Matrix::new(&b, ldb));
        call(&threads, [m, n, k], alpha, a_view, b_view, beta, MatrixMut::new(&mut c, ldc));
        let mut expected: Vec<f64> = before.iter().map(|&x| f64::from(x)).collect();
        for row in 0..m {
            for column in 0..n {
                let at = |i: usize| match form {
                    Form::Plain => (a[row * lda + i], b[i * ldb + column]),
                    Form::TransposedB => (a[row * lda + i], b[column * ldb + i]),
                    Form::TransposedA => (a[i * lda + row], b[i * ldb + column]),
                };
                let sum: f64 = (0..k).map(|i| f64::from(at(i).0) * f64::from(at(i).1)).sum();
                let place = &mut expected[row * ldc + column];
                *place = f64::from(alpha) * sum + f64::from(beta) * *place;
            }
        }
        assert_close(&c, &expected, 1e-4);
    }

    #[test]
    fn shares_by_rows_and_by_columns_are_right() {
        for form in [Form::Plain, Form::TransposedB, Form::TransposedA] {
            for threads in [1, 2, 3] {
                check(form, [513, 70, 40], threads, 0.5, 1.0);
                check(form, [5, 700, 300], threads, 2.0, 0.0);
                check(form, [200, 384, 30], threads, 1.0, 0.0);
                check(form, [1, 1, 1], threads, 1.0, 0.0);
                check(form, [1, 7, 513], threads, 1.0, -1.0);
            }
        }
    }

    #[test]
    fn an_empty_inner_dimension_leaves_beta_times_c() {
        let threads = Threads::new(1).unwrap();
        let mut c = vec![3.0; 4];
        let empty = Matrix::new(&[], 1);
        nn(
            &threads,
            [2, 2, 0],
            1.0,
            Matrix::new(&[], 0),
            Matrix::new(&[], 2),
            0.5,
            MatrixMut::new(&mut c, 2),
        );
        assert_eq!(c, [1.5; 4]);
        nn(&threads, [0, 1, 1], 1.0, empty, Matrix::new(&[1.0], 1), 0.0, MatrixMut::new(&mut [], 1));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]
        #[test]
        fn any_size(m in 1usize..80, n in 1usize..80, k in 1usize..80, threads in 1usize..4, form in 0..3) {
            let form = [Form::Plain, Form::TransposedB, Form::TransposedA][form as usize];
            check(form, [m, n, k], threads, -0.7, 0.3);
        }
    }
}
