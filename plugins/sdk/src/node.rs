//! Values of expressions, with the operators that one would expect.

use std::cell::Cell;
use std::ops::{Add, Div, Mul, Neg, Sub};
use std::panic::Location;

use crate::raw;

/// A value. It is a number that the host gave, and can be copied freely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node(pub(crate) u32);

thread_local! {
    /// The place last told, by address of the file's name and line.
    static PLACE: Cell<(usize, u32)> = const { Cell::new((0, 0)) };
}

/// Tells the host where the author stands, when that has changed.
pub(crate) fn here(location: &'static Location<'static>) {
    let place = (location.file().as_ptr() as usize, location.line());
    if PLACE.replace(place) != place {
        raw::at(location.file(), location.line());
    }
}

/// Forgets the place: the host does, at the start of each call.
pub(crate) fn forget_place() {
    PLACE.set((0, 0));
}

macro_rules! unary {
    ($($(#[$attribute:meta])* $name:ident;)*) => {
        $($(#[$attribute])*
        #[track_caller]
        pub fn $name(self) -> Node {
            here(Location::caller());
            Node(raw::$name(self.0))
        })*
    };
}

macro_rules! reduction {
    ($($(#[$attribute:meta])* $name:ident;)*) => {
        $($(#[$attribute])*
        /// The axes go, unless `keep` leaves them with size 1.
        #[track_caller]
        pub fn $name<const N: usize>(self, axes: [i32; N], keep: bool) -> Node {
            here(Location::caller());
            Node(raw::$name(self.0, &axes, keep))
        })*
    };
}

impl Node {
    /// The shape; sizes from 2^31 on are symbols.
    pub fn shape(self) -> Vec<u32> {
        raw::shape(self.0)
    }

    unary! {
        exp;
        log;
        sqrt;
        abs;
        tanh;
        sigmoid;
        relu;
        /// `x Phi(x)`, exact.
        gelu;
        silu;
        /// The value without its gradient.
        detach;
    }

    /// The last two axes exchanged.
    #[track_caller]
    pub fn t(self) -> Node {
        here(Location::caller());
        Node(raw::transpose(self.0))
    }

    /// Matrix product over the last two axes.
    #[track_caller]
    pub fn matmul(self, other: Node) -> Node {
        here(Location::caller());
        Node(raw::matmul(self.0, other.0))
    }

    /// To a constant power.
    #[track_caller]
    pub fn power(self, exponent: f64) -> Node {
        here(Location::caller());
        Node(raw::power(self.0, exponent))
    }

    /// The larger of two, element by element.
    #[track_caller]
    pub fn maximum(self, other: Node) -> Node {
        here(Location::caller());
        Node(raw::maximum(self.0, other.0))
    }

    /// The smaller of two, element by element.
    #[track_caller]
    pub fn minimum(self, other: Node) -> Node {
        here(Location::caller());
        Node(raw::minimum(self.0, other.0))
    }

    /// The axes in another order.
    #[track_caller]
    pub fn permute<const N: usize>(self, axes: [u32; N]) -> Node {
        here(Location::caller());
        Node(raw::permute(self.0, &axes))
    }

    /// The same elements in another shape.
    #[track_caller]
    pub fn reshape<const N: usize>(self, shape: [u32; N]) -> Node {
        here(Location::caller());
        Node(raw::reshape(self.0, &shape))
    }

    /// `length` places of an axis from `start` on.
    #[track_caller]
    pub fn slice(self, axis: i32, start: u32, length: u32) -> Node {
        here(Location::caller());
        Node(raw::slice(self.0, axis, start, length))
    }

    /// Sum of all elements.
    #[track_caller]
    pub fn total(self) -> Node {
        here(Location::caller());
        let axes: Vec<i32> = (0..raw::shape(self.0).len() as i32).collect();
        Node(raw::sum(self.0, &axes, false))
    }

    reduction! {
        /// Sum over axes.
        sum;
        /// Mean over axes.
        mean;
        /// Euclidean norm over axes.
        norm;
        /// Standard deviation over axes, divided by n.
        deviation;
    }

    #[track_caller]
    pub fn softmax(self, axis: i32) -> Node {
        here(Location::caller());
        Node(raw::softmax(self.0, axis))
    }

    #[track_caller]
    pub fn log_softmax(self, axis: i32) -> Node {
        here(Location::caller());
        Node(raw::log_softmax(self.0, axis))
    }

    #[track_caller]
    pub fn log_sum_exp(self, axis: i32, keep: bool) -> Node {
        here(Location::caller());
        Node(raw::log_sum_exp(self.0, axis, keep))
    }

    /// The largest element along an axis.
    #[track_caller]
    pub fn largest_over(self, axis: i32, keep: bool) -> Node {
        here(Location::caller());
        Node(raw::largest_over(self.0, axis, keep))
    }

    /// The integers 0, 1, ... along an axis.
    #[track_caller]
    pub fn positions(self, axis: i32) -> Node {
        here(Location::caller());
        Node(raw::positions(self.0, axis))
    }

    /// Integers divided by a constant: the whole part.
    #[track_caller]
    pub fn quotient(self, divisor: u32) -> Node {
        here(Location::caller());
        Node(raw::quotient(self.0, divisor))
    }

    /// Integers divided by a constant: what remains.
    #[track_caller]
    pub fn remainder(self, divisor: u32) -> Node {
        here(Location::caller());
        Node(raw::remainder(self.0, divisor))
    }

    /// 1 where both are equal, else 0, without gradient.
    #[track_caller]
    pub fn equal(self, other: Node) -> Node {
        here(Location::caller());
        Node(raw::equal(self.0, other.0))
    }

    /// 1 where this is less than the other, else 0, without gradient.
    #[track_caller]
    pub fn less(self, other: Node) -> Node {
        here(Location::caller());
        Node(raw::less(self.0, other.0))
    }

    /// Row i is row i + `by` of this, zeros where there is none.
    #[track_caller]
    pub fn shift(self, by: i32) -> Node {
        here(Location::caller());
        Node(raw::shift(self.0, by))
    }

    /// Row-major places of the largest elements: so many thousandths of the words.
    #[track_caller]
    pub fn largest(self, thousandths: u32) -> Node {
        here(Location::caller());
        Node(raw::largest(self.0, thousandths))
    }

    /// The first place along an axis that has the largest element.
    #[track_caller]
    pub fn arg_max(self, axis: i32) -> Node {
        here(Location::caller());
        Node(raw::arg_max(self.0, axis))
    }

    /// Elements at row-major places.
    #[track_caller]
    pub fn elements(self, places: Node) -> Node {
        here(Location::caller());
        Node(raw::elements(self.0, places.0))
    }

    /// Inverted dropout; in evaluation the value itself.
    #[track_caller]
    pub fn dropout(self, probability: f64) -> Node {
        here(Location::caller());
        Node(raw::dropout(self.0, probability))
    }

    /// This value in training, the other in evaluation.
    #[track_caller]
    pub fn in_training_else(self, evaluation: Node) -> Node {
        here(Location::caller());
        Node(raw::training(self.0, evaluation.0))
    }

    /// Rows of the first axis, by whole numbers.
    #[track_caller]
    pub fn rows(self, indices: Node) -> Node {
        here(Location::caller());
        Node(raw::rows(self.0, indices.0))
    }

    /// `-log softmax(self)[label]` over the last axis.
    #[track_caller]
    pub fn cross_entropy(self, labels: Node) -> Node {
        here(Location::caller());
        Node(raw::cross_entropy(self.0, labels.0))
    }
}

macro_rules! operator {
    ($($trait:ident $method:ident $function:ident |$number:ident| ($factor:expr, $offset:expr);)*) => {
        $(impl $trait for Node {
            type Output = Node;

            #[track_caller]
            fn $method(self, other: Node) -> Node {
                here(Location::caller());
                Node(raw::$function(self.0, other.0))
            }
        }

        impl $trait<f64> for Node {
            type Output = Node;

            #[track_caller]
            fn $method(self, $number: f64) -> Node {
                here(Location::caller());
                Node(raw::affine(self.0, $factor, $offset))
            }
        })*
    };
}

operator! {
    Add add add |number| (1.0, number);
    Sub sub subtract |number| (1.0, -number);
    Mul mul multiply |number| (number, 0.0);
    Div div divide |number| (1.0 / number, 0.0);
}

impl Neg for Node {
    type Output = Node;

    #[track_caller]
    fn neg(self) -> Node {
        self * -1.0
    }
}

/// A real number.
#[track_caller]
pub fn scalar(value: f64) -> Node {
    here(Location::caller());
    Node(raw::scalar(value))
}

/// The number everywhere.
#[track_caller]
pub fn full<const N: usize>(shape: [u32; N], value: f64) -> Node {
    here(Location::caller());
    Node(raw::full(&shape, value))
}

#[track_caller]
pub fn zeros<const N: usize>(shape: [u32; N]) -> Node {
    full(shape, 0.0)
}

#[track_caller]
pub fn ones<const N: usize>(shape: [u32; N]) -> Node {
    full(shape, 1.0)
}

/// The identity matrix.
#[track_caller]
pub fn eye(size: u32) -> Node {
    here(Location::caller());
    Node(raw::eye(size))
}

/// Random numbers between two bounds, in initial values.
#[track_caller]
pub fn uniform<const N: usize>(shape: [u32; N], low: f64, high: f64) -> Node {
    here(Location::caller());
    Node(raw::uniform(&shape, low, high, None))
}

/// Random numbers of the normal distribution, in initial values.
#[track_caller]
pub fn normal<const N: usize>(shape: [u32; N], mean: f64, deviation: f64) -> Node {
    here(Location::caller());
    Node(raw::normal(&shape, mean, deviation, None))
}

/// He et al. 2015 as torch.nn.init.kaiming_uniform_ has it: uniform within
/// ±sqrt(6 / ((1 + a²) inputs)), for a matrix [outputs, inputs].
#[track_caller]
pub fn kaiming_uniform([outputs, inputs]: [u32; 2], a: f64) -> Node {
    let bound = (6.0 / ((1.0 + a * a) * f64::from(inputs))).sqrt();
    uniform([outputs, inputs], -bound, bound)
}

/// Whole numbers of the plugin's own arithmetic, row-major.
#[track_caller]
pub fn whole_numbers<const N: usize>(shape: [u32; N], values: &[i32]) -> Node {
    here(Location::caller());
    Node(raw::integers(&shape, values))
}

/// Rows of a table by constant numbers.
#[track_caller]
pub fn rows_of(table: Node, indices: &[u32]) -> Node {
    here(Location::caller());
    let indices: Vec<i32> = indices.iter().map(|&index| index as i32).collect();
    table.rows(Node(raw::integers(&[indices.len() as u32], &indices)))
}

/// `count` rows of a table, drawn at random, in initial values.
#[track_caller]
pub fn sampled_rows(table: Node, count: u32) -> Node {
    here(Location::caller());
    let entries = raw::shape(table.0)[0];
    table.rows(Node(raw::draw(count, entries, None)))
}

/// Values side by side along an axis.
#[track_caller]
pub fn concat(values: &[Node], axis: i32) -> Node {
    here(Location::caller());
    let values: Vec<u32> = values.iter().map(|node| node.0).collect();
    Node(raw::concat(&values, axis))
}

/// Numbers of the plugin's own arithmetic, row-major.
#[track_caller]
pub fn constant<const N: usize>(shape: [u32; N], values: &[f64]) -> Node {
    here(Location::caller());
    Node(raw::constant(&shape, values))
}
