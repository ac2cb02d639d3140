//! Configs that must resolve, and those that must not.

use host_ir::settings::{Declaration, Description, Setting, SettingType};

use super::*;
use crate::cell::{Origin, Source};
use crate::config::write::to_toml;

const MINIMAL: &str = "[model]\npath = \"m\"\n[data]\npath = \"embedded:d\"\n[task]\nname = \"sst5\"\n";

fn plugin(kind: PluginKind, name: &str, keys: Vec<Declaration>) -> Plugin {
    let description =
        Description { name: name.into(), version: "0.1.0".into(), summary: String::new(), keys };
    Plugin { kind, description, digest: format!("digest of {name}"), origin: Origin::Embedded }
}

pub fn catalogue() -> Vec<Plugin> {
    let key = |key: &str, kind, default| Declaration {
        key: key.into(),
        kind,
        default,
        documentation: String::new(),
    };
    let lora = vec![
        key("r", SettingType::Whole { minimum: 1, maximum: 4096 }, Setting::Whole(8)),
        key("lora_alpha", SettingType::Real { minimum: 0.0, maximum: f64::INFINITY }, Setting::Real(8.0)),
        key("target_modules", SettingType::NamesOrPattern, Setting::Texts(vec!["query".into()])),
        key("rank_pattern", SettingType::Numbers, Setting::Numbers(Vec::new())),
        key("init_text", SettingType::OptionalText, Setting::Absent),
    ];
    let max = key("max_length", SettingType::Whole { minimum: 1, maximum: 512 }, Setting::Whole(128));
    vec![
        plugin(PluginKind::Method, "fft", Vec::new()),
        plugin(PluginKind::Method, "lora", lora),
        plugin(PluginKind::Task, "sst5", vec![max]),
    ]
}

fn resolved(text: &str, sets: &[&str], only: &[&str]) -> Result<Config, String> {
    let mut raw = Raw::parse("x.toml", text.into()).map_err(|error| error.to_string())?;
    for set in sets {
        raw.set(set).map_err(|error| error.to_string())?;
    }
    let only: Vec<String> = only.iter().map(|name| name.to_string()).collect();
    resolve(&raw, "x", &catalogue(), &only).map_err(|error| error.to_string())
}

fn with(text: &str) -> String {
    format!("{text}\n{MINIMAL}")
}

#[test]
fn absent_keys_have_their_defaults() {
    let config = resolved(MINIMAL, &[], &[]).unwrap();
    assert_eq!(config.name, "x");
    assert_eq!(config.seeds, [42]);
    assert_eq!(config.training, TrainingSettings::default());
    assert_eq!(config.data.path, Source::Embedded(Some("d".into())));
    assert_eq!(config.task.settings["max_length"], Setting::Whole(128));
    let labels: Vec<&str> = config.methods.iter().map(|method| method.label.as_str()).collect();
    assert_eq!(labels, ["fft", "lora"]);
    assert!(config.threads >= 1);
}

/// Later wins: defaults, `[training]`, [methods.NAME.training], then --set.
#[test]
fn precedence() {
    let text = format!(
        "{MINIMAL}[training]\nlearning_rate = 1e-3\nweight_decay = 0.1\nmax_grad_norm = 2\n\
         [methods.small]\nplugin = \"lora\"\nr = 4\n[methods.small.training]\nlearning_rate = 2e-3\n\
         [methods.fft]\n"
    );
    let sets = ["training.weight_decay=0.2", "methods.small.r=16", "methods.small.training.max_grad_norm=3"];
    let config = resolved(&text, &sets, &[]).unwrap();
    let small = &config.methods[0];
    assert_eq!((small.label.as_str(), small.plugin.name.as_str()), ("small", "lora"));
    assert_eq!(small.plugin.settings["r"], Setting::Whole(16));
    assert_eq!(small.plugin.settings["lora_alpha"], Setting::Real(8.0));
    assert_eq!(small.training.learning_rate, 2e-3);
    assert_eq!(small.training.weight_decay, 0.2);
    assert_eq!(small.training.max_grad_norm, 3.0);
    let full = &config.methods[1];
    assert_eq!((full.training.learning_rate, full.training.max_grad_norm), (1e-3, 2.0));
}

