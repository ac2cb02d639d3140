//! Evaluates expressions over parameters and constants: initial values, changed
//! base weights, merged weights. Sums are taken in 64 bits.

mod elements;

use crate::graph::{Graph, NewParameterId, NodeId, Op, Reduce};
use crate::method::MethodPlan;
use crate::model::ParameterId;
use crate::random::Stream;
use elements::{binary, broadcast, matmul, permute, reduced, regions, unary};

/// A dense row-major array.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tensor {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// Where an expression's leaves come from.
pub trait Leaves {
    /// The elements of a parameter of the model.
    fn base(&self, id: ParameterId) -> Result<Vec<f32>, String>;

    /// The elements of a new parameter.
    fn added(&self, id: NewParameterId) -> Result<Vec<f32>, String>;

    /// The stream for a random leaf, by the leaf's place in its expression and
    /// its key.
    fn random(&self, place: usize, key: Option<&str>) -> Result<Stream, String>;
}

/// The elements with which a new parameter starts, in row-major order.
///
/// Random leaves without a key are drawn by the seed, the parameter's name and
/// the leaf's place in the expression; with a key, by the seed and the key.
///
/// # Errors
/// A sentence about an operation that cannot be evaluated here.
pub fn initial_value(
    plan: &MethodPlan,
    id: NewParameterId,
    seed: u64,
    base: &dyn Fn(ParameterId) -> Vec<f32>,
) -> Result<Vec<f32>, String> {
    let parameter = plan.parameter(id);
    let leaves = InitialLeaves { plan, seed, name: &parameter.name, base };
    Ok(evaluate(&plan.graph, parameter.initial, &leaves)?.values)
}

struct InitialLeaves<'a> {
    plan: &'a MethodPlan,
    seed: u64,
    name: &'a str,
    base: &'a dyn Fn(ParameterId) -> Vec<f32>,
}

impl Leaves for InitialLeaves<'_> {
    fn base(&self, id: ParameterId) -> Result<Vec<f32>, String> {
        Ok((self.base)(id))
    }

    fn added(&self, id: NewParameterId) -> Result<Vec<f32>, String> {
        // Another parameter's start. A parameter exists only after the
        // expressions of those it starts from, so that this ends.
        initial_value(self.plan, id, self.seed, self.base)
    }

    fn random(&self, place: usize, key: Option<&str>) -> Result<Stream, String> {
        Ok(match key {
            Some(key) => Stream::new(self.seed, &format!("key {key}")),
            None => Stream::new(self.seed, &format!("parameter {} {place}", self.name)),
        })
    }
}

/// What a node evaluates to.
enum Evaluated {
    Real(Tensor),
    Integers(Vec<i32>),
}

