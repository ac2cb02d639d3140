//! What programs compute and what they leave out: nothing for what is frozen or read by nobody;
//! and what is refused before anything runs.

mod support;

use host_engine::compile::Plans;
use host_engine::models::config::EncoderConfig;
use host_engine::program::instruction::Instruction;
use host_ir::task::HeadKind;
use support::{CLASSES, methods, plans, plans_of};

const HEADS: [HeadKind; 2] = [HeadKind::Classification { classes: CLASSES }, HeadKind::MaskedLanguageModel];

#[test]
fn nothing_is_computed_for_what_is_frozen() {
    use host_engine::program::instruction::Instruction;
    let count = |method: &str| {
        let (_, method) = methods().into_iter().find(|(name, _)| *name == method).unwrap();
        let compiled = plans(HEADS[0], method).training().unwrap();
        let weights = compiled
            .program
            .backward
            .iter()
            .filter(|instruction| matches!(instruction, Instruction::LinearWeightGradient { .. }));
        weights.count()
    };
    // Two layers with query, key and value as one product, in the last as two, and
    // three more, the pooler and the classifier.
    assert_eq!(count("everything"), 4 + 5 + 2);
    assert_eq!(count("biases"), 1);
    assert_eq!(count("query biases"), 2 + 1);
    assert_eq!(count("low rank"), 1);
    assert_eq!(count("prompt"), 1);
}

/// Below a head that reads a row of each sequence, or the masked rows, the last
/// block works on those rows alone, but for what all its keys and values need.
#[test]
fn rows_that_nobody_reads_are_not_computed() {
    use host_engine::program::instruction::Instruction;
    use host_engine::program::value::Extent;
    let tokens = Extent::Tokens;
    // Two blocks of a product for query, key and value and three more, and two of the
    // head; queries of one row each are a product by themselves, and keys and values are
    // not made where their projections are frozen.
    let of_sequences = |memory: &[Extent]| {
        [[tokens; 4].to_vec(), vec![Extent::Sequences], memory.to_vec(), vec![Extent::Sequences; 5]].concat()
    };
    let of_masked = [[tokens; 5], [Extent::Masked; 5]].concat();
    for head in HEADS {
        let by_row = ["everything", "biases", "query biases", "low rank", "prompt"];
        for (name, method) in methods().into_iter().filter(|(name, _)| by_row.contains(name)) {
            let frozen = ["query biases", "prompt"].contains(&name);
            let rows = match head {
                HeadKind::MaskedLanguageModel => of_masked.clone(),
                _ if frozen => of_sequences(&[]),
                _ => of_sequences(&[tokens]),
            };
            let compiled = plans(head, method).training().unwrap();
            let linears = compiled.program.forward.iter().filter_map(|instruction| match *instruction {
                Instruction::Linear { y, .. } => Some(compiled.program.value(y).extents[0]),
                _ => None,
            });
            assert_eq!(linears.collect::<Vec<Extent>>(), rows, "{name}");
        }
    }
}

/// What ends at frozen embeddings is not computed: from the first block's attention down
/// gradients are those of virtual rows.
#[test]
fn gradients_go_on_to_virtual_rows_alone() {
    use host_engine::program::value::Extent;
    let narrow = |config: EncoderConfig, method: &str| {
        let (_, method) = methods().into_iter().find(|(name, _)| *name == method).unwrap();
        let program = plans_of(config, HEADS[0], method).training().unwrap().program;
        let rows = |value| program.value(value).extents[0];
        let mut virtual_gradients = Vec::new();
        for instruction in &program.backward {
            let gradient = match *instruction {
                Instruction::AttentionBackward { dqkv, .. } => dqkv,
                Instruction::LinearInputGradient { dx, .. } => dx,
                Instruction::NormBackward { dout, .. } => dout,
                Instruction::EmbedBackward { gradient, .. } => gradient,
                _ => continue,
            };
            if rows(gradient) == Extent::Virtual {
                virtual_gradients.push(<&str>::from(instruction));
            }
        }
        virtual_gradients
    };
    let below = ["LinearInputGradient", "NormBackward", "EmbedBackward"];
    for prompt in ["prompt", "prompt by an expression"] {
        assert_eq!(narrow(support::config(), prompt), [&["AttentionBackward"][..], &below].concat());
        assert_eq!(narrow(support::deberta(), prompt), below);
    }
    assert_eq!(narrow(support::config(), "prompt above low rank"), below[1..]);
    assert!(narrow(support::config(), "everything").is_empty());
}

/// The derivative of an activation takes the place of what it is computed of, unless the
/// activation is computed again for the gradient of a weight.
#[test]
fn derivatives_are_kept_where_nobody_reads_what_they_are_of() {
    for (name, kept) in [("prompt", 2), ("query biases", 2), ("everything", 0), ("low rank", 0)] {
        let (_, method) = methods().into_iter().find(|(other, _)| *other == name).unwrap();
        let program = plans(HEADS[0], method).training().unwrap().program;
        let slopes = |instructions: &[Instruction]| {
            let slope = |instruction: &Instruction| match *instruction {
                Instruction::Activate { slope, .. } | Instruction::ActivateBackward { slope, .. } => slope,
                _ => None,
            };
            instructions.iter().filter_map(slope).count()
        };
        assert_eq!([slopes(&program.forward), slopes(&program.backward)], [kept; 2], "{name}");
    }
}

