//! The main job, end to end: the binary, real plugins, real files.

mod support;

use std::fs;
use std::path::Path;

use support::{cells, decoder_model, experiment, fails, host, root, succeeds};

#[test]
fn a_run_trains_compares_and_is_not_repeated() {
    let folder = experiment(|config| config);
    let (table, log) = succeeds(host(folder.path(), &["run", "experiment.toml"]));
    for part in ["fft", "lora", "accuracy", "F1"] {
        assert!(table.contains(part), "{table}");
    }
    assert!(log.contains("trains") && log.contains("epoch 2"), "{log}");
    for file in ["stsa.fine.train", "stsa.fine.dev"] {
        assert_eq!(log.matches(&format!("/data/{file}\n")).count(), 1, "{log}");
    }
    let warning = "warning: 15 of 15 examples of dev stand among those that train too";
    assert_eq!(log.matches(warning).count(), 2, "once a cell: {log}");
    let run = folder.path().join("runs/experiment");
    let first = cells(&run);
    assert_eq!(first.len(), 2);
    for name in ["comparison.csv", "comparison.json", "comparison.md", "report.html", "config.toml"] {
        assert!(run.join(name).is_file(), "{name} is missing");
    }
    for (cell, _) in &first {
        for name in ["plan.json", "adapter.safetensors", "predictions-dev.jsonl", "epochs.jsonl"] {
            assert!(run.join("cells").join(cell).join(name).is_file(), "{cell} has no {name}");
        }
    }
    let stamp = |cell: &str| {
        fs::metadata(run.join("cells").join(cell).join("result.json")).unwrap().modified().unwrap()
    };
    let before: Vec<_> = first.iter().map(|(cell, _)| stamp(cell)).collect();
    let text = fs::read_to_string(folder.path().join("experiment.toml")).unwrap();
    fs::write(folder.path().join("experiment.toml"), text + "[methods.bitfit]\n").unwrap();
    let (table, _) = succeeds(host(folder.path(), &["run", "experiment.toml"]));
    assert!(table.contains("bitfit"), "{table}");
    assert_eq!(cells(&run).len(), 3);
    let after: Vec<_> = first.iter().map(|(cell, _)| stamp(cell)).collect();
    assert_eq!(before, after, "finished cells were trained again");
    let (text, _) = succeeds(host(folder.path(), &["eval", "runs/experiment"]));
    assert!(text.contains("agree with what was recorded") && !text.contains("differs"), "{text}");
}

/// Ctrl-C reaches the run and its cell, as at a terminal.
#[test]
fn an_interrupted_run_says_how_to_go_on() {
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    let folder = experiment(|config| config.replace("num_train_epochs = 2", "num_train_epochs = 2000"));
    let mut command =
        host(folder.path(), &["run", "experiment.toml", "--set", "methods.fft.training.max_steps=1"]);
    let mut child = command.stderr(std::process::Stdio::piped()).process_group(0).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("[2/2] lora")));
    assert!(lines.any(|line| line.contains("step 1/")));
    let mut kill = std::process::Command::new("kill");
    kill.args(["-INT", "--", &format!("-{}", child.id())]);
    succeeds(kill);
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().signal(), Some(2), "{rest:?}");
    assert_eq!(rest.last().unwrap(), "interrupted: the same command goes on; 1 cell is finished", "{rest:?}");
}

/// One step an epoch, the first with a learning rate of 0: what starts at zero has not
/// moved when it is looked at, and no gradient behind it is no fault.
#[test]
fn what_waits_for_the_first_update_is_no_alarm() {
    let folder = experiment(|config| config.replace("batch_size = 8", "batch_size = 40\nwarmup_steps = 2"));
    let (_, log) = succeeds(host(folder.path(), &["run", "experiment.toml", "--method", "lora"]));
    assert!(!log.contains("exactly zero"), "{log}");
}