/// Evaluates an expression that depends on no sequence.
///
/// # Errors
/// A sentence about a leaf or an operation that cannot be evaluated here.
pub fn evaluate(graph: &Graph, root: NodeId, leaves: &dyn Leaves) -> Result<Tensor, String> {
    let needed = graph.reachable(&[root]);
    let mut values: Vec<Option<Evaluated>> = Vec::new();
    values.resize_with(graph.nodes.len(), || None);
    // The last node that reads a value; then it goes.
    let mut last = vec![NodeId(0); graph.nodes.len()];
    for &id in &needed {
        graph.node(id).inputs.iter().for_each(|input| last[input.0 as usize] = id);
    }
    let mut draws = 0;
    for &id in &needed {
        let node = graph.node(id);
        let shape = node
            .shape
            .sizes()
            .ok_or_else(|| format!("{} of a sequence has no value here", node.op.name()))?;
        let real = |place: usize| match &values[node.inputs[place].0 as usize] {
            Some(Evaluated::Real(tensor)) => Ok(tensor),
            _ => Err(format!("{} wants a real value", node.op.name())),
        };
        let whole = |place: usize| match &values[node.inputs[place].0 as usize] {
            Some(Evaluated::Integers(integers)) => Ok(integers.as_slice()),
            _ => Err(format!("{} wants integers", node.op.name())),
        };
        let count: usize = shape.iter().product();
        let made = |values: Vec<f32>| Ok(Evaluated::Real(Tensor { shape: shape.clone(), values }));
        let mut stream = |key: &Option<String>| {
            draws += 1;
            leaves.random(draws, key.as_deref())
        };
        let value: Result<Evaluated, String> = match &node.op {
            Op::Constant(elements) => made(elements.iter().map(|&element| element as f32).collect()),
            Op::Integers(elements) => Ok(Evaluated::Integers(elements.to_vec())),
            Op::Full(value) => made(vec![*value as f32; count]),
            Op::Eye => {
                made((0..count).map(|place| f32::from(u8::from(place % (shape[0] + 1) == 0))).collect())
            }
            Op::Uniform { low, high, key } => {
                let mut stream = stream(key)?;
                made((0..count).map(|_| (low + (high - low) * stream.unit()) as f32).collect())
            }
            Op::Normal { mean, deviation, key } => {
                let mut stream = stream(key)?;
                made((0..count).map(|_| (mean + deviation * stream.normal()) as f32).collect())
            }
            Op::Draw { bound, key } => Ok(Evaluated::Integers(draw(&mut stream(key)?, count, *bound))),
            Op::Base(id) => made(leaves.base(*id)?),
            Op::New(id) => made(leaves.added(*id)?),
            Op::Unary(function) => made(real(0)?.values.iter().map(|&x| unary(*function, x)).collect()),
            Op::Affine { factor, offset } => {
                made(real(0)?.values.iter().map(|&x| (f64::from(x) * factor + offset) as f32).collect())
            }
            Op::Power(exponent) => {
                made(real(0)?.values.iter().map(|&x| f64::from(x).powf(*exponent) as f32).collect())
            }
            Op::Detach | Op::Dropout(_) | Op::Reshape => made(real(0)?.values.clone()),
            Op::Training => made(real(1)?.values.clone()),
            Op::Binary(function) => {
                let (a, b) = (broadcast(real(0)?, &shape), broadcast(real(1)?, &shape));
                made(a.zip(b).map(|(a, b)| binary(*function, a, b)).collect())
            }
            Op::Permute(axes) => made(permute(real(0)?, axes)),
            Op::Slice { axis, start, length } => {
                let x = real(0)?;
                made(regions(x, *axis, *start as usize, *length as usize).concat())
            }
            Op::Concat { axis } => {
                let parts = (0..node.inputs.len()).map(real).collect::<Result<Vec<_>, _>>()?;
                let parts: Vec<Vec<&[f32]>> =
                    parts.iter().map(|part| regions(part, *axis, 0, part.shape[*axis])).collect();
                let blocks = parts.first().map_or(0, Vec::len);
                made(
                    (0..blocks)
                        .flat_map(|block| parts.iter().flat_map(move |part| part[block].iter().copied()))
                        .collect(),
                )
            }
            Op::Matmul => matmul(real(0)?, real(1)?).and_then(made),
            Op::Reduce { reduce, axes, .. } => made(reduced(real(0)?, axes, *reduce)),
            Op::Softmax { axis } | Op::LogSoftmax { axis } => {
                let x = real(0)?;
                let mut kept = x.shape.clone();
                kept[*axis] = 1;
                let sums = Tensor { shape: kept, values: reduced(x, &[*axis], Reduce::LogSumExp) };
                let log = matches!(node.op, Op::LogSoftmax { .. });
                let sums = broadcast(&sums, &x.shape);
                made(
                    x.values
                        .iter()
                        .zip(sums)
                        .map(|(x, sum)| if log { x - sum } else { (x - sum).exp() })
                        .collect(),
                )
            }
            Op::Rows => {
                let (table, indices) = (real(0)?, whole(1)?);
                let row: usize = table.shape[1..].iter().product();
                let mut rows = Vec::with_capacity(count);
                for &index in indices {
                    let start = usize::try_from(index).ok().filter(|&index| index < table.shape[0]);
                    let start = start.ok_or_else(|| {
                        format!("rows: {index} lies outside a table of {} rows", table.shape[0])
                    })? * row;
                    rows.extend_from_slice(&table.values[start..start + row]);
                }
                made(rows)
            }
            Op::CrossEntropy
            | Op::SiteInput(_)
            | Op::SiteOutput(_)
            | Op::Hidden(_)
            | Op::ClassificationLogits(_)
            | Op::TokenLogits(_)
            | Op::ChoiceLogits(_)
            | Op::MaskedLogits(_)
            | Op::MaskedTokens(_)
            | Op::TargetLogits(_)
            | Op::TargetTokens(_)
            | Op::Label(_)
            | Op::Head(_)
            | Op::WordStates(_)
            | Op::WordNumbers(_)
            | Op::SpanNumbers { .. }
            | Op::Shift { .. }
            | Op::Positions { .. }
            | Op::Quotient(_)
            | Op::Remainder(_)
            | Op::Compare(_)
            | Op::Largest { .. }
            | Op::ArgMax { .. }
            | Op::Elements => Err(format!("{} has no value before a sequence is there", node.op.name())),
        };
        values[id.0 as usize] = Some(value?);
        for input in &node.inputs {
            if last[input.0 as usize] == id {
                values[input.0 as usize] = None;
            }
        }
    }
    match values[root.0 as usize].take() {
        Some(Evaluated::Real(tensor)) => Ok(tensor),
        _ => Err("an expression of integers has no real value".into()),
    }
}

