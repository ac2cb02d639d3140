//! What a cell is, as a digest: of all that determines its result and of
//! nothing else, so that a finished cell is recognised wherever its files lie.

use serde_json::{Value, json};

use crate::cell::{CellSpec, Digests};

/// The identity of a cell, in hexadecimal digits.
///
/// Paths, labels and where a plugin comes from do not count, their contents'
/// digests do. The number of threads does not either: results agree over it to
/// rounding; nor which of several like devices it is, nor when checkpoints are written.
/// Of what the hub has, the commit counts beside the files' digests.
pub fn identity(spec: &CellSpec, digests: &Digests) -> String {
    digest(&described(spec, digests, Some(spec.seed)))
}

/// The digits of a cell's identity that the name of its folder has.
pub fn short(identity: &str) -> &str {
    identity.get(..8).unwrap_or(identity)
}

/// What cells have in common that differ in nothing but their seed.
pub fn settings_identity(spec: &CellSpec, digests: &Digests) -> String {
    digest(&described(spec, digests, None))
}

fn described(spec: &CellSpec, digests: &Digests, seed: Option<u64>) -> Value {
    let mut training = json!(spec.training);
    if let Some(keys) = training.as_object_mut() {
        keys.retain(|key, _| !["save_strategy", "save_steps"].contains(&key.as_str()));
    }
    let mut described = json!({
        "model": { "digest": digests.model, "reinitialise": spec.model.reinitialise },
        "data": digests.data,
        "max_bad_records": spec.data.max_bad_records,
        "too_long": spec.data.too_long,
        "task": { "digest": spec.task.digest, "settings": spec.task.settings },
        "method": { "digest": spec.method.digest, "settings": spec.method.settings },
        "training": training,
        "seed": seed,
        "device": spec.device.kind(),
        "precision": spec.precision,
        "program": digests.program,
    });
    for (key, source) in [("model_commit", &spec.model.path), ("data_commit", &spec.data.path)] {
        if let Some(commit) = source.commit() {
            described[key] = commit.into();
        }
    }
    described
}

fn digest(value: &Value) -> String {
    let mut text = String::new();
    write_canonical(value, &mut text);
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

/// JSON without spaces, keys in the order of their bytes: fields may move in
/// the source without changing what a cell is.
fn write_canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(&String, &Value)> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            text.push('{');
            for (place, (key, value)) in entries.into_iter().enumerate() {
                text.push_str(if place > 0 { "," } else { "" });
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                write_canonical(value, text);
            }
            text.push('}');
        }
        Value::Array(values) => {
            text.push('[');
            for (place, value) in values.iter().enumerate() {
                text.push_str(if place > 0 { "," } else { "" });
                write_canonical(value, text);
            }
            text.push(']');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}

#[cfg(test)]
pub mod tests {
    use std::collections::BTreeMap;

    use host_engine::device::{Device, Precision};
    use host_engine::train::settings::{SaveStrategy, TrainingSettings};
    use host_ir::settings::Setting;

    use super::*;
    use crate::cell::{DataSpec, ModelSpec, Origin, PluginSpec, Repository, Snapshot, Source, TooLong};

    pub fn spec(label: &str, seed: u64) -> CellSpec {
        let plugin = |name: &str| PluginSpec {
            name: name.into(),
            digest: format!("digest of {name}"),
            origin: Origin::Embedded,
            settings: BTreeMap::from([("r".to_string(), Setting::Whole(8))]),
        };
        CellSpec {
            label: label.into(),
            model: ModelSpec { path: Source::Path("/models/a".into()), reinitialise: false },
            data: DataSpec {
                path: Source::Path("/data/a".into()),
                files: Vec::new(),
                max_bad_records: 0,
                too_long: TooLong::Cut,
            },
            task: plugin("task"),
            method: plugin(label),
            training: TrainingSettings::default(),
            seed,
            device: Device::Cpu,
            precision: Precision::Fp32,
            threads: 2,
        }
    }

    pub fn digests() -> Digests {
        Digests { model: "m".into(), data: "d".into(), program: "peft:plugin@0.1.0, engine 0.1.0".into() }
    }

    fn of_hub(commit: &str) -> Source {
        let snapshot = Snapshot { commit: commit.into(), folder: "/cache/a".into() };
        Source::Hub(Repository { name: "a/a".into(), revision: None, snapshot: Some(snapshot) })
    }

    #[test]
    fn what_determines_a_cell_changes_its_identity() {
        let base = spec("a", 1);
        let of = |change: fn(&mut CellSpec)| {
            let mut spec = base.clone();
            change(&mut spec);
            identity(&spec, &digests())
        };
        let mut identities = vec![
            identity(&base, &digests()),
            identity(&base, &Digests { data: "other".into(), ..digests() }),
            identity(&base, &Digests { model: "other".into(), ..digests() }),
            identity(&base, &Digests { program: "other".into(), ..digests() }),
            of(|spec| spec.seed = 2),
            of(|spec| spec.device = Device::Cuda(0)),
            of(|spec| spec.precision = Precision::Tf32),
            of(|spec| spec.model.reinitialise = true),
            of(|spec| spec.model.path = of_hub("a")),
            of(|spec| spec.model.path = of_hub("b")),
            of(|spec| spec.data.path = of_hub("a")),
            of(|spec| spec.data.too_long = TooLong::Error),
            of(|spec| spec.training.learning_rate = 1e-3),
            of(|spec| spec.method.digest = "other".into()),
            of(|spec| spec.task.digest = "other".into()),
            of(|spec| _ = spec.method.settings.insert("r".into(), Setting::Whole(9))),
            of(|spec| _ = spec.task.settings.insert("r".into(), Setting::Whole(9))),
        ];
        let number = identities.len();
        identities.sort();
        identities.dedup();
        assert_eq!(identities.len(), number);
    }

    #[test]
    fn where_things_lie_does_not() {
        let base = spec("a", 1);
        let mut moved = base.clone();
        moved.label = "b".into();
        moved.model.path = Source::Path("/elsewhere".into());
        moved.data.path = Source::Path("/elsewhere".into());
        moved.method.origin = Origin::File("/plugins/a.wasm".into());
        moved.threads = 7;
        moved.training.save_strategy = SaveStrategy::Steps;
        moved.training.save_steps = 7;
        assert_eq!(identity(&base, &digests()), identity(&moved, &digests()));
        let read: CellSpec = serde_json::from_str(&serde_json::to_string(&base).unwrap()).unwrap();
        assert_eq!(identity(&base, &digests()), identity(&read, &digests()));
    }

    #[test]
    fn seeds_share_their_settings() {
        let (one, two) = (spec("a", 1), spec("a", 2));
        assert_eq!(settings_identity(&one, &digests()), settings_identity(&two, &digests()));
        assert_ne!(identity(&one, &digests()), settings_identity(&one, &digests()));
    }

    #[test]
    fn canonical_json_has_its_keys_in_order() {
        let mut text = String::new();
        write_canonical(&json!({ "b": [1, 2.5, null, "\"x\""], "a": { "d": true, "c": {} } }), &mut text);
        assert_eq!(text, r#"{"a":{"c":{},"d":true},"b":[1,2.5,null,"\"x\""]}"#);
    }
}
