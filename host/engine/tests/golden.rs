//! The engine against PyTorch: logits, losses and every gradient of a tiny BERT
//! as transformers and peft compute them, and fifty steps of training. The
//! files are written by tests/reference/bert.py.

mod support;

use host_engine::backend::Backend;
use host_engine::backend::cpu::Cpu;
use host_engine::device::Precision;
use host_engine::init::initial_blocks;
use host_engine::models::config::EncoderConfig;
use host_engine::models::describe;
use host_engine::train::schedule::LearningRate;
use host_engine::train::settings::TrainingSettings;
use host_ir::model::{ModelDescription, SiteId, SiteKind};
use host_ir::record::Recorder;
use host_ir::select::{NamesOrPattern, Selection, select as select_sites};
use host_ir::task::HeadKind;
use support::golden::{ALL, check, check_pretrained, config, engine, find, folder, golden, norm, packed};
use support::{low_rank_named, plans_of, second_in, select, train_role};

const CLASSIFICATION: HeadKind = HeadKind::Classification { classes: 5 };

#[test]
fn full_fine_tuning_agrees_with_transformers() {
    check(
        ("bert", "classification"),
        CLASSIFICATION,
        |recorder| train_role(recorder, "all"),
        &packed(&ALL, 0, false),
        |_| false,
    );
}

#[test]
fn the_masked_language_model_agrees_with_transformers() {
    check(
        ("bert", "masked"),
        HeadKind::MaskedLanguageModel,
        |recorder| train_role(recorder, "all"),
        &packed(&ALL, 0, true),
        |name| name.starts_with("cls."),
    );
}

/// ELECTRA, with embeddings smaller than its hidden states.
#[test]
fn electra_agrees_with_transformers() {
    let all: fn(&mut Recorder) = |recorder| train_role(recorder, "all");
    check(("electra", "classification"), CLASSIFICATION, all, &packed(&ALL, 0, false), |_| false);
    let head = HeadKind::MaskedLanguageModel;
    check(("electra", "masked"), head, all, &packed(&ALL, 0, true), |name| name.starts_with("generator_"));
}

/// RoBERTa, with another norm's constant and positions that start at 2.
#[test]
fn roberta_agrees_with_transformers() {
    let all: fn(&mut Recorder) = |recorder| train_role(recorder, "all");
    let shifted = |masked: bool| {
        let mut batch = packed(&ALL, 0, masked);
        batch.positions.iter_mut().for_each(|position| *position += 2);
        batch
    };
    check(("roberta", "classification"), CLASSIFICATION, all, &shifted(false), |_| false);
    let head = HeadKind::MaskedLanguageModel;
    check(("roberta", "masked"), head, all, &shifted(true), |name| name.starts_with("lm_head."));
}

/// Token classification and multiple choice of each family: those classes of
/// transformers differ in the layers before the classifier. Multiple choice is of
/// two questions with three choices, their pieces packed without padding.
#[test]
fn heads_agree_with_transformers() {
    let biases: fn(&mut Recorder) = |recorder| train_role(recorder, "bias");
    for (family, first_position) in [("bert", 0), ("electra", 0), ("roberta", 2), ("deberta", 0)] {
        let moved = |places: &[usize]| {
            let mut batch = packed(places, 0, false);
            batch.positions.iter_mut().for_each(|position| *position += first_position);
            batch
        };
        let batch = moved(&ALL);
        let mut questions = moved(&[0, 1, 2, 3, 4, 0]);
        questions.example_starts = vec![0, 3, 6];
        questions.example_labels.insert("label".into(), vec![1, 2]);
        let new = |name: &str| {
            let parts = ["classifier.", "sequence_summary.", "roberta.pooler.", "pooler."];
            parts.iter().any(|part| name.starts_with(part))
        };
        check((family, "tokens"), HeadKind::TokenClassification { classes: 5 }, biases, &batch, new);
        check((family, "choice"), HeadKind::MultipleChoice, biases, &questions, new);
    }
}

