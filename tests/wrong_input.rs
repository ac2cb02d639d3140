//! Bad input gets a sentence that names the place, never a panic.

mod support;

use std::fs;
use std::path::Path;

use support::{experiment, fails, host, succeeds};

/// Runs the experiment after something was changed, and expects the parts in
/// the complaint.
#[track_caller]
fn complains(code: i32, change: impl FnOnce(String) -> String, spoil: impl FnOnce(&Path), parts: &[&str]) {
    let folder = experiment(change);
    spoil(folder.path());
    let text = fails(host(folder.path(), &["run", "experiment.toml"]), code);
    says(&text, parts);
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "\"{part}\" is not in:\n{text}");
    }
}

fn same(config: String) -> String {
    config
}

#[test]
fn an_unknown_key_is_named_with_the_nearest() {
    let change = |config: String| config.replace("learning_rate", "learning_rat");
    complains(2, change, |_| {}, &["experiment.toml:", "learning_rat", "did you mean `learning_rate`"]);
}

#[test]
fn an_unknown_key_of_a_plugin_is_named() {
    let change = |config: String| config.replace("bias = ", "biass = ");
    complains(2, change, |_| {}, &["biass", "did you mean `bias`"]);
}

#[test]
fn a_wrong_type_is_named() {
    let change = |config: String| config.replace("r = 4", "r = \"four\"");
    complains(2, change, |_| {}, &["experiment.toml:", "`r` of lora takes a whole number"]);
}

#[test]
fn broken_toml_is_named_with_its_line() {
    let change = |config: String| config.replace("[model]", "[model");
    complains(2, change, |_| {}, &["experiment.toml:3"]);
}

#[test]
fn an_unknown_plugin_is_named_with_the_nearest() {
    let change = |config: String| config.replace("[methods.lora]", "[methods.lorra]");
    complains(2, change, |_| {}, &["lorra", "did you mean `lora`"]);
}

/// The golden checkpoint has 40 positions.
#[test]
fn sequences_that_are_too_long_are_an_error_where_the_config_says_so() {
    let change = |config: String| config.replace("[task]", "too_long = \"error\"\n[task]");
    let lengthen = |folder: &Path| {
        let path = folder.join("data/stsa.fine.train");
        let lines = fs::read_to_string(&path).unwrap();
        fs::write(path, format!("{lines}1{}\n", " word9".repeat(60))).unwrap();
    };
    let parts = ["1 of 41 sequences of train have more than 40 tokens", "data.too_long"];
    complains(1, change, lengthen, &parts);
    // `host data` shows them first.
    let folder = experiment(change);
    lengthen(folder.path());
    let text = fails(host(folder.path(), &["data", "experiment.toml"]), 1);
    says(
        &text,
        &["train: 41 examples from", "1 sequence cut to 40 tokens", "a run would end here: ", parts[0]],
    );
    let change = |config: String| config.replace("[task]", "too_long = \"shout\"\n[task]");
    complains(2, change, |_| {}, &["experiment.toml:7", "`too_long` is \"shout\""]);
}

#[test]
fn missing_files_are_named() {
    complains(
        1,
        same,
        |folder| fs::remove_file(folder.join("data/stsa.fine.dev")).unwrap(),
        &["dev", "stsa.fine.train"],
    );
    complains(1, same, |folder| fs::remove_file(folder.join("model/config.json")).unwrap(), &["config.json"]);
    complains(
        1,
        same,
        |folder| fs::remove_file(folder.join("model/model.safetensors")).unwrap(),
        &["neither model.safetensors nor pytorch_model.bin"],
    );
    complains(
        1,
        same,
        |folder| fs::remove_file(folder.join("model/vocab.txt")).unwrap(),
        &["neither tokenizer.json nor vocab.txt"],
    );
    complains(
        1,
        |config| config.replace("\"model\"", "\"nowhere\""),
        |_| {},
        &["nowhere: there is no such folder", "model.path"],
    );
    let folder = experiment(same);
    let text = fails(host(folder.path(), &["run", "experimnt.toml"]), 2);
    let expected = "the config experimnt.toml cannot be read: ";
    assert!(text.contains(expected) && text.contains("did you mean `experiment.toml`?"), "{text}");
}