/// Families whose parts have other names; the low-rank method knows them by itself.
#[test]
fn every_family_trains_and_is_evaluated_again() {
    for family in ["electra", "roberta", "deberta", "deberta_own", "t5", "bart"] {
        let folder = experiment(|config| config);
        let model = folder.path().join("model");
        match family {
            "t5" | "bart" => decoder_model(family, &model),
            _ => {
                for name in ["config.json", "model.safetensors"] {
                    let source = root().join("tests/golden").join(family).join("checkpoint").join(name);
                    fs::copy(source, model.join(name)).unwrap();
                }
            }
        }
        succeeds(host(folder.path(), &["run", "experiment.toml", "--method", "lora"]));
        let cells = cells(&folder.path().join("runs/experiment"));
        let trained = cells[0].1["result"]["epochs"].as_array().unwrap();
        assert!(trained.iter().all(|epoch| epoch["train_loss"].as_f64().unwrap() > 0.0), "{family}");
        let (text, _) = succeeds(host(folder.path(), &["eval", "runs/experiment"]));
        assert!(
            text.contains("agree with what was recorded") && !text.contains("differs"),
            "{family}: {text}"
        );
    }
}

#[test]
fn the_same_config_gives_the_same_numbers() {
    let run = || {
        let folder = experiment(|config| config);
        succeeds(host(folder.path(), &["run", "experiment.toml"]));
        let cells = cells(&folder.path().join("runs/experiment"));
        let metrics = cells.into_iter().map(|(_, cell)| cell["result"]["metrics"].to_string());
        metrics.collect::<Vec<_>>()
    };
    let first = run();
    assert!(first[0].contains("accuracy"), "{first:?}");
    assert_eq!(first, run());
}

/// The effective batch decides, not how it is cut.
#[test]
fn accumulation_changes_nothing_but_rounding() {
    let losses = |batch: u32, parts: u32| -> Vec<f64> {
        let folder = experiment(|config| {
            config.replace(
                "per_device_train_batch_size = 8",
                &format!("per_device_train_batch_size = {batch}\ngradient_accumulation_steps = {parts}"),
            )
        });
        succeeds(host(folder.path(), &["run", "experiment.toml", "--method", "lora"]));
        let cells = cells(&folder.path().join("runs/experiment"));
        let epochs = cells[0].1["result"]["epochs"].as_array().unwrap().clone();
        epochs.iter().map(|epoch| epoch["train_loss"].as_f64().unwrap()).collect()
    };
    for (whole, parts) in losses(8, 1).into_iter().zip(losses(2, 4)) {
        assert!((whole - parts).abs() < 1e-5, "{whole} {parts}");
    }
}

/// Losses by epoch of a run of one method, with further training keys, and its
/// log.
fn losses(keys: &str, environment: &[(&str, &str)]) -> (Vec<f64>, String) {
    let folder =
        experiment(|config| config.replace("learning_rate = 1e-3", &format!("learning_rate = 1e-3\n{keys}")));
    let mut command = host(folder.path(), &["run", "experiment.toml", "--method", "lora"]);
    command.envs(environment.iter().copied());
    let (_, log) = succeeds(command);
    let cells = cells(&folder.path().join("runs/experiment"));
    let epochs = cells[0].1["result"]["epochs"].as_array().unwrap().clone();
    (epochs.iter().map(|epoch| epoch["train_loss"].as_f64().unwrap()).collect(), log)
}

/// Where memory does not suffice, micro-batches are smaller, and the effective
/// batch and the result stay.
#[test]
fn little_memory_changes_nothing_but_rounding() {
    let (whole, _) = losses("", &[]);
    let (parts, log) = losses("", &[("SLURM_MEM_PER_NODE", "1")]);
    assert!(log.contains("memory does not suffice for micro-batches of 8 examples; 1 are taken"), "{log}");
    assert_eq!(whole.len(), 2);
    for (whole, part) in whole.into_iter().zip(parts) {
        assert!((whole - part).abs() < 1e-5, "{whole} {part}");
    }
}

#[test]
fn batches_can_be_measured_in_tokens() {
    let (losses, log) = losses("train_batch_tokens = 16", &[]);
    // Sentences of four tokens with the special ones: four to a batch.
    assert!(log.contains("20 optimizer steps"), "{log}");
    assert!(losses.iter().all(|loss| loss.is_finite()));
}