/// DeBERTa: as v3 is, and with projections of its own for positions, absolute
/// positions and a row for each distance.
#[test]
fn deberta_agrees_with_transformers() {
    let all: fn(&mut Recorder) = |recorder| train_role(recorder, "all");
    for (family, head) in [("deberta", "cls."), ("deberta_own", "lm_predictions.")] {
        check((family, "classification"), CLASSIFICATION, all, &packed(&ALL, 0, false), |_| false);
        let own: fn(&str) -> bool = match head {
            "cls." => |name| name.starts_with("cls."),
            _ => |name| name.starts_with("lm_predictions."),
        };
        check((family, "masked"), HeadKind::MaskedLanguageModel, all, &packed(&ALL, 0, true), own);
    }
}

/// DeBERTa's published sizes with two classes, as transformers counts them. There
/// is no table of positions, and so no limit to them.
#[test]
fn debertas_have_the_parameters_of_transformers() {
    let sizes = [(128_100, 6, 141_896_450), (128_100, 12, 184_423_682), (251_000, 12, 278_810_882)];
    for (vocabulary, layers, parameters) in sizes {
        let json = serde_json::json!({
            "model_type": "deberta-v2", "vocab_size": vocabulary, "hidden_size": 768,
            "num_hidden_layers": layers, "num_attention_heads": 12, "intermediate_size": 3072,
            "max_position_embeddings": 512, "type_vocab_size": 0, "relative_attention": true,
            "max_relative_positions": -1, "position_buckets": 256, "norm_rel_ebd": "layer_norm",
            "share_att_key": true, "pos_att_type": "p2c|c2p", "position_biased_input": false,
        });
        let config = EncoderConfig::read(json.as_object().unwrap()).unwrap();
        assert!(config.positions > 1_000_000);
        let head = HeadKind::Classification { classes: 2 };
        let plans = plans_of(config, head, |recorder| train_role(recorder, "all"));
        assert_eq!(plans.method.counts(&plans.model).trained, parameters);
    }
}

/// A decoder of its own is none that this engine has: it is refused.
#[test]
fn a_masked_language_model_that_is_not_tied_is_refused() {
    let mut config = config("bert", "checkpoint").1;
    config.tied = false;
    let plans = plans_of(config, HeadKind::MaskedLanguageModel, |recorder| train_role(recorder, "all"));
    let error = plans.training().unwrap_err().to_string();
    assert!(error.contains("tie_word_embeddings = false"), "{error}");
}

/// The file that torch.save writes holds the same tensors, bit for bit.
#[test]
fn pickled_weights_are_those_of_the_safetensors_file() {
    let plans = plans_of(config("roberta", "pickled").1, CLASSIFICATION, |_| {});
    let blocks = ["pickled", "checkpoint"]
        .map(|name| initial_blocks(&plans, &config("roberta", name).0, false, 0).unwrap());
    assert_eq!(blocks[0], blocks[1]);
}

/// bert-base-uncased, bert-base-multilingual-cased, all-MiniLM-L6-v2, bert-tiny and
/// google/electra-small have so many parameters in transformers: with two classes of
/// sequences, as masked language models, for multiple choice, with two classes of tokens.
#[test]
fn berts_and_electras_have_the_parameters_of_transformers() {
    // Family, vocabulary, embedding size, hidden size, layers.
    let models = [
        ("bert", 30_522, 768, 768, 12, [109_483_778, 109_514_298, 109_483_009, 108_893_186]),
        ("bert", 119_547, 768, 768, 12, [177_854_978, 177_974_523, 177_854_209, 177_264_386]),
        ("bert", 30_522, 384, 384, 6, [22_713_986, 22_744_506, 22_713_601, 22_566_146]),
        ("bert", 30_522, 128, 128, 2, [4_386_178, 4_416_698, 4_386_049, 4_369_666]),
        ("electra", 30_522, 128, 256, 12, [13_549_314, 13_546_682, 13_549_057, 13_483_522]),
    ];
    for (family, vocabulary, embedded, hidden, layers, parameters) in models {
        let mut json = serde_json::json!({
            "model_type": family, "vocab_size": vocabulary, "hidden_size": hidden, "num_hidden_layers": layers,
            "num_attention_heads": 2, "intermediate_size": 4 * hidden, "max_position_embeddings": 512,
            "type_vocab_size": 2,
        });
        if family == "electra" {
            json["embedding_size"] = embedded.into();
        }
        let heads = [
            HeadKind::Classification { classes: 2 },
            HeadKind::MaskedLanguageModel,
            HeadKind::MultipleChoice,
            HeadKind::TokenClassification { classes: 2 },
        ];
        let count = |head| {
            let config = EncoderConfig::read(json.as_object().unwrap()).unwrap();
            let plans = plans_of(config, head, |recorder| train_role(recorder, "all"));
            plans.method.counts(&plans.model).trained
        };
        assert_eq!(heads.map(count), parameters, "{family} with {vocabulary} tokens and {layers} layers");
    }
}