/// What is composed of tensor operations pads sequences to the longest, and the memory
/// of a training counts that.
#[test]
fn scores_that_are_padded_are_planned_for() {
    use host_engine::program::cost::composed_bytes;
    use host_engine::program::value::Sizes;
    let compiled = plans(HEADS[0], methods()[0].1).training().unwrap();
    let taken = |longest, own_columns| {
        let sizes = Sizes { tokens: 80, sequences: 5, examples: 5, longest, ..Sizes::default() };
        let halves = vec![false; compiled.program.values.len()];
        composed_bytes(&compiled.program, &sizes, own_columns, &halves).into_iter().max().unwrap()
    };
    let bytes = |longest| taken(longest, 0);
    let scores = |longest: usize| 5 * 3 * longest * longest * size_of::<f32>();
    assert!(bytes(16) > 4 * scores(16));
    assert!(bytes(64) - bytes(16) > 4 * (scores(64) - scores(16)), "{} and {}", bytes(64), bytes(16));
    // Kernels of our own make none, where they take heads of the model's size.
    let size = compiled.program.instructions().find_map(|instruction| match *instruction {
        Instruction::Attention { heads, out, .. } => {
            Some(compiled.program.value(out).columns(&Sizes::default()) / heads)
        }
        _ => None,
    });
    let size = size.unwrap();
    assert_eq!(taken(64, size), taken(16, size));
    assert_eq!(taken(64, size - 1), bytes(64));
}

#[test]
fn what_trains_without_a_path_to_the_loss_is_refused() {
    let plans = plans(HEADS[0], |recorder| {
        let initial = recorder.full(&[4], 0.0).unwrap();
        recorder.parameter(None, "idle", initial, true).unwrap();
    });
    let error = plans.training().unwrap_err().to_string();
    assert_eq!(error, "idle should train, and the loss does not depend on it");
}

/// W is changed once by the start of new parameters, so that the model still
/// starts at the base (Meng et al. 2024, eq. 3).
#[test]
fn base_weights_are_changed_once_at_the_start() {
    use host_engine::init::{Weights, initial_blocks};
    struct Ones;
    impl Weights for Ones {
        fn load(&self, _: &str, _: &[u32], elements: &mut [f32]) -> Result<bool, String> {
            elements.fill(1.0);
            Ok(true)
        }
    }
    let plans = plans(HEADS[0], |recorder| {
        let targets = host_ir::record::NamesOrPattern::Pattern(r".*\.0\..*query".into());
        let none = host_ir::record::NamesOrPattern::Names(Vec::new());
        let site = recorder.select("linear", &targets, &none, &[], &[]).unwrap()[0];
        let start = recorder.full(&[24, 24], 0.25).unwrap();
        let added = recorder.parameter(Some(site), "added", start, true).unwrap();
        let weight = recorder.site_weight(site).unwrap();
        let less = recorder.binary(host_ir::graph::Binary::Subtract, weight, added).unwrap();
        recorder.change_base(site, less).unwrap();
        let more = recorder.binary(host_ir::graph::Binary::Add, weight, added).unwrap();
        recorder.replace_weight(site, more).unwrap();
    });
    let blocks = initial_blocks(&plans, &Ones, false, 0).unwrap();
    let query =
        plans.parameters.parts().find(|(_, part)| part.name.ends_with("layer.0.attention.self.query.weight"));
    let (block, part) = query.unwrap();
    assert!(blocks[block][part.offset..part.offset + part.elements].iter().all(|&element| element == 0.75));
    let key = &blocks[block][part.elements..2 * part.elements];
    assert!(key.iter().all(|&element| element == 1.0), "only the query changes");
}

/// What the contract has and this engine has not is refused, never left out.
#[test]
fn hooks_that_are_not_there_are_refused() {
    type Plan = fn(&mut host_ir::record::Recorder, u32);
    let hooks: [(&str, Plan); 3] = [
        ("chosen positions", |recorder, site| {
            let output = recorder.site_output(site).unwrap();
            recorder.replace_output_at(site, output, 1, 0).unwrap();
        }),
        ("controller", |recorder, _| recorder.every(10, &[]).unwrap()),
        ("further tensor", |recorder, site| {
            let weight = recorder.site_weight(site).unwrap();
            recorder.export_tensor("extra", weight).unwrap();
        }),
    ];
    for (part, hook) in hooks {
        let model = support::describe(HEADS[0]);
        let method = support::method(&model, |recorder| {
            recorder.at("plugin.rs", 7);
            let site = recorder.sites("linear").unwrap()[0];
            hook(recorder, site);
        });
        let plans = Plans::new(support::config(), model, support::task(HEADS[0]), method);
        let error = plans.training().unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("not supported by this host yet"), "{error}");
    }
}
