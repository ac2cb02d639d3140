//! What a config means: every key known and of its type, plugins found, their
//! settings complete, overrides applied.

use host_engine::device::{Device, Precision};
use host_engine::train::settings::TrainingSettings;
use host_ir::settings::{Values, did_you_mean};
use host_ir::task::Layout;

use super::methods::{self, MethodConfig};
use super::raw::{ConfigError, Entry, Item, Place, Raw, Table, Value};
use super::{source, training};
use crate::cell::{CellSpec, DataSpec, ModelSpec, Plugin, PluginKind, PluginSpec, TooLong};

const ROOT_KEYS: [&str; 10] =
    ["name", "device", "precision", "threads", "seeds", "methods", "model", "data", "task", "training"];

/// A run.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub name: String,
    /// None where the machine decides.
    pub device: Option<Device>,
    pub precision: Precision,
    pub threads: usize,
    pub seeds: Vec<u64>,
    pub model: ModelSpec,
    pub data: DataSpec,
    pub task: PluginSpec,
    pub training: TrainingSettings,
    pub methods: Vec<MethodConfig>,
}

impl Config {
    /// The cells of the run, method by method.
    pub fn cells(&self) -> Vec<CellSpec> {
        let cell = |method: &MethodConfig, seed: u64| CellSpec {
            label: method.label.clone(),
            model: ModelSpec { path: self.model.path.absolute(), ..self.model.clone() },
            data: DataSpec { path: self.data.path.absolute(), ..self.data.clone() },
            task: self.task.clone(),
            method: method.plugin.clone(),
            training: method.training.clone(),
            seed,
            device: self.device.unwrap_or(Device::Cpu),
            precision: self.precision,
            threads: self.threads,
        };
        let seeds = |method| self.seeds.iter().map(move |&seed| cell(method, seed));
        self.methods.iter().flat_map(seeds).collect()
    }
}

/// Resolves a config. `name` is the run's name where the config gives none;
/// `only` narrows the methods to those labels, where it is not empty.
///
/// # Errors
/// Whatever the config says that cannot be meant: an unknown key or plugin, a
/// wrong type, a missing key.
pub fn resolve(raw: &Raw, name: &str, catalogue: &[Plugin], only: &[String]) -> Result<Config, ConfigError> {
    let root = &raw.root;
    check_keys(root, &ROOT_KEYS, "the config")?;
    let name = match root.get("name") {
        Some(entry) => text(entry)?,
        None => name.to_string(),
    };
    let plain = |c: char| c.is_alphanumeric() || "._-+ ".contains(c);
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        let sentence =
            format!("`name` names the run's directory: letters, digits, `-` and `_`, not \"{name}\"");
        return Err(ConfigError::new(
            root.get("name").map_or(&raw.place, |entry| &entry.item.place),
            sentence,
        ));
    }
    let base = training::of_run(root)?;
    let (model, data) = (model(raw)?, data(raw)?);
    let task = task(raw, catalogue)?;
    let methods = methods::narrow(methods::of(raw, catalogue, &base)?, only)?;
    let threads = match root.get("threads") {
        Some(entry) => whole(entry, 1, 4096)? as usize,
        None => threads_of_machine(),
    };
    let device = device(root)?;
    Ok(Config {
        name,
        device,
        precision: precision(root, device)?,
        threads,
        seeds: seeds(root)?,
        model,
        data,
        task,
        training: base,
        methods,
    })
}

/// Threads that compute where nobody says how many.
pub fn threads_of_machine() -> usize {
    default_threads(std::env::var("SLURM_CPUS_PER_TASK").ok().as_deref())
}