/// What transformers has of them; XLM-R and CamemBERT differ from RoBERTa in
/// their sizes alone.
#[test]
fn families_of_roberta_have_the_parameters_of_transformers() {
    // roberta-base, xlm-roberta-base and EMBEDDIA/sloberta with two classes.
    let families = [
        ("roberta", 50265, 124_647_170),
        ("xlm-roberta", 250002, 278_045_186),
        ("camembert", 32005, 110_623_490),
    ];
    for (family, vocabulary, parameters) in families {
        let json = serde_json::json!({
            "model_type": family, "vocab_size": vocabulary, "hidden_size": 768, "num_hidden_layers": 12,
            "num_attention_heads": 12, "intermediate_size": 3072, "max_position_embeddings": 514,
            "type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1,
        });
        let config = EncoderConfig::read(json.as_object().unwrap()).unwrap();
        assert_eq!((config.positions, config.first_position), (512, 2));
        let head = HeadKind::Classification { classes: 2 };
        let plans = plans_of(config, head, |recorder| train_role(recorder, "all"));
        assert_eq!(plans.method.counts(&plans.model).trained, parameters, "{family}");
    }
}

/// The parameters of BERTić (ELECTRA-base with a vocabulary of 32,000) that the
/// reference trains, with two classes.
#[test]
fn counts_are_those_of_the_reference() {
    let json = serde_json::json!({
        "model_type": "electra", "vocab_size": 32000, "embedding_size": 768, "hidden_size": 768,
        "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
        "max_position_embeddings": 512, "type_vocab_size": 2,
    });
    let config = EncoderConfig::read(json.as_object().unwrap()).unwrap();
    let count = |plan: &dyn Fn(&mut Recorder)| {
        let plans = plans_of(config.clone(), HeadKind::Classification { classes: 2 }, plan);
        plans.method.counts(&plans.model).trained
    };
    assert_eq!(count(&|recorder| train_role(recorder, "all")), 110_618_882);
    // Factors of rank 16 at queries and values, with their biases and without.
    let factors = |recorder: &mut Recorder, biases: bool| {
        for site in select(recorder, &["query", "value"]) {
            for (name, shape) in [("lora_A", [16, 768]), ("lora_B", [768, 16])] {
                let start = recorder.full(&shape, 0.0).unwrap();
                recorder.parameter(Some(site), name, start, true).unwrap();
            }
            if let (true, Some(bias)) = (biases, recorder.site_bias(site).unwrap()) {
                recorder.train(bias).unwrap();
            }
        }
    };
    assert_eq!(count(&|recorder| factors(recorder, true)), 1_200_386);
    assert_eq!(count(&|recorder| factors(recorder, false)), 1_181_954);
    let prompt = count(&|recorder| {
        let start = recorder.full(&[20, 768], 0.0).unwrap();
        let prompt = recorder.parameter(None, "prompt", start, true).unwrap();
        recorder.prompt(prompt).unwrap();
    });
    assert_eq!(prompt, 607_490);
}

