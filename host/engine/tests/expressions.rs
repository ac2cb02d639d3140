//! Each operation of plugins' expressions against PyTorch, forward and backward,
//! on both backends. tests/reference/operations.py writes the golden file. And where an
//! expression cannot stand.

mod support;

use std::collections::BTreeMap;

use host_engine::backend::Backend;
use host_engine::backend::cpu::Cpu;
use host_engine::engine::{Engine, NamedTensor};
use host_ir::graph::{Binary, Reduce, Unary};
use host_ir::random::Stream;
use host_ir::record::Recorder;
use host_ir::task::HeadKind;
use serde::Deserialize;
use support::{CLASSES, LENGTHS, batch, blocks, counted, plans};

/// p, as the script has it.
const P: [u32; 2] = [5, 7];

#[derive(Deserialize)]
struct Case {
    expression: String,
    q: Option<Vec<u32>>,
    /// Of the expression's result.
    shape: Vec<u32>,
    loss: f64,
    gradients: BTreeMap<String, Vec<f64>>,
}

fn drawn(name: &str, sizes: &[u32]) -> Vec<f64> {
    let mut stream = Stream::new(0, name);
    (0..sizes.iter().product::<u32>()).map(|_| f64::from((2.0 * stream.unit() - 1.0) as f32)).collect()
}

fn expression(r: &mut Recorder, name: &str, p: u32, q: Option<u32>) -> u32 {
    let unary = |r: &mut Recorder, function, value| r.unary(function, value).unwrap();
    let binary = |r: &mut Recorder, function| r.binary(function, p, q.unwrap()).unwrap();
    let reduce = |r: &mut Recorder, function, axis| r.reduce(function, p, &[axis], false).unwrap();
    let shifted = |r: &mut Recorder, value| r.affine(value, 1.0, 1.1).unwrap();
    match name {
        "exp" => unary(r, Unary::Exp, p),
        "log" => {
            let positive = shifted(r, p);
            unary(r, Unary::Log, positive)
        }
        "sqrt" => {
            let positive = shifted(r, p);
            unary(r, Unary::Sqrt, positive)
        }
        "abs" => unary(r, Unary::Abs, p),
        "tanh" => unary(r, Unary::Tanh, p),
        "sigmoid" => unary(r, Unary::Sigmoid, p),
        "relu" => unary(r, Unary::Relu, p),
        "gelu" => unary(r, Unary::Gelu, p),
        "silu" => unary(r, Unary::Silu, p),
        "affine" => r.affine(p, 1.5, -0.5).unwrap(),
        "power" => {
            let positive = shifted(r, p);
            r.power(positive, 2.5).unwrap()
        }
        "add" => binary(r, Binary::Add),
        "subtract" => binary(r, Binary::Subtract),
        "multiply" => binary(r, Binary::Multiply),
        "divide" => {
            let positive = shifted(r, q.unwrap());
            r.binary(Binary::Divide, p, positive).unwrap()
        }
        "maximum" => binary(r, Binary::Maximum),
        "minimum" => binary(r, Binary::Minimum),
        "sum" => reduce(r, Reduce::Sum, 1),
        "mean" => reduce(r, Reduce::Mean, 0),
        "norm" => reduce(r, Reduce::Norm, 1),
        "deviation" => reduce(r, Reduce::Deviation, 0),
        "log_sum_exp" => reduce(r, Reduce::LogSumExp, 1),
        "softmax" => r.softmax(p, 1).unwrap(),
        "log_softmax" => r.log_softmax(p, 0).unwrap(),
        "permute" => r.permute(p, &[1, 0]).unwrap(),
        "reshape" => r.reshape(p, &[7, 5]).unwrap(),
        "slice" => r.slice(p, 1, 2, 3).unwrap(),
        "concat" => r.concat(&[p, q.unwrap()], 0).unwrap(),
        "matmul" => r.matmul(p, q.unwrap()).unwrap(),
        "rows" => {
            let indices = r.integers(&[3], &[4, 0, 4]).unwrap();
            r.rows(p, indices).unwrap()
        }
        "cross_entropy" => {
            let labels = r.integers(&[5], &[6, 0, 3, 3, 1]).unwrap();
            r.cross_entropy(p, labels).unwrap()
        }
        other => panic!("the golden file has the expression {other}"),
    }
}