#[test]
fn training_stops_early_where_nothing_gets_better() {
    let (losses, log) =
        losses("early_stopping_patience = 2\nadam_beta1 = 0.5\nlr_scheduler_type = \"constant\"", &[]);
    assert_eq!(losses.len(), 2, "two epochs cannot be without a better one twice");
    assert!(!log.contains("stopped early"), "{log}");
    let folder = experiment(|config| {
        config
            .replace("num_train_epochs = 2", "num_train_epochs = 9\nearly_stopping_patience = 2")
            .replace("1e-3", "0.0")
    });
    let (_, log) = succeeds(host(folder.path(), &["run", "experiment.toml", "--method", "lora"]));
    assert!(log.contains("epoch 3") && !log.contains("epoch 4:"), "{log}");
    assert!(log.contains("stopped early"), "{log}");
}

#[test]
fn a_plan_is_shown_without_training() {
    let folder = experiment(|config| config);
    let (text, _) = succeeds(host(folder.path(), &["plan", "experiment.toml", "--method", "lora"]));
    for part in ["lora_A", "uniform([4, 32]", "(output + ", "merged weight"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(!folder.path().join("runs").exists(), "a plan has left something behind");
}

/// A merged model gives what the adapted one gave, in any program that loads it.
#[test]
fn a_merged_model_predicts_as_the_adapted_one() {
    let folder = experiment(|config| config);
    succeeds(host(folder.path(), &["run", "experiment.toml", "--method", "lora"]));
    succeeds(host(folder.path(), &["merge", "runs/experiment", "--out", "merged"]));
    let config = fs::read_to_string(folder.path().join("experiment.toml")).unwrap();
    let frozen = config
        .replace("path = \"model\"", "path = \"merged\"")
        .replace("learning_rate = 1e-3", "learning_rate = 0.0");
    fs::write(folder.path().join("merged.toml"), frozen).unwrap();
    succeeds(host(folder.path(), &["run", "merged.toml", "--method", "lora"]));
    let metrics = |run: &str| cells(&folder.path().join("runs").join(run))[0].1["result"]["metrics"].clone();
    assert_eq!(metrics("experiment"), metrics("merged"));
    let again = fails(host(folder.path(), &["merge", "runs/experiment", "--out", "merged"]), 1);
    assert!(again.contains("not empty"), "{again}");
    // As transformers' own classes load it, with the names of the task.
    let config = |folder: &Path| -> serde_json::Value {
        serde_json::from_str(&fs::read_to_string(folder.join("config.json")).unwrap()).unwrap()
    };
    let merged = config(&folder.path().join("merged"));
    assert_eq!(merged["architectures"], serde_json::json!(["BertForSequenceClassification"]));
    assert_eq!(
        (&merged["id2label"]["4"], &merged["label2id"]["neutral"]),
        (&"very positive".into(), &2.into())
    );
    assert_eq!(merged["hidden_size"], config(&folder.path().join("model"))["hidden_size"]);
    let plain = ["merge", "runs/experiment", "--out", "plain", "--without-head", "--precision", "f16"];
    succeeds(host(folder.path(), &plain));
    let plain = config(&folder.path().join("plain"));
    assert_eq!(plain["architectures"], serde_json::json!(["BertModel"]));
    assert_eq!(plain["torch_dtype"], "float16");
}

/// What cannot be loaded again is not finished; nothing of it is thrown away.
#[test]
fn a_cell_that_lacks_what_it_saved_is_trained_again() {
    let folder = experiment(|config| config);
    let path = folder.path();
    let run = || succeeds(host(path, &["run", "experiment.toml", "--method", "lora"])).1;
    run();
    assert!(run().contains("finished earlier, not trained again"));
    let cells_folder = path.join("runs/experiment/cells");
    let cell = cells_folder.join(&cells(&path.join("runs/experiment"))[0].0);
    let adapter = fs::read(cell.join("adapter.safetensors")).unwrap();
    fs::write(cell.join("adapter.safetensors"), &adapter[..100]).unwrap();
    for command in [&["eval", "runs/experiment"][..], &["merge", "runs/experiment", "--out", "merged"]] {
        let error = fails(host(path, command), 1);
        assert!(error.contains("adapter.safetensors has 100 bytes, and "), "{error}");
        assert!(error.contains("`host run` with the config of this run"), "{error}");
    }
    let log = run();
    assert!(log.contains("is broken (") && log.contains("trained anew"), "{log}");
    assert_eq!(fs::read(cell.join("adapter.safetensors")).unwrap(), adapter);
    fs::write(cell.join("result.json"), "").unwrap();
    let error = fails(host(path, &["compare", "runs/experiment"]), 1);
    assert!(error.contains("`host run` with its config trains it again"), "{error}");
    assert!(run().contains("result.json is not what this version writes"));
    let mut names: Vec<_> = fs::read_dir(&cells_folder)
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    let name = cell.file_name().unwrap().to_string_lossy().into_owned();
    assert_eq!(names, ["", ".broken", ".broken2"].map(|end| format!("{name}{end}")));
    succeeds(host(path, &["eval", "runs/experiment"]));
}

/// Data that are not what they were are named, whatever the metrics say of them.
#[test]
fn an_evaluation_names_the_file_that_has_changed() {
    let folder = experiment(|config| config);
    let path = folder.path();
    succeeds(host(path, &["run", "experiment.toml", "--method", "lora"]));
    let (out, log) = succeeds(host(path, &["eval", "runs/experiment"]));
    assert!(!log.contains("not what it was") && !out.contains("agrees\n"), "{out}{log}");
    let lines = (0..12).map(|n| format!("{} word{n} word9\n", n % 3)).collect::<String>();
    fs::write(path.join("data/stsa.fine.dev"), lines).unwrap();
    let error = fails(host(path, &["eval", "runs/experiment"]), 1);
    assert!(error.contains("stsa.fine.dev is not what it was in training (split dev)"), "{error}");
    assert!(!error.contains("stsa.fine.train is"), "{error}");
}

/// A method without a result is not passed over in silence.
#[test]
fn what_has_failed_stands_beside_the_table() {
    let folder = experiment(|config| config.replace("bias = \"lora_only\"", "target_modules = [\"qeury\"]"));
    let text = fails(host(folder.path(), &["run", "experiment.toml"]), 1);
    let line = "\nfailed: lora (seed 42): ";
    assert!(text.contains(line), "{text}");
    let run = folder.path().join("runs/experiment");
    assert!(fs::read_to_string(run.join("comparison.md")).unwrap().contains(line));
    let json: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(run.join("comparison.json")).unwrap()).unwrap();
    assert!(json["failed"][0].as_str().unwrap().contains("qeury"), "{json}");
}