#[test]
fn virtual_tokens_agree_with_pytorch() {
    check(
        ("bert", "prompt"),
        CLASSIFICATION,
        |recorder| {
            let start = recorder.full(&[2, 32], 0.0).unwrap();
            let prompt = recorder.parameter(None, "prompt_embeddings", start, true).unwrap();
            recorder.prompt(prompt).unwrap();
        },
        &packed(&ALL, 2, false),
        |name| name == "prompt_embeddings",
    );
}

#[test]
fn low_rank_updates_agree_with_peft() {
    check(
        ("bert", "lora"),
        CLASSIFICATION,
        |recorder| low_rank_named(recorder, &["query", "value"], 0.0, 6.0 / 4.0, ("lora_A", "lora_B")),
        &packed(&ALL, 0, false),
        |name| name.starts_with("bert") && name.contains("lora_"),
    );
}

/// At the linears of masked language models' heads too, which peft takes for what they are:
/// the decoder, whose weights are the word embeddings, and, in the DeBERTa that has no
/// module for it, the dense layer alone.
#[test]
fn low_rank_updates_of_masked_language_models_agree_with_peft() {
    fn updates(recorder: &mut Recorder, names: &[&str]) {
        low_rank_named(recorder, names, 0.0, 6.0 / 4.0, ("lora_A", "lora_B"));
    }
    type Case = (&'static str, u32, fn(&mut Recorder));
    let cases: [Case; 5] = [
        ("bert", 0, |recorder| updates(recorder, &["query", "transform.dense", "predictions.decoder"])),
        ("electra", 0, |recorder| {
            updates(recorder, &["query", "generator_predictions.dense", "generator_lm_head"]);
        }),
        ("roberta", 2, |recorder| updates(recorder, &["query", "lm_head.dense", "lm_head.decoder"])),
        ("deberta", 0, |recorder| updates(recorder, &["query", "transform.dense", "predictions.decoder"])),
        ("deberta_own", 0, |recorder| updates(recorder, &["query", "lm_head.dense"])),
    ];
    let given = |name: &str| {
        let heads = ["cls.", "generator_", "lm_head.", "lm_predictions."];
        !name.starts_with("gradient.")
            && (name.contains("lora_") || heads.iter().any(|head| name.starts_with(head)))
    };
    for (family, first_position, plan) in cases {
        let mut batch = packed(&ALL, 0, true);
        batch.positions.iter_mut().for_each(|position| *position += first_position);
        check_pretrained((family, "lora_masked"), HeadKind::MaskedLanguageModel, plan, &batch, given);
    }
}

/// A head that the checkpoint has is a part of the model: it trains where a method says so,
/// its linears are sites, and "all-linear" takes them as peft does, which leaves out the
/// layer that makes scores of words. Of a head that is new, only the decoder is a site.
#[test]
fn the_head_of_a_masked_language_model_is_new_where_the_checkpoint_lacks_it() {
    let all = NamesOrPattern::Pattern("all-linear".into());
    let none = NamesOrPattern::Names(Vec::new());
    let selection = Selection {
        kind: SiteKind::Linear,
        targets: &all,
        exclude: &none,
        layers: &[],
        layers_patterns: &[],
    };
    let cases = [
        ("bert", vec!["cls.predictions.transform.dense"], vec!["cls.predictions.decoder"]),
        ("electra", vec!["generator_predictions.dense"], vec!["generator_lm_head"]),
        ("roberta", vec!["lm_head.dense"], vec!["lm_head.decoder"]),
        ("deberta", vec!["cls.predictions.transform.dense"], vec!["cls.predictions.decoder"]),
        ("deberta_own", vec![], vec!["lm_predictions.lm_head.dense"]),
    ];
    for (family, taken, left_out) in cases {
        let (checkpoint, config) = config(family, "checkpoint");
        let head = HeadKind::MaskedLanguageModel;
        let of_head = |name: &str| !name.contains("layer.") && !name.ends_with("embeddings_project");
        let named = |model: &ModelDescription, sites: Vec<SiteId>| -> Vec<String> {
            let names = sites.iter().map(|&site| model.module(site).name.clone());
            names.filter(|name| of_head(name)).collect()
        };
        let pretrained = describe(&config, head, &|_| true);
        assert_eq!(named(&pretrained, select_sites(&pretrained, &selection).unwrap()), taken, "{family}");
        assert_eq!(named(&pretrained, pretrained.sites(SiteKind::Linear)), [taken, left_out].concat());
        assert!(pretrained.parameters.iter().all(|parameter| !parameter.head));
        let new = describe(&config, head, &|name| checkpoint.has(name));
        let sites = named(&new, new.sites(SiteKind::Linear));
        assert!(sites.iter().all(|name| new.output_layer.is_some_and(|site| new.module(site).name == *name)));
        assert_eq!(new.parameters.iter().filter(|parameter| parameter.head).count(), 5, "{family}");
    }
}

/// Names without prefix, gamma and beta, float16: the logits are those of the
/// float32 file to the precision of the weights.
#[test]
fn older_files_give_the_same_logits() {
    let (checkpoint, config) = config("bert", "older");
    let plans = plans_of(config, CLASSIFICATION, |_| {});
    let mut engine = engine(&plans, &checkpoint, &[], Box::new(Cpu::new(1).unwrap()));
    let evaluation = engine.evaluate(&packed(&ALL, 0, false)).unwrap();
    let found: Vec<f32> = evaluation.outputs.iter().flat_map(|outputs| outputs[0].clone()).collect();
    let expected = golden("bert", "classification");
    let wanted = &find(&expected, "logits").elements;
    let apart: Vec<f32> = found.iter().zip(wanted).map(|(a, b)| a - b).collect();
    assert!(norm(&apart) < 1e-2 * norm(wanted), "{:e}", norm(&apart) / norm(wanted));
}

/// Fifty steps of AdamW with clipping, decay and a linear schedule with
/// warm-up: losses follow PyTorch's to 1e-3, rates and norms exactly.
#[test]
fn training_follows_pytorch() {
    follows_pytorch(Box::new(Cpu::new(2).unwrap()), [1e-3, 1e-2]);
}

/// The same in bf16, where losses and norms are a little off.
#[test]
fn training_in_bf16_follows_pytorch() {
    follows_pytorch(second_in(Precision::Bf16), [1e-2, 3e-2]);
}

/// Losses and norms are off by these shares at most.
fn follows_pytorch(backend: Box<dyn Backend>, [of_loss, of_norm]: [f64; 2]) {
    let text = std::fs::read_to_string(folder("bert").join("curve.json")).unwrap();
    let curve: serde_json::Value = serde_json::from_str(&text).unwrap();
    let at = |key: &str, step: usize| curve[key][step].as_f64().unwrap();
    let (checkpoint, config) = config("bert", "checkpoint");
    let plans = plans_of(config, CLASSIFICATION, |recorder| train_role(recorder, "all"));
    let settings = TrainingSettings {
        learning_rate: 1e-3,
        weight_decay: 0.01,
        warmup_steps: Some(5),
        ..TrainingSettings::default()
    };
    let rates = LearningRate::new(&settings, 50);
    let mut engine = engine(&plans, &checkpoint, &[], backend);
    for step in 0..50 {
        let places: Vec<usize> = (0..3).map(|offset| (step + offset) % 5).collect();
        let rate = rates.at(step as u64);
        assert!((rate - at("rates", step)).abs() < 1e-12);
        engine.step(&[packed(&places, 0, false)], &settings, rate, 0).unwrap();
        let result = engine.results().unwrap()[0];
        let wanted = at("losses", step);
        assert!(
            (result.loss - wanted).abs() < of_loss * wanted.max(0.1),
            "step {step}: {} and {wanted}",
            result.loss
        );
        let norm = at("norms", step);
        assert!(
            (result.gradient_norm - norm).abs() < of_norm * norm,
            "step {step}: norm {} and {norm}",
            result.gradient_norm
        );
    }
}
