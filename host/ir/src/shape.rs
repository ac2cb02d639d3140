//! Sizes of axes, some of which are known only when a batch is.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The size of one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Dim {
    /// A size that is the same for every sequence.
    Fixed(u32),
    /// The number of tokens of the sequence.
    Tokens,
    /// The number of tokens of the sequence that its noise has chosen.
    Masked,
    /// The number of tokens of the sequence's target.
    Targets,
    /// The number of words of the example.
    Words,
    /// So many thousandths of the words, rounded up.
    Share(u32),
}

/// From here on a size on the wire is a symbol.
const FIRST_SYMBOL: u32 = 1 << 31;
const WORDS: u32 = FIRST_SYMBOL + 0x100;
/// With the thousandths added.
const SHARE: u32 = FIRST_SYMBOL + 0x1000;

impl Dim {
    /// The size as plugins see it.
    pub fn to_wire(self) -> u32 {
        match self {
            Dim::Fixed(size) => size,
            Dim::Tokens => FIRST_SYMBOL,
            Dim::Masked => FIRST_SYMBOL + 1,
            Dim::Targets => FIRST_SYMBOL + 8,
            Dim::Words => WORDS,
            Dim::Share(thousandths) => SHARE + thousandths,
        }
    }

    /// The size that a plugin names; `None` for a symbol that was never issued.
    pub fn from_wire(size: u32) -> Option<Dim> {
        match size {
            size if size < FIRST_SYMBOL => Some(Dim::Fixed(size)),
            FIRST_SYMBOL => Some(Dim::Tokens),
            s if s == FIRST_SYMBOL + 1 => Some(Dim::Masked),
            s if s == FIRST_SYMBOL + 8 => Some(Dim::Targets),
            WORDS => Some(Dim::Words),
            s if (SHARE + 1..=SHARE + 1000).contains(&s) => Some(Dim::Share(s - SHARE)),
            _ => None,
        }
    }

    /// The size where it is the same for every sequence.
    pub fn fixed(self) -> Option<usize> {
        match self {
            Dim::Fixed(size) => Some(size as usize),
            _ => None,
        }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Fixed(size) => write!(f, "{size}"),
            Dim::Tokens => f.write_str("tokens"),
            Dim::Masked => f.write_str("masked tokens"),
            Dim::Targets => f.write_str("target tokens"),
            Dim::Words => f.write_str("words"),
            Dim::Share(thousandths) => write!(f, "{thousandths}‰ of the words"),
        }
    }
}

/// The sizes of all axes, outermost first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shape(pub Vec<Dim>);

impl Shape {
    /// A shape of fixed sizes.
    pub fn fixed(sizes: &[u32]) -> Shape {
        Shape(sizes.iter().map(|&size| Dim::Fixed(size)).collect())
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// The sizes, where none of them is a symbol.
    pub fn sizes(&self) -> Option<Vec<usize>> {
        self.0.iter().map(|dim| dim.fixed()).collect()
    }

    /// Number of elements, where no size is a symbol.
    pub fn elements(&self) -> Option<usize> {
        self.0.iter().map(|dim| dim.fixed()).try_fold(1usize, |product, size| product.checked_mul(size?))
    }

    /// NumPy's broadcasting: the shape of an element-wise operation on both.
    pub fn broadcast(&self, other: &Shape) -> Option<Shape> {
        let rank = self.rank().max(other.rank());
        let at = |shape: &Shape, axis: usize| {
            let missing = rank - shape.rank();
            if axis < missing { Dim::Fixed(1) } else { shape.0[axis - missing] }
        };
        (0..rank)
            .map(|axis| match (at(self, axis), at(other, axis)) {
                (a, b) if a == b => Some(a),
                (Dim::Fixed(1), b) => Some(b),
                (a, Dim::Fixed(1)) => Some(a),
                _ => None,
            })
            .collect::<Option<Vec<_>>>()
            .map(Shape)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (place, dim) in self.0.iter().enumerate() {
            if place > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{dim}")?;
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_survive_the_wire() {
        let fixed = [Dim::Fixed(0), Dim::Fixed(768)];
        for dim in
            fixed.into_iter().chain([Dim::Tokens, Dim::Masked, Dim::Targets, Dim::Words, Dim::Share(400)])
        {
            assert_eq!(Dim::from_wire(dim.to_wire()), Some(dim));
        }
        assert_eq!(Dim::from_wire(u32::MAX), None);
    }

    #[test]
    fn shapes_broadcast_as_in_numpy() {
        let tokens = Shape(vec![Dim::Tokens, Dim::Fixed(4)]);
        assert_eq!(tokens.broadcast(&Shape::fixed(&[4])), Some(tokens.clone()));
        assert_eq!(tokens.broadcast(&Shape::fixed(&[])), Some(tokens.clone()));
        assert_eq!(tokens.broadcast(&Shape::fixed(&[3])), None);
        assert_eq!(Shape::fixed(&[3, 1]).broadcast(&Shape::fixed(&[1, 2])), Some(Shape::fixed(&[3, 2])));
    }
}