/// What the batch job was given, or all cores that the process may use.
fn default_threads(slurm: Option<&str>) -> usize {
    let given = slurm.and_then(|text| text.parse().ok()).filter(|&threads: &usize| threads > 0);
    given.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

fn check_keys(table: &Table, known: &[&str], named: &str) -> Result<(), ConfigError> {
    match table.entries.iter().find(|entry| !known.contains(&entry.key.as_str())) {
        Some(entry) => {
            let nearest = did_you_mean(&entry.key, known);
            let sentence = format!("`{}` is not a key of {named}{nearest}", entry.key);
            Err(ConfigError::new(&entry.place, sentence))
        }
        None => Ok(()),
    }
}

pub(super) fn wrong(entry: &Entry, wanted: &str) -> ConfigError {
    entry.item.error(format!("`{}` takes {wanted}, not {}", entry.key, entry.item.words()))
}

pub(super) fn text(entry: &Entry) -> Result<String, ConfigError> {
    match &entry.item.value {
        Value::Text(text) => Ok(text.clone()),
        _ => Err(wrong(entry, "a string, in quotes")),
    }
}

fn boolean(entry: &Entry) -> Result<bool, ConfigError> {
    match entry.item.value {
        Value::Boolean(value) => Ok(value),
        _ => Err(wrong(entry, "true or false")),
    }
}

fn whole(entry: &Entry, minimum: i64, maximum: i64) -> Result<i64, ConfigError> {
    match entry.item.value {
        Value::Whole(value) if (minimum..=maximum).contains(&value) => Ok(value),
        _ => Err(wrong(entry, &format!("a whole number from {minimum} to {maximum}"))),
    }
}

pub(super) fn table(entry: &Entry) -> Result<&Table, ConfigError> {
    match &entry.item.value {
        Value::Table(table) => Ok(table),
        _ => Err(wrong(entry, "a table of keys")),
    }
}

/// A table that must be there with a key that must be there.
fn required<'a>(raw: &'a Raw, named: &str, key: &str) -> Result<(&'a Table, &'a Entry), ConfigError> {
    let missing = |place: &Place| {
        ConfigError::new(
            place,
            format!("[{named}] needs the key `{key}`, in the config or by --set {named}.{key}=…"),
        )
    };
    let entry = raw.root.get(named).ok_or_else(|| missing(&raw.place))?;
    let table = table(entry)?;
    Ok((table, table.get(key).ok_or_else(|| missing(&entry.place))?))
}

fn model(raw: &Raw) -> Result<ModelSpec, ConfigError> {
    let (table, path) = source::of(raw, "model")?;
    check_keys(table, &["path", "name", "revision", "reinitialise"], "[model]")?;
    let reinitialise = table.get("reinitialise").map(boolean).transpose()?.unwrap_or(false);
    Ok(ModelSpec { path, reinitialise })
}

fn data(raw: &Raw) -> Result<DataSpec, ConfigError> {
    let (data, path) = source::of(raw, "data")?;
    check_keys(data, &["path", "name", "revision", "files", "max_bad_records", "too_long"], "[data]")?;
    let files = match data.get("files") {
        Some(entry) => {
            let entries = table(entry)?.entries.iter();
            entries.map(|file| Ok((file.key.clone(), text(file)?))).collect::<Result<_, ConfigError>>()?
        }
        None => Vec::new(),
    };
    let max_bad_records =
        data.get("max_bad_records").map(|entry| whole(entry, 0, i64::MAX)).transpose()?.unwrap_or(0) as u64;
    let too_long = match data.get("too_long") {
        None => TooLong::default(),
        Some(entry) => match text(entry)?.as_str() {
            "cut" => TooLong::Cut,
            "error" => TooLong::Error,
            other => {
                let sentence = format!("`too_long` is \"{other}\"; it can be \"cut\" or \"error\"");
                return Err(entry.item.error(sentence));
            }
        },
    };
    Ok(DataSpec { path, files, max_bad_records, too_long })
}

/// Refuses `[data.files]` for a split that the task does not have.
///
/// # Errors
/// There is one.
pub fn check_splits(raw: &Raw, layout: &Layout) -> Result<(), ConfigError> {
    let (data, _) = source::of(raw, "data")?;
    let Some(files) = data.get("files") else { return Ok(()) };
    let known: Vec<&str> = layout.splits.iter().map(|split| split.name.as_str()).collect();
    match table(files)?.entries.iter().find(|entry| !known.contains(&entry.key.as_str())) {
        Some(entry) => {
            let nearest = did_you_mean(&entry.key, &known);
            Err(ConfigError::new(&entry.place, format!("the task has no split `{}`{nearest}", entry.key)))
        }
        None => Ok(()),
    }
}

/// The task of a config with its settings.
///
/// # Errors
/// A task that is not there, a key that it does not have.
pub fn task(raw: &Raw, catalogue: &[Plugin]) -> Result<PluginSpec, ConfigError> {
    let (table, name) = required(raw, "task", "name")?;
    let plugin = find(catalogue, PluginKind::Task, &text(name)?, &name.item.place)?;
    plugin_spec(plugin, table, &["name"])
}