/// The quickstart's promises: every method at least ten points above the
/// majority class, and pretraining worth ten points to low-rank updates.
#[test]
fn the_quickstart_keeps_its_promises() {
    let folder = tempfile::tempdir().unwrap();
    let config = root().join("configs/quickstart.toml");
    let config = config.to_str().unwrap();
    succeeds(host(folder.path(), &["run", config]));
    let accuracy = |run: &str, method: &str| -> f64 {
        let cells = cells(&folder.path().join("runs").join(run));
        let (_, cell) = cells.iter().find(|(name, _)| name.starts_with(&format!("{method}-s"))).unwrap();
        let splits = cell["result"]["metrics"].as_array().unwrap();
        splits.iter().find(|split| split["split"] == "dev").unwrap()["metrics"]["accuracy"].as_f64().unwrap()
    };
    let labels = fs::read_to_string(root().join("host/assets/quickstart/stsa.fine.dev")).unwrap();
    let count = |label: char| labels.lines().filter(|line| line.starts_with(label)).count();
    let majority = "01234".chars().map(count).max().unwrap() as f64 / labels.lines().count() as f64;
    for method in ["fft", "lora", "bitfit", "prompt-tuning"] {
        let accuracy = accuracy("quickstart", method);
        assert!(accuracy >= majority + 0.1, "{method}: {accuracy}, majority {majority}");
    }
    let fresh =
        ["run", config, "--set", "model.reinitialise=true", "--set", "name=fresh", "--method", "lora"];
    succeeds(host(folder.path(), &fresh));
    let (pretrained, fresh) = (accuracy("quickstart", "lora"), accuracy("fresh", "lora"));
    assert!(pretrained >= fresh + 0.1, "pretrained {pretrained}, re-initialised {fresh}");
}