/// The plan whose loss is the expression, weighted.
fn plan(r: &mut Recorder, case: &Case) {
    let parameter = |r: &mut Recorder, name: &str, sizes: &[u32]| {
        let start = r.full(sizes, 0.0).unwrap();
        r.parameter(None, name, start, true).unwrap()
    };
    let p = parameter(r, "p", &P);
    let q = case.q.as_ref().map(|sizes| parameter(r, "q", sizes));
    let out = expression(r, &case.expression, p, q);
    let weights = r.constant(&case.shape, &drawn("w", &case.shape)).unwrap();
    let weighted = r.binary(Binary::Multiply, out, weights).unwrap();
    let axes: Vec<i32> = (0..case.shape.len() as i32).collect();
    let loss = r.reduce(Reduce::Sum, weighted, &axes, false).unwrap();
    r.add_loss(loss).unwrap();
}

#[test]
fn every_operation_of_expressions_agrees_with_pytorch() {
    let cases: Vec<Case> =
        serde_json::from_str(include_str!("../../../tests/golden/expressions.json")).unwrap();
    assert!(cases.len() > 30);
    for case in &cases {
        let name = &case.expression;
        let plans = plans(HeadKind::Classification { classes: CLASSES }, |recorder| plan(recorder, case));
        let start = |name: &str, sizes: &[u32]| NamedTensor {
            name: name.into(),
            shape: sizes.iter().map(|&size| size as usize).collect(),
            elements: drawn(name, sizes).into_iter().map(|value| value as f32).collect(),
        };
        let starts: Vec<NamedTensor> = [Some(start("p", &P)), case.q.as_ref().map(|sizes| start("q", sizes))]
            .into_iter()
            .flatten()
            .collect();
        let (second, copies) = counted();
        let backends: [Box<dyn Backend>; 2] = [Box::new(Cpu::new(2).unwrap()), second];
        for backend in backends {
            let mut engine = Engine::new(plans.clone(), blocks(&plans, 3), backend).unwrap();
            engine.restore(&starts).unwrap();
            let batch = batch(&LENGTHS, 0);
            let losses = engine.evaluate(&batch).unwrap().loss_sums;
            assert!((losses[1] - case.loss).abs() < 1e-5, "{name}: {} and {}", losses[1], case.loss);
            engine.accumulate(std::slice::from_ref(&batch), 0).unwrap();
            let gradients = engine.gradients().unwrap();
            for (parameter, expected) in &case.gradients {
                let found = gradients.iter().find(|tensor| tensor.name == *parameter).unwrap();
                assert_eq!(found.elements.len(), expected.len());
                let largest = expected.iter().fold(1.0f64, |largest, value| largest.max(value.abs()));
                for (place, (found, expected)) in found.elements.iter().zip(expected).enumerate() {
                    assert!(
                        (f64::from(*found) - expected).abs() < 1e-5 * largest,
                        "{name}: the gradient of {parameter} at {place} is {found}, not {expected}"
                    );
                }
            }
        }
        assert_eq!(copies.alone(), 0, "{name}: a list was not foreseen");
    }
}

/// A pooler reads one token of each sequence, and expressions are over all: they are refused
/// there with the plugin's place, whether they change what it makes or what it reads. Its
/// weight can be replaced, and a low-rank update is none of them.
#[test]
fn expressions_at_a_pooler_are_refused() {
    const HEAD: HeadKind = HeadKind::Classification { classes: CLASSES };
    fn pooler(recorder: &mut Recorder) -> u32 {
        recorder.at("plugin.rs", 7);
        support::select(recorder, &["pooler.dense"])[0]
    }
    let refused: [fn(&mut Recorder); 2] = [
        |recorder| {
            pooler(recorder);
            support::scaled_outputs(recorder, &["pooler.dense"]);
        },
        |recorder| {
            let site = pooler(recorder);
            let input = recorder.site_input(site).unwrap();
            let scaled = recorder.affine(input, 2.0, 0.0).unwrap();
            recorder.replace_input(site, scaled).unwrap();
        },
    ];
    for method in refused {
        let error = plans(HEAD, method).training().unwrap_err().to_string();
        let wanted = "an expression over what goes through bert.pooler.dense, which reads one token of each \
                      sequence, is not supported by this host yet";
        assert!(error.contains(wanted) && error.contains("plugin.rs:7"), "{error}");
    }
    let taken: [fn(&mut Recorder); 2] = [
        |recorder| support::low_rank(recorder, &["pooler.dense"], 0.25),
        |recorder| support::weight_hook(recorder, &["pooler.dense"]),
    ];
    for method in taken {
        plans(HEAD, method).training().unwrap();
    }
}