#[test]
fn bad_records_are_named_with_their_lines() {
    let write = |text: &'static [u8]| {
        move |folder: &Path| fs::write(folder.join("data/stsa.fine.train"), text).unwrap()
    };
    complains(
        1,
        same,
        write(b"1 word5\n9 word6\n"),
        &["stsa.fine.train:2", "the label is 9, and 0 to 4 are wanted"],
    );
    complains(1, same, write(b"1 word5\nword6\n"), &["stsa.fine.train:2", "a label from 0 to 4"]);
    complains(1, same, write(b"1 word5\n2 \xff\xfe\n"), &["stsa.fine.train:2", "no UTF-8"]);
    complains(1, same, write(b""), &["the split train has no example"]);
}

/// What trains needs a label; the first without one is named.
#[test]
fn examples_without_a_label_are_named_with_their_lines() {
    let change =
        |config: String| config.replace("\"sst5\"", "\"boolq-sl\"").replace("\"model\"", "\"embedded\"");
    let folder = experiment(change);
    let line =
        |label: &str| format!("{{\"question\": \"word5\", \"passage\": \"word6\", \"idx\": 0{label}}}\n");
    let (yes, none) = (line(", \"label\": true"), line(""));
    let data = folder.path().join("data");
    fs::write(data.join("val.jsonl"), &yes).unwrap();
    for (train, said) in [
        (
            format!("{yes}{none}{yes}"),
            "train.jsonl:2: 1 example of the training split has no label; it cannot",
        ),
        (
            format!("{yes}{none}{none}"),
            "train.jsonl:2: 2 examples of the training split have no label, this one",
        ),
    ] {
        fs::write(data.join("train.jsonl"), train).unwrap();
        for command in ["run", "data"] {
            says(&fails(host(folder.path(), &[command, "experiment.toml"]), 1), &[said]);
        }
    }
}

#[test]
fn files_of_no_split_are_named_with_their_line() {
    let change = |config: String| config.replace("[task]", "[data.files]\ntrian = \"x\"\n[task]");
    complains(
        2,
        change,
        |_| {},
        &["experiment.toml:8: the task has no split `trian`; did you mean `train`?"],
    );
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let folder = experiment(|config| config.replace("\"model\"", "\"embedded\""));
    let mut command = host(folder.path(), &["plan", "experiment.toml"]);
    command.env("XDG_CACHE_HOME", folder.path().join("experiment.toml"));
    says(&fails(command, 1), &["experiment.toml/host cannot be written", "XDG_CACHE_HOME"]);
}

#[test]
fn a_measurement_of_no_step_is_refused() {
    let folder = experiment(same);
    fails(host(folder.path(), &["bench", "experiment.toml", "--steps", "0"]), 2);
}