/// The plugin with a name.
pub(super) fn find<'a>(
    catalogue: &'a [Plugin],
    kind: PluginKind,
    name: &str,
    place: &Place,
) -> Result<&'a Plugin, ConfigError> {
    let of_kind = || catalogue.iter().filter(|plugin| plugin.kind == kind);
    of_kind().find(|plugin| plugin.description.name == name).ok_or_else(|| {
        let known: Vec<&str> = of_kind().map(|plugin| plugin.description.name.as_str()).collect();
        let sentence = match known.is_empty() {
            true => format!("there is no {kind} plugin `{name}`: none is installed"),
            false => format!("there is no {kind} plugin `{name}`{}", did_you_mean(name, &known)),
        };
        ConfigError::new(place, sentence)
    })
}

/// The plugin with the settings of a table, where `ours` are the host's keys.
pub(super) fn plugin_spec(plugin: &Plugin, table: &Table, ours: &[&str]) -> Result<PluginSpec, ConfigError> {
    let mut values = Values::new();
    for entry in table.entries.iter().filter(|entry| !ours.contains(&entry.key.as_str())) {
        let key = &entry.key;
        let Some(declaration) = plugin.description.key(key) else {
            let keys = plugin.description.keys.iter().map(|declaration| declaration.key.as_str());
            let known: Vec<&str> = keys.chain(ours.iter().copied()).collect();
            let name = &plugin.description.name;
            let nearest = did_you_mean(key, &known);
            let sentence = format!("`{key}` is not a key of the {} {name}{nearest}", plugin.kind);
            return Err(ConfigError::new(&entry.place, sentence));
        };
        let setting = entry.item.setting();
        let accepted = setting.as_ref().and_then(|setting| declaration.kind.accept(setting).ok());
        let accepted = accepted.ok_or_else(|| {
            let (name, wanted) = (&plugin.description.name, declaration.kind.words());
            entry.item.error(format!("`{key}` of {name} takes {wanted}, not {}", entry.item.words()))
        })?;
        values.insert(key.clone(), accepted);
    }
    let settings = plugin.description.resolve(&values);
    Ok(PluginSpec {
        name: plugin.description.name.clone(),
        digest: plugin.digest.clone(),
        origin: plugin.origin.clone(),
        settings: settings.map_err(|error| ConfigError { sentence: error.sentence, place: None })?,
    })
}

fn seeds(root: &Table) -> Result<Vec<u64>, ConfigError> {
    let Some(entry) = root.get("seeds") else { return Ok(vec![42]) };
    let wanted = "a list of whole numbers such as [1, 2, 3]";
    let Value::List(items) = &entry.item.value else { return Err(wrong(entry, wanted)) };
    let seed = |item: &Item| match item.value {
        Value::Whole(seed) if seed >= 0 => Ok(seed as u64),
        _ => Err(item.error(format!("`seeds` takes {wanted}, and {} is no seed", item.words()))),
    };
    let seeds: Vec<u64> = items.iter().map(seed).collect::<Result<_, _>>()?;
    if seeds.is_empty() {
        return Err(wrong(entry, wanted));
    }
    match (1..seeds.len()).find(|&index| seeds[..index].contains(&seeds[index])) {
        Some(index) => Err(entry.item.error(format!("the seed {} is given twice", seeds[index]))),
        None => Ok(seeds),
    }
}

fn device(root: &Table) -> Result<Option<Device>, ConfigError> {
    let Some(entry) = root.get("device") else { return Ok(None) };
    match text(entry)?.as_str() {
        "auto" => Ok(None),
        other => match other.parse() {
            Ok(device) => Ok(Some(device)),
            Err(error) => Err(entry.item.error(format!("{error}; \"auto\" takes the best that there is"))),
        },
    }
}

fn precision(root: &Table, device: Option<Device>) -> Result<Precision, ConfigError> {
    let Some(entry) = root.get("precision") else { return Ok(Precision::Fp32) };
    let precision = match text(entry)?.as_str() {
        "fp32" => Precision::Fp32,
        "tf32" => Precision::Tf32,
        "bf16" => Precision::Bf16,
        _ => return Err(wrong(entry, "\"fp32\", \"tf32\" or \"bf16\"")),
    };
    let computes = device.map_or(Ok(()), |device| device.computes(precision));
    computes.map_err(|error| entry.item.error(error.to_string()))?;
    Ok(precision)
}

#[cfg(test)]
#[path = "resolved_tests.rs"]
mod tests;