/// What the command line says of all methods wins over what the file says of one,
/// whatever the order, and the written config says the same without it.
#[test]
fn the_command_line_wins_over_a_methods_own() {
    let text = format!(
        "{MINIMAL}[training]\nnum_train_epochs = 3\nmax_steps = 7\n[methods.lora.training]\nnum_train_epochs = 4\n\
         max_steps = 8\nlearning_rate = 1e-2\n[methods.fft.training]\nnum_train_epochs = 5\n"
    );
    let trained = |sets: &[&str]| {
        let config = resolved(&text, sets, &[]).unwrap();
        let written = to_toml(&config, "host run x.toml");
        assert_eq!(resolved(&written, &[], &[]).unwrap(), config, "{written}");
        let of = |place: usize| {
            let training = &config.methods[place].training;
            (training.num_train_epochs, training.max_steps, training.learning_rate)
        };
        [of(0), of(1)]
    };
    assert_eq!(trained(&[]), [(4.0, Some(8), 1e-2), (5.0, Some(7), 5e-5)]);
    assert_eq!(trained(&["training.num_train_epochs=1"]), [(1.0, Some(8), 1e-2), (1.0, Some(7), 5e-5)]);
    assert_eq!(trained(&["training={num_train_epochs=1}"]), [(1.0, Some(8), 1e-2), (1.0, None, 5e-5)]);
    let of_one = ["methods.lora.training.num_train_epochs=2", "training.num_train_epochs=1"];
    assert_eq!(trained(&of_one), [(2.0, Some(8), 1e-2), (1.0, Some(7), 5e-5)]);
    assert_eq!(trained(&["methods.lora.training.max_steps=-1"])[0], (4.0, None, 1e-2));
    assert_eq!(trained(&["training.max_steps=-1"]), [(4.0, None, 1e-2), (5.0, None, 5e-5)]);
}

#[test]
fn one_method_overridden_keeps_all_and_their_order() {
    let config =
        resolved(&with("methods = \"all\""), &["methods.fft.training.learning_rate=0.5"], &[]).unwrap();
    let rates: Vec<(&str, f64)> =
        config.methods.iter().map(|method| (method.label.as_str(), method.training.learning_rate)).collect();
    assert_eq!(rates, [("fft", 0.5), ("lora", 5e-5)]);
}

#[test]
fn devices_are_read_and_the_machine_may_decide() {
    let device = |text: &str| resolved(&with(text), &[], &[]).unwrap().device;
    assert_eq!((device(""), device("device = \"auto\"")), (None, None));
    assert_eq!(device("device = \"cuda:1\"\nprecision = \"tf32\""), Some(Device::Cuda(1)));
    assert_eq!(device("device = \"candle-cpu\""), Some(Device::CandleCpu));
}

#[test]
fn methods_are_narrowed_by_label() {
    let config = resolved(MINIMAL, &["seeds=[1, 2]"], &["lora"]).unwrap();
    let cells = config.cells();
    let cells: Vec<String> = cells.iter().map(CellSpec::title).collect();
    assert_eq!(cells, ["lora (seed 1)", "lora (seed 2)"]);
    let error = resolved(MINIMAL, &[], &["loar"]).unwrap_err();
    assert_eq!(error, "--method loar: the config has no such method; did you mean `lora`?");
    let listed = resolved(&with("methods = [\"lora\"]"), &["methods.lora.r=4"], &[]).unwrap();
    assert_eq!(listed.methods.len(), 1);
    assert_eq!(listed.methods[0].plugin.settings["r"], Setting::Whole(4));
}

#[test]
fn paths_of_cells_are_absolute() {
    let config = resolved(MINIMAL, &[], &["fft"]).unwrap();
    assert_eq!(config.model.path, Source::Path("m".into()));
    let Source::Path(path) = &config.cells()[0].model.path else { panic!() };
    assert!(path.is_absolute() && path.ends_with("m"));
}

