//! The resolved config as TOML: every key with its value, so that the file
//! alone says what was run, and runs it again.

use host_engine::train::settings::TrainingSettings;
use host_ir::settings::Setting;
use serde_json::Value as Json;
use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, Value};

use super::Config;
use crate::cell::{PluginSpec, Source};

/// The config as a file that resolves to it. `command` stands in its first line.
pub fn to_toml(config: &Config, command: &str) -> String {
    let mut document = DocumentMut::new();
    let root = document.as_table_mut();
    root["name"] = toml_edit::value(&config.name);
    let device = config.device.map_or("auto".to_string(), |device| device.to_string());
    root["device"] = toml_edit::value(device);
    root["precision"] = toml_edit::value(json_text(&config.precision));
    root["threads"] = toml_edit::value(config.threads as i64);
    root["seeds"] = toml_edit::value(config.seeds.iter().map(|&seed| seed as i64).collect::<Array>());

    let mut model = Table::new();
    insert_source(&mut model, &config.model.path);
    model["reinitialise"] = toml_edit::value(config.model.reinitialise);
    root["model"] = Item::Table(model);

    let mut data = Table::new();
    insert_source(&mut data, &config.data.path);
    if !config.data.files.is_empty() {
        data["files"] = toml_edit::value(config.data.files.iter().cloned().collect::<InlineTable>());
    }
    if config.data.max_bad_records > 0 {
        data["max_bad_records"] = toml_edit::value(config.data.max_bad_records as i64);
    }
    data["too_long"] = toml_edit::value(json_text(&config.data.too_long));
    root["data"] = Item::Table(data);

    let mut task = Table::new();
    task["name"] = toml_edit::value(&config.task.name);
    insert_settings(&mut task, &config.task);
    root["task"] = Item::Table(task);
    root["training"] = Item::Table(training(&config.training, &TrainingSettings::default(), true));

    let mut methods = Table::new();
    methods.set_implicit(true);
    for method in &config.methods {
        let mut table = Table::new();
        table["plugin"] = toml_edit::value(&method.plugin.name);
        insert_settings(&mut table, &method.plugin);
        let own = training(&method.training, &config.training, false);
        if !own.is_empty() {
            table["training"] = Item::Table(own);
        }
        methods[method.label.as_str()] = Item::Table(table);
    }
    root["methods"] = Item::Table(methods);
    format!("# {command}\n{document}")
}

/// A path, or a name with the commit that its revision came to, so that the file
/// means the same files later.
fn insert_source(table: &mut Table, source: &Source) {
    let Source::Hub(repository) = source else {
        table["path"] = toml_edit::value(source.to_string());
        return;
    };
    table["name"] = toml_edit::value(&repository.name);
    let revision = source.commit().or(repository.revision.as_deref());
    if let Some(revision) = revision {
        table["revision"] = toml_edit::value(revision);
    }
}

fn insert_settings(table: &mut Table, plugin: &PluginSpec) {
    for (key, setting) in &plugin.settings {
        if let Some(value) = setting_value(setting) {
            table[key.as_str()] = toml_edit::value(value);
        }
    }
}

/// A setting as it is written in a config; none where it is absent.
pub fn setting_value(setting: &Setting) -> Option<Value> {
    Some(match setting {
        Setting::Boolean(value) => (*value).into(),
        Setting::Whole(value) => (*value).into(),
        Setting::Real(value) => (*value).into(),
        Setting::Text(value) => value.into(),
        Setting::Wholes(values) => values.iter().copied().collect::<Array>().into(),
        Setting::Texts(values) => values.iter().collect::<Array>().into(),
        Setting::Numbers(values) => {
            values.iter().map(|(key, value)| (key, *value)).collect::<InlineTable>().into()
        }
        Setting::Absent => return None,
    })
}

/// The training settings, all that have a value or those alone that differ.
fn training(settings: &TrainingSettings, base: &TrainingSettings, all: bool) -> Table {
    let json = |settings| match serde_json::to_value(settings) {
        Ok(Json::Object(map)) => map,
        _ => serde_json::Map::new(),
    };
    let (settings, base) = (json(settings), json(base));
    let mut table = Table::new();
    for (key, value) in &settings {
        let value: Value = match value {
            _ if !all && base.get(key) == Some(value) => continue,
            // The run's number does not hold for this method; no other key is taken back.
            Json::Null if !all && key == "max_steps" => (-1).into(),
            Json::Bool(value) => (*value).into(),
            Json::String(value) => value.into(),
            Json::Number(number) => match number.as_i64() {
                Some(whole) => whole.into(),
                None => number.as_f64().unwrap_or(f64::NAN).into(),
            },
            _ => continue,
        };
        table[key.as_str()] = toml_edit::value(value);
    }
    table
}

/// A case without fields as its name.
fn json_text<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(Json::String(text)) => text,
        _ => String::new(),
    }
}