/// Whole numbers below a bound, without replacement as long as possible.
fn draw(stream: &mut Stream, count: usize, bound: u32) -> Vec<i32> {
    let mut drawn = Vec::with_capacity(count);
    while drawn.len() < count {
        let mut pool: Vec<i32> = (0..bound as i32).collect();
        stream.shuffle(&mut pool);
        pool.truncate(count - drawn.len());
        drawn.extend(pool);
    }
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Binary, Kind, Scope, Unary};
    use crate::shape::Shape;

    struct NoLeaves;

    impl Leaves for NoLeaves {
        fn base(&self, _: ParameterId) -> Result<Vec<f32>, String> {
            Err("no base".into())
        }

        fn added(&self, _: NewParameterId) -> Result<Vec<f32>, String> {
            Err("no parameter".into())
        }

        fn random(&self, place: usize, key: Option<&str>) -> Result<Stream, String> {
            Ok(Stream::new(1, key.unwrap_or(&place.to_string())))
        }
    }

    fn constant(graph: &mut Graph, shape: &[u32], values: &[f64]) -> NodeId {
        graph.leaf(Op::Constant(values.into()), Shape::fixed(shape), Kind::Real, Scope::Plan, None)
    }

    fn value(graph: &mut Graph, op: Op, inputs: &[NodeId]) -> Vec<f32> {
        let node = graph.apply(op, inputs, None, None).unwrap();
        evaluate(graph, node, &NoLeaves).unwrap().values
    }

    #[test]
    fn operations_do_what_their_names_say() {
        let mut graph = Graph::default();
        let a = constant(&mut graph, &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let b = constant(&mut graph, &[3], &[10.0, 20.0, 30.0]);
        let g = &mut graph;
        assert_eq!(value(g, Op::Binary(Binary::Add), &[a, b]), [11.0, 22.0, 33.0, 14.0, 25.0, 36.0]);
        assert_eq!(value(g, Op::Permute(vec![1, 0]), &[a]), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        assert_eq!(value(g, Op::Slice { axis: 1, start: 1, length: 2 }, &[a]), [2.0, 3.0, 5.0, 6.0]);
        assert_eq!(value(g, Op::Concat { axis: 1 }, &[a, a])[..6], [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
        let transposed = g.apply(Op::Permute(vec![1, 0]), &[a], None, None).unwrap();
        assert_eq!(value(g, Op::Matmul, &[a, transposed]), [14.0, 32.0, 32.0, 77.0]);
        let reduce = |reduce, axes: &[usize]| Op::Reduce { reduce, axes: axes.to_vec(), keep: false };
        assert_eq!(value(g, reduce(Reduce::Sum, &[0]), &[a]), [5.0, 7.0, 9.0]);
        assert_eq!(value(g, reduce(Reduce::Mean, &[0, 1]), &[a]), [3.5]);
        assert!((value(g, reduce(Reduce::Deviation, &[1]), &[a])[0] - (2.0f32 / 3.0).sqrt()).abs() < 1e-6);
        assert!((value(g, Op::Softmax { axis: 1 }, &[a])[2] - 0.665_241).abs() < 1e-5);
        assert!((value(g, Op::Unary(Unary::Gelu), &[a])[0] - 0.841_345).abs() < 1e-5);
    }

    #[test]
    fn draws_come_without_replacement() {
        let mut drawn = draw(&mut Stream::new(1, "x"), 10, 10);
        drawn.sort_unstable();
        assert_eq!(drawn, (0..10).collect::<Vec<_>>());
        assert_eq!(draw(&mut Stream::new(1, "x"), 25, 10).len(), 25);
    }
}
