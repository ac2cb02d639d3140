//! What a plugin costs in a training step: nothing. The plan that a plugin has
//! declared compiles to the same instructions as one written by hand.

#[path = "../host/engine/tests/support/mod.rs"]
mod engine_support;
mod support;

use std::fs;

use engine_support::{CLASSES, low_rank_named, method, task};
use host_engine::compile::Plans;
use host_engine::models;
use host_engine::models::config::EncoderConfig;
use host_ir::method::MethodPlan;
use host_ir::task::HeadKind;
use support::{host, root, succeeds};

#[test]
fn a_plugins_plan_compiles_to_the_instructions_of_one_written_by_hand() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let settings = [
        "r=4",
        "lora_alpha=6.0",
        "lora_dropout=0.1",
        "bias=\"lora_only\"",
        "target_modules=[\"query\",\"value\"]",
    ];
    let config = root().join("configs/quickstart.toml").display().to_string();
    let mut arguments = vec!["run".into(), config, "--method".into(), "lora".into(), "--out".into()];
    arguments.push(out.display().to_string());
    for setting in settings {
        arguments.extend(["--set".into(), format!("methods.lora.{setting}")]);
    }
    arguments.extend(["--set".into(), "training.max_steps=1".into()]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    succeeds(host(folder.path(), &arguments));
    let cell = fs::read_dir(out.join("cells")).unwrap().next().unwrap().unwrap().path();
    let declared: MethodPlan = serde_json::from_slice(&fs::read(cell.join("plan.json")).unwrap()).unwrap();

    let config = fs::read(root().join("host/assets/encoder/config.json")).unwrap();
    let config = EncoderConfig::read(&serde_json::from_slice(&config).unwrap()).unwrap();
    let head = HeadKind::Classification { classes: CLASSES };
    let model = models::describe(&config, head, &|name| !name.starts_with("classifier"));
    let names = ("lora_A", "lora_B");
    let by_hand = method(&model, |recorder| low_rank_named(recorder, &["query", "value"], 0.1, 1.5, names));
    let compiled = |method: MethodPlan| {
        let plans = Plans::new(config.clone(), model.clone(), task(head), method);
        plans.training().unwrap().program
    };
    let (declared, by_hand) = (compiled(declared), compiled(by_hand));
    assert!(by_hand.forward.len() > 20 && by_hand.backward.len() > 20);
    assert_eq!((declared.forward, declared.backward), (by_hand.forward, by_hand.backward));
    assert_eq!(declared.values, by_hand.values);
}
