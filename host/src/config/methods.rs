//! The methods of a config: rows of the comparison, each a plugin with its settings
//! and the run's training with its own over it.

use host_engine::train::settings::TrainingSettings;
use host_ir::settings::did_you_mean;

use super::raw::{ConfigError, Item, Place, Raw, Table, Value};
use super::resolved::{find, plugin_spec, table, text, wrong};
use super::training;
use crate::cell::{Plugin, PluginKind, PluginSpec};

/// The longest label: it names the folders of cells, beside a seed and a digest.
const LONGEST_LABEL: usize = 100;

/// A method of the run: a row of the comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct MethodConfig {
    pub label: String,
    pub plugin: PluginSpec,
    /// The run's training settings with the method's own over them.
    pub training: TrainingSettings,
}

/// The methods of a config, where the run trains as `base` says.
pub fn of(
    raw: &Raw,
    catalogue: &[Plugin],
    base: &TrainingSettings,
) -> Result<Vec<MethodConfig>, ConfigError> {
    let empty = Table { entries: Vec::new() };
    let entry = raw.root.get("methods");
    let place = entry.map_or(&raw.place, |entry| &entry.item.place);
    let one = |label: &str, keys: &Table, place: &Place| method(raw, (label, keys, place), catalogue, base);
    let (names, tables): (Vec<&str>, &Table) = match entry.map(|entry| (entry, &entry.item.value)) {
        None => (all(catalogue), &empty),
        Some((_, Value::Text(text))) if text == "all" => (all(catalogue), &empty),
        Some((_, Value::Table(table))) if raw.all_methods => (all(catalogue), table),
        Some((_, Value::Table(table))) => (Vec::new(), table),
        Some((_, Value::List(items))) => {
            let named = |item: &Item| one(name(item)?, &empty, &item.place);
            return some(items.iter().map(named).collect::<Result<_, _>>()?, place);
        }
        Some((entry, _)) => return Err(wrong(entry, "\"all\", a list of names or tables [methods.NAME]")),
    };
    let mut methods: Vec<MethodConfig> = Vec::new();
    for name in names.into_iter().filter(|name| tables.get(name).is_none()) {
        methods.push(one(name, &empty, place)?);
    }
    for entry in &tables.entries {
        methods.push(one(&entry.key, table(entry)?, &entry.place)?);
    }
    if raw.all_methods {
        // Those with overrides stay in their places.
        let order = all(catalogue);
        methods
            .sort_by_key(|method| order.iter().position(|name| *name == method.label).unwrap_or(usize::MAX));
    }
    some(methods, place)
}

/// A name in the list of methods.
fn name(item: &Item) -> Result<&str, ConfigError> {
    match &item.value {
        Value::Text(name) => Ok(name),
        _ => Err(item.error(format!("`methods` takes names of methods, in quotes, not {}", item.words()))),
    }
}

/// Methods as they are, unless there is none or a label stands twice.
fn some(methods: Vec<MethodConfig>, place: &Place) -> Result<Vec<MethodConfig>, ConfigError> {
    for (index, method) in methods.iter().enumerate() {
        if methods[..index].iter().any(|other| other.label == method.label) {
            return Err(ConfigError::new(place, format!("the method `{}` is named twice", method.label)));
        }
    }
    match methods.is_empty() {
        true => Err(ConfigError::new(
            place,
            "there is no method to train; `host plugin list` shows those that are installed",
        )),
        false => Ok(methods),
    }
}

fn all(catalogue: &[Plugin]) -> Vec<&str> {
    let methods = catalogue.iter().filter(|plugin| plugin.kind == PluginKind::Method);
    methods.map(|plugin| plugin.description.name.as_str()).collect()
}

fn method(
    raw: &Raw,
    (label, keys, place): (&str, &Table, &Place),
    catalogue: &[Plugin],
    base: &TrainingSettings,
) -> Result<MethodConfig, ConfigError> {
    if label.trim().is_empty() {
        let sentence = "a method needs a name: that of its plugin, or one of your own with the key `plugin`";
        return Err(ConfigError::new(place, sentence));
    }
    if label.len() > LONGEST_LABEL {
        let sentence = format!(
            "a method's name also names folders: it can have {LONGEST_LABEL} bytes and has {}",
            label.len()
        );
        return Err(ConfigError::new(place, sentence));
    }
    let plugin = match keys.get("plugin") {
        Some(entry) => find(catalogue, PluginKind::Method, &text(entry)?, &entry.item.place)?,
        None => find(catalogue, PluginKind::Method, label, place)?,
    };
    let training = match keys.get("training") {
        Some(entry) => training::of_method(base, &raw.root, table(entry)?, label)?,
        None => base.clone(),
    };
    let plugin = plugin_spec(plugin, keys, &["plugin", "training"])?;
    Ok(MethodConfig { label: label.to_string(), plugin, training })
}

/// The methods with these labels, or all where none is given.
pub fn narrow(methods: Vec<MethodConfig>, only: &[String]) -> Result<Vec<MethodConfig>, ConfigError> {
    let known: Vec<&str> = methods.iter().map(|method| method.label.as_str()).collect();
    if let Some(unknown) = only.iter().find(|name| !known.contains(&name.as_str())) {
        let nearest = did_you_mean(unknown, &known);
        let sentence = format!("--method {unknown}: the config has no such method{nearest}");
        return Err(ConfigError { sentence, place: None });
    }
    let wanted = |method: &MethodConfig| only.is_empty() || only.contains(&method.label);
    Ok(methods.into_iter().filter(wanted).collect())
}