#[test]
fn damaged_checkpoints_are_named() {
    let cut = |folder: &Path| {
        let path = folder.join("model/model.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    };
    complains(1, same, cut, &["model.safetensors", "cut short"]);
    let other_size = |folder: &Path| {
        let path = folder.join("model/config.json");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("\"intermediate_size\": 48", "\"intermediate_size\": 40")).unwrap();
    };
    complains(1, same, other_size, &["intermediate.dense", "has the shape [48, 32]", "[40, 32]"]);
    let deeper = |folder: &Path| {
        let path = folder.join("model/config.json");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3")).unwrap();
    };
    complains(1, same, deeper, &["the checkpoint has no tensor bert.encoder.layer.2."]);
    // A plan reads no weights, and sees the same.
    for (spoil, said) in [
        (&other_size as &dyn Fn(&Path), "has the shape [48, 32]"),
        (&deeper, "the checkpoint has no tensor bert.encoder.layer.2."),
        (
            &renamed,
            "the checkpoint has no tensor bert.encoder.layer.0.attention.self.query.weight; did you mean",
        ),
    ] {
        let folder = experiment(same);
        spoil(folder.path());
        says(&fails(host(folder.path(), &["plan", "experiment.toml", "--summary"]), 1), &[said]);
    }
}

/// Gives a tensor of the checkpoint another name of the same length.
fn renamed(folder: &Path) {
    let path = folder.join("model/model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let name = b"layer.0.attention.self.query.weight";
    let place = bytes.windows(name.len()).position(|part| part == name).unwrap();
    bytes[place + name.len() - 1] = b'd';
    fs::write(path, bytes).unwrap();
}

/// Before anything was changed, no learning rate is to blame.
#[test]
fn a_checkpoint_with_no_numbers_is_not_the_learning_rates_fault() {
    let spoil = |folder: &Path| {
        let path = folder.join("model/model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        let place = {
            let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            let tensor = tensors.tensor("bert.embeddings.LayerNorm.weight").unwrap();
            tensor.data().as_ptr() as usize - bytes.as_ptr() as usize
        };
        bytes[place..place + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        fs::write(path, bytes).unwrap();
    };
    complains(
        1,
        same,
        spoil,
        &["step 1 is NaN; nothing was changed before it", "the weights of the checkpoint"],
    );
}

#[test]
fn targets_that_match_nothing_are_named_with_what_is_near() {
    let change = |config: String| config.replace("bias = \"lora_only\"", "target_modules = [\"qeury\"]");
    complains(1, change, |_| {}, &["qeury", "did you mean `query`"]);
    let change = |config: String| config.replace("bias = \"lora_only\"", "target_modules = \"query\"");
    complains(1, change, |_| {}, &["matches no module", "the whole name"]);
}

#[test]
fn prompts_that_leave_no_room_are_refused() {
    let change = |config: String| {
        config.replace(
            "[methods.lora]\nr = 4\nbias = \"lora_only\"",
            "[methods.prompt-tuning]\nnum_virtual_tokens = 40",
        )
    };
    complains(1, change, |_| {}, &["40 virtual tokens leave no room"]);
}

/// What a loss that is no number any more ends with.
#[test]
fn a_loss_that_explodes_ends_the_cell() {
    let change = |config: String| {
        let config = config.replace("learning_rate = 1e-3", "learning_rate = 1e30\nmax_grad_norm = 0.0");
        config.split("[methods.lora]").next().unwrap().to_string()
    };
    let folder = experiment(change);
    let text = fails(host(folder.path(), &["run", "experiment.toml"]), 1);
    let sentence =
        "batch 2 of epoch 1: the loss of step 2 is NaN; a lower learning rate, or warm-up, may help";
    assert_eq!(text.matches(sentence).count(), 1, "{text}");
    says(&text, &["1 of 1 cell failed: fft (seed 42)"]);
}

/// An evaluation without a number ends the cell too, and the checkpoint of the epoch
/// before stays where the sentence says.
#[test]
fn the_last_good_checkpoint_outlives_a_later_explosion() {
    let folder = experiment(|config| {
        // One step an epoch; the first is made with a learning rate of 0.
        let keys = "learning_rate = 1e30\nwarmup_steps = 2\nmax_grad_norm = 0.0";
        let config =
            config.replace("learning_rate = 1e-3", keys).replace("batch_size = 8", "batch_size = 40");
        config.split("[methods.lora]").next().unwrap().to_string()
    });
    let text = fails(host(folder.path(), &["run", "experiment.toml"]), 1);
    for part in ["the model's output is NaN", "the best checkpoint so far is in"] {
        assert!(text.contains(part), "\"{part}\" is not in:\n{text}");
    }
    let cell = fs::read_dir(folder.path().join("runs/experiment/cells")).unwrap().next().unwrap().unwrap();
    let saved = fs::read(cell.path().join("adapter.safetensors")).unwrap();
    for (name, tensor) in safetensors::SafeTensors::deserialize(&saved).unwrap().tensors() {
        for bytes in tensor.data().chunks_exact(4) {
            let value = f32::from_le_bytes(bytes.try_into().unwrap());
            assert!(value.abs() < 100.0, "{name} has {value}");
        }
    }
}

fn plugin_check(name: &str, content: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(name), content).unwrap();
    fails(host(folder.path(), &["plugin", "check", name]), 1)
}

#[test]
fn files_that_are_no_plugins_are_named() {
    assert!(plugin_check("text.wasm", b"hello").contains("text.wasm: this is no WebAssembly component"));
    let empty = wat::parse_str("(component)").unwrap();
    assert!(plugin_check("empty.wasm", &empty).contains("exports nothing of the contract"));
    let module = wat::parse_str("(module)").unwrap();
    let text = plugin_check("module.wasm", &module);
    assert!(text.contains("module.wasm: "), "{text}");
}

#[test]
fn a_plugin_that_is_not_there_is_said_so() {
    let folder = tempfile::tempdir().unwrap();
    let text = fails(host(folder.path(), &["plugin", "check", "none.wasm"]), 1);
    says(&text, &["none.wasm: the file cannot be read: No such file"]);
    assert!(!text.contains("WebAssembly"), "{text}");
}

/// One broken file in the folder of plugins is told of, and stops only who may mean it.
#[test]
fn a_broken_plugin_stops_nobody_who_does_not_ask_for_it() {
    let folder = experiment(same);
    let plugins = folder.path().join("data-home/host/plugins");
    fs::create_dir_all(&plugins).unwrap();
    fs::write(plugins.join("mine.wasm"), b"\0asm\x01\0\0\0\x01\x7f").unwrap();
    let warning = "mine.wasm: this is no WebAssembly component";
    for arguments in [&["plugin", "list"][..], &["plan", "experiment.toml", "--summary"]] {
        let (_, log) = succeeds(host(folder.path(), arguments));
        says(&log, &["warning: ", warning, "it is left out: build or copy the file again, or take it away"]);
    }
    let all = fs::read_to_string(folder.path().join("experiment.toml")).unwrap();
    fs::write(folder.path().join("all.toml"), all.split("[methods").next().unwrap()).unwrap();
    let text = fails(host(folder.path(), &["plan", "all.toml", "--summary"]), 1);
    says(&text, &[warning, "the config takes every method that is installed", "--method NAME"]);
    succeeds(host(folder.path(), &["plan", "all.toml", "--summary", "--method", "bitfit"]));
    let asked = ["plan", "experiment.toml", "--set", "methods.mine.r=2"];
    says(&fails(host(folder.path(), &asked), 2), &[warning, "there is no method plugin `mine`"]);
}

/// Whatever a plugin does when it is asked, a sentence ends it.
#[test]
fn plugins_that_never_end_or_eat_memory_are_stopped() {
    let component = |describe: &str| {
        let text = format!(
            r#"(component
                (core module $module
                    (memory (export "memory") 1)
                    (func (export "describe") {describe})
                    (func (export "plan") (result i32) i32.const 0))
                (core instance $core (instantiate $module))
                (func $describe (canon lift (core func $core "describe")))
                (func $plan (result (result (error string)))
                    (canon lift (core func $core "plan") (memory (core memory $core "memory"))))
                (instance $method (export "describe" (func $describe)) (export "plan" (func $plan)))
                (export "peft:plugin/method@0.1.0" (instance $method)))"#
        );
        wat::parse_str(text).unwrap()
    };
    let endless = plugin_check("endless.wasm", &component("(loop br 0)"));
    assert!(endless.contains("endless.wasm, in its describe: it ran out of fuel"), "{endless}");
    let growing = "(loop (br_if 0 (i32.ne (memory.grow (i32.const 1024)) (i32.const -1)))) unreachable";
    let greedy = plugin_check("greedy.wasm", &component(growing));
    assert!(
        greedy.contains("greedy.wasm, in its describe: it wanted more than 1024 MiB of memory"),
        "{greedy}"
    );
}

#[test]
fn another_runs_results_are_not_overwritten() {
    let folder = experiment(same);
    succeeds(host(folder.path(), &["run", "experiment.toml", "--method", "lora"]));
    let count = |folder: &Path| fs::read_dir(folder.join("runs/experiment/cells")).unwrap().count();
    assert_eq!(count(folder.path()), 1);
    succeeds(host(
        folder.path(),
        &["run", "experiment.toml", "--method", "lora", "--set", "training.learning_rate=2e-3"],
    ));
    assert_eq!(count(folder.path()), 2, "the first cell stays beside the second");
    // Both have one name and one seed; their folders tell them apart.
    let error = fails(host(folder.path(), &["merge", "runs/experiment", "--out", "merged"]), 1);
    let cells = fs::read_dir(folder.path().join("runs/experiment/cells")).unwrap().flatten();
    let names: Vec<String> = cells.map(|cell| cell.file_name().to_string_lossy().into()).collect();
    let (table, _) = succeeds(host(folder.path(), &["compare", "runs/experiment"]));
    let (evaluated, _) = succeeds(host(folder.path(), &["eval", "runs/experiment"]));
    for name in &names {
        assert!(error.contains(&format!("lora (seed 42) in runs/experiment/cells/{name}")), "{error}");
        assert!(table.contains(&format!("lora ({})", name.rsplit('-').next().unwrap())), "{table}");
        assert!(evaluated.contains(&format!("lora (seed 42), {name}\n")), "{evaluated}");
    }
    let cell = format!("runs/experiment/cells/{}", names[0]);
    succeeds(host(folder.path(), &["merge", &cell, "--out", "merged"]));
    // What is kept of an earlier run is called what it is.
    let other = |rate: &str| {
        let rate = format!("training.learning_rate={rate}");
        succeeds(host(folder.path(), &["run", "experiment.toml", "--method", "lora", "--set", &rate])).1
    };
    says(
        &other("1e-3"),
        &["the config has changed; the earlier comparison is in runs/experiment/earlier/2\n"],
    );
    fs::remove_file(folder.path().join("runs/experiment/report.html")).unwrap();
    says(&other("2e-3"), &["the config has changed; the earlier config is in runs/experiment/earlier/3\n"]);
}
