//! The keys of `[training]`: those of [`TrainingSettings`], with what each takes.

use host_engine::train::settings::TrainingSettings;
use host_ir::settings::{Setting, SettingType, did_you_mean};

use super::raw::{ConfigError, Table, Value};
use super::resolved::table;

const POSITIVE: f64 = f64::MIN_POSITIVE;

/// What the keys take, in the order of the settings.
pub fn keys() -> Vec<(&'static str, SettingType)> {
    let real = |minimum, maximum| SettingType::Real { minimum, maximum };
    let whole = |minimum| SettingType::Whole { minimum, maximum: i64::MAX };
    let choice = |names: [&str; 3]| SettingType::Choice(names.map(String::from).to_vec());
    vec![
        ("learning_rate", real(0.0, f64::INFINITY)),
        ("head_learning_rate", real(0.0, f64::INFINITY)),
        ("num_train_epochs", real(POSITIVE, f64::INFINITY)),
        ("max_steps", whole(1)),
        ("per_device_train_batch_size", whole(1)),
        ("train_batch_tokens", whole(1)),
        ("per_device_eval_batch_size", whole(1)),
        ("gradient_accumulation_steps", whole(1)),
        ("weight_decay", real(0.0, f64::INFINITY)),
        ("adam_beta1", real(0.0, 1.0)),
        ("adam_beta2", real(0.0, 1.0)),
        ("adam_epsilon", real(0.0, f64::INFINITY)),
        ("max_grad_norm", real(0.0, f64::INFINITY)),
        ("lr_scheduler_type", choice(["linear", "constant", "cosine"])),
        ("warmup_ratio", real(0.0, 1.0)),
        ("warmup_steps", whole(0)),
        ("early_stopping_patience", whole(1)),
        ("dropout", real(0.0, 1.0)),
        ("auto_find_batch_size", SettingType::Boolean),
        ("save_strategy", choice(["no", "epoch", "steps"])),
        ("save_steps", whole(1)),
    ]
}

/// The settings of a run, with those of its `[training]` over the defaults.
///
/// # Errors
/// As [`over`].
pub fn of_run(root: &Table) -> Result<TrainingSettings, ConfigError> {
    match root.get("training") {
        Some(entry) => over(&TrainingSettings::default(), table(entry)?, "[training]"),
        None => Ok(TrainingSettings::default()),
    }
}

/// The settings of a method: the run's, its own over them, and over those what the
/// command line says of every method, where it says nothing of this one.
///
/// # Errors
/// As [`over`].
pub fn of_method(
    run: &TrainingSettings,
    root: &Table,
    own: &Table,
    label: &str,
) -> Result<TrainingSettings, ConfigError> {
    let settings = over(run, own, &format!("[methods.{label}.training]"))?;
    let Some(entry) = root.get("training") else { return Ok(settings) };
    let said_of_it = |key: &str| own.get(key).is_some_and(|entry| entry.place.is_argument());
    let mut said = table(entry)?.clone();
    said.entries.retain(|entry| entry.place.is_argument() && !said_of_it(&entry.key));
    over(&settings, &said, "[training]")
}

/// The settings with those of a table over them. `named` is how the table is
/// called in errors.
///
/// # Errors
/// An unknown key, a value of the wrong type or out of its range.
fn over(base: &TrainingSettings, table: &Table, named: &str) -> Result<TrainingSettings, ConfigError> {
    let keys = keys();
    let mut settings = base.clone();
    for entry in &table.entries {
        let Some((key, kind)) = keys.iter().find(|(key, _)| *key == entry.key) else {
            let known: Vec<&str> = keys.iter().map(|(key, _)| *key).collect();
            let nearest = did_you_mean(&entry.key, &known);
            let sentence = format!("`{}` is not a key of {named}{nearest}", entry.key);
            return Err(ConfigError::new(&entry.place, sentence));
        };
        let wrong = |wanted: String| {
            entry.item.error(format!("`{key}` of {named} takes {wanted}, not {}", entry.item.words()))
        };
        if *key == "max_steps" && matches!(entry.item.value, Value::Whole(-1)) {
            // As in transformers: the epochs decide.
            settings.max_steps = None;
            continue;
        }
        let setting = entry.item.setting().and_then(|setting| kind.accept(&setting).ok());
        let setting = setting.ok_or_else(|| wrong(words(key, kind)))?;
        settings = with(&settings, key, &setting).map_err(|error| wrong(error.to_string()))?;
    }
    Ok(settings)
}

/// The type in words; the smallest positive number is none that a user knows.
fn words(key: &str, kind: &SettingType) -> String {
    match kind {
        kind if key == "max_steps" => format!("{}, or -1 for none", kind.words()),
        SettingType::Real { minimum, .. } if *minimum == POSITIVE => "a number above 0".into(),
        kind => kind.words(),
    }
}

fn with(
    settings: &TrainingSettings,
    key: &str,
    setting: &Setting,
) -> Result<TrainingSettings, serde_json::Error> {
    let mut json = serde_json::to_value(settings)?;
    json[key] = serde_json::to_value(setting)?;
    serde_json::from_value(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::raw::{Raw, Value};

    fn training(text: &str) -> Result<TrainingSettings, String> {
        let raw = Raw::parse("x.toml", format!("[training]\n{text}\n")).unwrap();
        let Value::Table(table) = &raw.root.get("training").unwrap().item.value else { panic!() };
        over(&TrainingSettings::default(), table, "[training]").map_err(|error| error.sentence)
    }

    /// A key that the trainer gets must not be forgotten here.
    #[test]
    fn keys_are_those_of_the_settings() {
        let json = serde_json::to_value(TrainingSettings::default()).unwrap();
        let fields: Vec<&String> = json.as_object().unwrap().keys().collect();
        let keys: Vec<&str> = keys().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, fields);
    }

    /// Every key can be set, to a value that the settings hold.
    #[test]
    fn every_key_is_settable() {
        for (key, kind) in keys() {
            let value = match kind {
                SettingType::Whole { .. } => "7".into(),
                SettingType::Real { .. } => "0.25".into(),
                SettingType::Choice(names) => format!("\"{}\"", names[2]),
                _ => "false".to_string(),
            };
            let settings = training(&format!("{key} = {value}")).unwrap();
            let json = serde_json::to_value(&settings).unwrap();
            assert_eq!(json[key], serde_json::from_str::<serde_json::Value>(&value).unwrap(), "{key}");
        }
    }

    #[test]
    fn what_does_not_fit_is_a_sentence() {
        let error = |text: &str| training(text).unwrap_err();
        assert_eq!(
            error("lerning_rate = 1"),
            "`lerning_rate` is not a key of [training]; did you mean `learning_rate`?"
        );
        assert_eq!(
            error("learning_rate = \"fast\""),
            "`learning_rate` of [training] takes a number of at least 0, not \"fast\""
        );
        assert_eq!(
            error("num_train_epochs = 0"),
            "`num_train_epochs` of [training] takes a number above 0, not 0"
        );
        assert_eq!(
            error("max_steps = 1.5"),
            "`max_steps` of [training] takes a whole number of at least 1, or -1 for none, not 1.5"
        );
        assert!(
            error("lr_scheduler_type = \"step\"").contains("one of \"linear\", \"constant\" or \"cosine\"")
        );
    }
}