/// A method that somebody shares: built outside the workspace with plain cargo,
/// dropped in, and only it trains.
#[test]
fn a_fifth_method_is_dropped_in() {
    let folder = experiment(|config| config.split("[methods").next().unwrap().to_string());
    let crate_folder = folder.path().join("scale");
    fs::create_dir_all(crate_folder.join("src")).unwrap();
    let manifest = fs::read_to_string(root().join("tests/fifth/Cargo.toml.txt")).unwrap();
    let sdk = root().join("plugins/sdk");
    fs::write(crate_folder.join("Cargo.toml"), manifest.replace("SDK", sdk.to_str().unwrap())).unwrap();
    fs::copy(root().join("tests/fifth/lib.rs.txt"), crate_folder.join("src/lib.rs")).unwrap();
    fs::copy(root().join("Cargo.lock"), crate_folder.join("Cargo.lock")).unwrap();
    succeeds(host(folder.path(), &["run", "experiment.toml"]));
    let run = folder.path().join("runs/experiment");
    let before = cells(&run);
    assert_eq!(before.len(), 4, "all embedded methods");
    let mut cargo = std::process::Command::new(env!("CARGO"));
    cargo.args(["build", "--release", "--target", "wasm32-unknown-unknown"]).current_dir(&crate_folder);
    cargo.arg("--target-dir").arg(root().join("target/fifth")).env_remove("RUSTFLAGS");
    succeeds(cargo);
    let plugins = folder.path().join("data-home/host/plugins");
    fs::create_dir_all(&plugins).unwrap();
    let built = root().join("target/fifth/wasm32-unknown-unknown/release/scale.wasm");
    fs::copy(built, folder.path().join("scale.wasm")).unwrap();
    fs::rename(folder.path().join("scale.wasm"), plugins.join("scale.wasm")).unwrap();
    let run_again = ["run", "experiment.toml", "--plugin-dir", plugins.to_str().unwrap()];
    let (table, log) = succeeds(host(folder.path(), &run_again));
    assert!(table.contains("scale"), "{table}");
    let after = cells(&run);
    assert_eq!(after.len(), 5);
    for (cell, record) in &before {
        assert!(
            after.iter().any(|(other, again)| other == cell && again == record),
            "{cell} was trained again\n{log}"
        );
    }
    what_has_moved_is_named(folder.path(), &plugins);
}

/// A run of another machine: model, data and plugin are in other folders here.
fn what_has_moved_is_named(folder: &Path, plugins: &Path) {
    for (from, to) in [("model", "moved-model"), ("data", "moved-data")] {
        fs::rename(folder.join(from), folder.join(to)).unwrap();
    }
    fs::rename(plugins, folder.join("moved-plugins")).unwrap();
    let eval = ["eval", "runs/experiment", "--data", "moved-data", "--model", "moved-model"];
    let error = fails(host(folder, &eval), 1);
    assert!(error.contains("the method plugin scale is not in"), "{error}");
    assert!(error.contains("--plugin-dir names the folder"), "{error}");
    let eval = [&eval[..], &["--plugin-dir", "moved-plugins", "--device", "cpu", "--threads", "1"]].concat();
    let (text, log) = succeeds(host(folder, &eval));
    assert!(text.contains(" of 5 cells agree with what was recorded"), "{text}");
    assert!(!log.contains("is not what it was in training"), "{log}");
    let error =
        fails(host(folder, &["merge", "runs/experiment", "--method", "bitfit", "--out", "merged"]), 1);
    assert!(error.contains("model"), "{error}");
    let merge =
        ["merge", "runs/experiment", "--method", "bitfit", "--out", "merged", "--model", "moved-model"];
    succeeds(host(folder, &[&merge[..], &["--data", "moved-data"]].concat()));
}