#[test]
fn what_cannot_be_meant_is_an_error_with_its_line() {
    let error = |text: &str| resolved(text, &[], &[]).unwrap_err();
    assert_eq!(
        error(&with("seed = [1]")),
        "x.toml:1: `seed` is not a key of the config; did you mean `seeds`?\n  1 | seed = [1]\n    | ^^^^"
    );
    let at_end = |text: &str| error(&format!("{MINIMAL}{text}"));
    assert!(at_end("max_lenght = 3").starts_with(
        "x.toml:7: `max_lenght` is not a key of the task sst5; did you mean `max_length`?\n  7 | max_lenght"
    ));
    assert!(
        at_end("max_length = 0")
            .starts_with("x.toml:7: `max_length` of sst5 takes a whole number from 1 to 512, not 0\n")
    );
    assert!(at_end("[methods.lora]\nlora_alhpa = 3").contains("did you mean `lora_alpha`?"));
    assert!(at_end("[methods.lora]\ntarget_modules = [1, \"a\"]").contains("takes a list of names"));
    assert!(
        at_end("[methods.dora]").contains("x.toml:7: there is no method plugin `dora`; did you mean `lora`?")
    );
    assert!(at_end("[methods.a]\nplugin = \"sst5\"").contains("there is no method plugin `sst5`"));
    assert!(at_end("[methods]").contains("no method to train"));
    assert!(error(&with("seeds = 3")).contains("`seeds` takes a list of whole numbers"));
    assert!(error(&with("seeds = []")).contains("such as [1, 2, 3], not an empty list"));
    assert!(
        error(&with("seeds = [1, \"a\"]"))
            .contains("and \"a\" is no seed\n  1 | seeds = [1, \"a\"]\n    |             ^^^")
    );
    assert!(error(&with("methods = [\"lora\", 3]")).contains("takes names of methods, in quotes, not 3\n"));
    assert!(
        at_end("[training]\nlearning_rate = inf").contains("at least 0, not inf, which is no finite number")
    );
    assert!(at_end("[methods.lora]\nlora_alpha = inf").contains("not inf, which is no finite number"));
    assert!(
        at_end("[methods.lora]\nrank_pattern = { a = inf }").contains("takes a table from names to numbers")
    );
    for blank in ["", " "] {
        let blank = at_end(&format!("[methods.\"{blank}\"]\nplugin = \"lora\""));
        assert!(blank.starts_with("x.toml:7: a method needs a name"), "{blank}");
    }
    let long = at_end(&format!("[methods.{}]\nplugin = \"lora\"", "a".repeat(300)));
    assert!(
        long.starts_with("x.toml:7: a method's name also names folders: it can have 100 bytes and has 300"),
        "{long}"
    );
    assert!(error(&with("seeds = [3, 3]")).contains("the seed 3 is given twice"));
    assert!(error(&with("threads = 0")).contains("`threads` takes a whole number from 1"));
    assert!(error(&with("device = \"gpu\"")).contains("there is no device \"gpu\"; devices are \"cpu\""));
    let bf16 = error(&with("device = \"cpu\"\nprecision = \"bf16\""));
    assert!(bf16.starts_with("x.toml:2: the kernels for the CPU compute in fp32"), "{bf16}");
    assert!(
        error(&with("precision = \"fp16\"")).contains("takes \"fp32\", \"tf32\" or \"bf16\", not \"fp16\"")
    );
    let tf32 = error(&with("device = \"cpu\"\nprecision = \"tf32\""));
    assert!(tf32.starts_with("x.toml:2: tf32 is a format of NVIDIA's tensor cores"), "{tf32}");
    assert!(error(&with("name = \"../x\"")).contains("`name` names the run's directory"));
    assert!(error(&with("training = 3")).contains("`training` takes a table of keys, not 3"));
    assert_eq!(
        error("[model]\nreinitialise = true\n"),
        "x.toml:1: [model] needs the key `path`, or `name` for what the hub has, in the config or by \
         --set model.path=…\n  \
         1 | [model]\n    |  ^^^^^"
    );
    let set = resolved(MINIMAL, &["training.lr=1"], &[]).unwrap_err();
    assert!(set.starts_with("--set training.lr=1: `lr` is not a key of [training]"), "{set}");
}

/// The resolved config that a run leaves is a config that means the same.
#[test]
fn the_written_config_resolves_to_itself() {
    let text = format!(
        "seeds = [1, 2]\nthreads = 3\n{MINIMAL}max_length = 64\n\
         [training]\nmax_steps = 10\ndropout = 0.0\n\
         [methods.\"a b\"]\nplugin = \"lora\"\ntarget_modules = \".*query\"\nrank_pattern = {{ \"layer.0\" = 4 }}\n\
         [methods.\"a b\".training]\nlearning_rate = 1e-7\n[methods.fft]\n"
    );
    let config = resolved(&text, &["data.files.train=a.txt"], &[]).unwrap();
    let written = to_toml(&config, "host run x.toml");
    let again = resolved(&written, &[], &[]).unwrap_or_else(|error| panic!("{error}\n{written}"));
    assert_eq!(again, config, "{written}");
}

#[test]
fn a_batch_job_says_how_many_threads() {
    assert_eq!(default_threads(Some("3")), 3);
    let cores = std::thread::available_parallelism().unwrap().get();
    assert_eq!(default_threads(Some("none")), cores);
    assert_eq!(default_threads(None), cores);
}
