//! What a config file and the command line's overrides say, with the place of
//! every key and value, so that an error can show where it stands.

use std::fmt;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use host_ir::settings::{Setting, did_you_mean};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A text in which keys stand: a file, or an argument of the command line.
#[derive(Debug)]
struct Text {
    /// The file's path; none for an argument, which names itself.
    file: Option<String>,
    text: String,
}

/// Where a key or value stands.
#[derive(Clone, Debug)]
pub struct Place {
    text: Arc<Text>,
    /// Bytes of the text; none where all of it is meant.
    span: Option<Range<usize>>,
}

impl Place {
    /// The place of what an argument of the command line says.
    pub fn of_argument(argument: &str) -> Place {
        Place { text: Arc::new(Text { file: None, text: argument.into() }), span: None }
    }

    /// A value that stands here.
    pub fn item(&self, value: Value) -> Item {
        Item { value, place: self.clone() }
    }

    /// Whether it stands in an argument of the command line.
    pub fn is_argument(&self) -> bool {
        self.text.file.is_none()
    }

    fn at(&self, span: Range<usize>) -> Place {
        Place { text: self.text.clone(), span: Some(span) }
    }
}

/// What is wrong with a config, and where: a sentence, and the line under it.
#[derive(Debug, thiserror::Error)]
pub struct ConfigError {
    pub sentence: String,
    pub place: Option<Place>,
}

impl ConfigError {
    pub fn new(place: &Place, sentence: impl Into<String>) -> ConfigError {
        ConfigError { sentence: sentence.into(), place: Some(place.clone()) }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(place) = &self.place else { return f.write_str(&self.sentence) };
        let text = &place.text.text;
        let Some(file) = &place.text.file else { return write!(f, "{text}: {}", self.sentence) };
        let Some(span) = &place.span else { return write!(f, "{file}: {}", self.sentence) };
        let start = span.start.min(text.len());
        let before = text.get(..start).unwrap_or(text);
        let number = before.matches('\n').count() + 1;
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        let line = text[line_start..].lines().next().unwrap_or("");
        let column = before[line_start..].chars().count();
        let marked = text.get(span.clone()).unwrap_or("").lines().next().unwrap_or("").chars().count();
        let margin = " ".repeat(number.to_string().len());
        write!(f, "{file}:{number}: {}", self.sentence)?;
        write!(f, "\n  {number} | {line}\n  {margin} | {}{}", " ".repeat(column), "^".repeat(marked.max(1)))
    }
}

/// A value of TOML.
#[derive(Clone, Debug)]
pub enum Value {
    Boolean(bool),
    Whole(i64),
    Real(f64),
    Text(String),
    List(Vec<Item>),
    Table(Table),
    Date,
}

/// A value and its place.
#[derive(Clone, Debug)]
pub struct Item {
    pub value: Value,
    pub place: Place,
}

/// A key, its place and what it is set to.
#[derive(Clone, Debug)]
pub struct Entry {
    pub key: String,
    pub place: Place,
    pub item: Item,
}

/// Entries in the order in which they are written.
#[derive(Clone, Debug)]
pub struct Table {
    pub entries: Vec<Entry>,
}

impl Table {
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    fn get_mut(&mut self, key: &str) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.key == key)
    }
}

impl Item {
    pub fn error(&self, sentence: impl Into<String>) -> ConfigError {
        ConfigError::new(&self.place, sentence)
    }

    /// The value in words, for errors.
    pub fn words(&self) -> String {
        match &self.value {
            Value::Boolean(value) => value.to_string(),
            Value::Whole(value) => value.to_string(),
            Value::Real(value) if value.is_finite() => format!("{value:?}"),
            Value::Real(value) => format!("{value:?}, which is no finite number"),
            Value::Text(value) => format!("\"{value}\""),
            Value::List(items) if items.is_empty() => "an empty list".into(),
            Value::List(_) => "a list".into(),
            Value::Table(_) => "a table".into(),
            Value::Date => "a date".into(),
        }
    }

    /// The value as one of a plugin's settings; none where no setting has its
    /// form, as a list of different types.
    pub fn setting(&self) -> Option<Setting> {
        Some(match &self.value {
            Value::Boolean(value) => Setting::Boolean(*value),
            Value::Whole(value) => Setting::Whole(*value),
            Value::Real(value) => Setting::Real(*value),
            Value::Text(value) => Setting::Text(value.clone()),
            Value::List(items) => {
                let wholes: Option<Vec<i64>> = items
                    .iter()
                    .map(|item| if let Value::Whole(whole) = item.value { Some(whole) } else { None })
                    .collect();
                let texts = || {
                    let text = |item: &Item| match &item.value {
                        Value::Text(text) => Some(text.clone()),
                        _ => None,
                    };
                    items.iter().map(text).collect::<Option<Vec<String>>>()
                };
                match wholes {
                    Some(wholes) => Setting::Wholes(wholes),
                    None => Setting::Texts(texts()?),
                }
            }
            Value::Table(table) => {
                let number = |entry: &Entry| match entry.item.value {
                    Value::Whole(whole) => Some((entry.key.clone(), whole as f64)),
                    Value::Real(real) => Some((entry.key.clone(), real)),
                    _ => None,
                };
                Setting::Numbers(table.entries.iter().map(number).collect::<Option<_>>()?)
            }
            Value::Date => return None,
        })
    }
}

/// The end of a sentence about a config that is not there: the nearest in its folder.
fn beside(path: &Path) -> String {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut configs: Vec<String> = entries.map(|entry| name(&entry.path())).collect();
    configs.retain(|other| other.ends_with(".toml"));
    configs.sort();
    did_you_mean(&name(path), &configs.iter().map(String::as_str).collect::<Vec<_>>())
}

/// All that the user says about a run.
#[derive(Clone, Debug)]
pub struct Raw {
    /// The file as a whole.
    pub place: Place,
    pub root: Table,
    /// `methods` means all that are found, although settings of some are given:
    /// an override of one method does not leave out the others.
    pub all_methods: bool,
}

impl Raw {
    /// Reads a config file.
    ///
    /// # Errors
    /// A file that cannot be read or is no UTF-8; a line that is no TOML.
    pub fn read(path: &Path) -> Result<Raw, ConfigError> {
        let unplaced = |sentence| ConfigError { sentence, place: None };
        let name = path.display();
        let bytes = std::fs::read(path).map_err(|error| {
            let nearest = if error.kind() == ErrorKind::NotFound { beside(path) } else { String::new() };
            unplaced(format!("the config {name} cannot be read: {error}{nearest}"))
        })?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let line = error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|&&b| b == b'\n');
            unplaced(format!("{name}:{}: the config is not valid UTF-8", line.count() + 1))
        })?;
        Raw::parse(&name.to_string(), text)
    }

    /// Parses the text of a config file.
    pub fn parse(file: &str, text: String) -> Result<Raw, ConfigError> {
        let place = Place { text: Arc::new(Text { file: Some(file.into()), text }), span: None };
        let table = DeTable::parse(&place.text.text).map_err(|error| {
            let place = Place { span: error.span(), ..place.clone() };
            ConfigError::new(&place, format!("this is not TOML: {}", error.message()))
        })?;
        let root = read_table(table.get_ref(), &place)?;
        Ok(Raw { place, root, all_methods: false })
    }

    /// Applies one `--set key.path=value`. The value is read as TOML, and as a
    /// string where it is none.
    pub fn set(&mut self, argument: &str) -> Result<(), ConfigError> {
        let place = Place::of_argument(&format!("--set {argument}"));
        let Some((path, value)) = argument.split_once('=') else {
            return Err(ConfigError::new(&place, "an override is written key.path=value"));
        };
        let keys = toml_edit::Key::parse(path.trim()).map_err(|_| {
            ConfigError::new(&place, format!("`{path}` is not a path of keys such as training.learning_rate"))
        })?;
        let keys: Vec<&str> = keys.iter().map(toml_edit::Key::get).collect();
        let item = match DeValue::parse(value.trim()) {
            Ok(parsed) => read_value(parsed.get_ref(), &place)?,
            Err(_) => Value::Text(value.into()),
        };
        self.insert(&keys, place.item(item))
    }

    /// Whether the config trains every method that is installed.
    pub fn means_all_methods(&self) -> bool {
        match self.root.get("methods").map(|entry| &entry.item.value) {
            None => true,
            Some(Value::Text(text)) => text == "all",
            Some(_) => self.all_methods,
        }
    }

    /// Sets a key as an option of its own, such as `--threads 2`, does.
    pub fn set_option(&mut self, argument: &str, key: &str, value: Value) -> Result<(), ConfigError> {
        self.insert(&[key], Place::of_argument(argument).item(value))
    }

    fn insert(&mut self, keys: &[&str], item: Item) -> Result<(), ConfigError> {
        let Some((last, parents)) = keys.split_last() else { return Ok(()) };
        self.forget_the_other_source(keys);
        if *last == "methods" && parents.is_empty() {
            self.all_methods = false;
        } else if parents.first() == Some(&"methods") {
            self.list_as_tables();
            let table = matches!(self.root.get("methods"), Some(entry) if matches!(entry.item.value, Value::Table(_)));
            if self.means_all_methods() && !table {
                self.all_methods = true;
                self.root.entries.retain(|entry| entry.key != "methods");
            }
        }
        let mut table = &mut self.root;
        for (depth, key) in parents.iter().enumerate() {
            if table.get(key).is_none() {
                let empty =
                    Item { value: Value::Table(Table { entries: Vec::new() }), place: item.place.clone() };
                table.entries.push(Entry { key: key.to_string(), place: item.place.clone(), item: empty });
            }
            let path = keys[..=depth].join(".");
            let entry = table.get_mut(key).map(|entry| &mut entry.item.value);
            let Some(Value::Table(inner)) = entry else {
                return Err(
                    item.error(format!("`{path}` is no table, so it has no key `{}`", keys[depth + 1]))
                );
            };
            table = inner;
        }
        match table.get_mut(last) {
            Some(entry) => {
                entry.place = item.place.clone();
                entry.item = item;
            }
            None => table.entries.push(Entry { key: last.to_string(), place: item.place.clone(), item }),
        }
        Ok(())
    }
}

impl Raw {
    /// A list of methods becomes tables of the same methods, which have keys to set.
    fn list_as_tables(&mut self) {
        let Some(methods) = self.root.get_mut("methods") else { return };
        let Value::List(items) = &methods.item.value else { return };
        let table = |item: &Item| match &item.value {
            Value::Text(name) => {
                let empty = item.place.item(Value::Table(Table { entries: Vec::new() }));
                Some(Entry { key: name.clone(), place: item.place.clone(), item: empty })
            }
            _ => None,
        };
        // What is no name stays in its list, of which the error tells.
        if let Some(entries) = items.iter().map(table).collect() {
            methods.item.value = Value::Table(Table { entries });
        }
    }

    /// A path on the command line takes the place of the file's name, and a name
    /// that of the file's path and revision. What the command line itself says
    /// of both stays, and is an error later.
    fn forget_the_other_source(&mut self, keys: &[&str]) {
        let (table, others): (_, &[&str]) = match keys {
            [table @ ("model" | "data"), "path"] => (table, &["name", "revision"]),
            [table @ ("model" | "data"), "name"] => (table, &["path", "revision"]),
            _ => return,
        };
        if let Some(Value::Table(table)) = self.root.get_mut(table).map(|entry| &mut entry.item.value) {
            table.entries.retain(|entry| entry.place.is_argument() || !others.contains(&entry.key.as_str()));
        }
    }
}

fn read_table(table: &DeTable<'_>, place: &Place) -> Result<Table, ConfigError> {
    let mut entries: Vec<(usize, Entry)> = Vec::new();
    for (key, value) in table {
        let entry = Entry {
            key: key.get_ref().to_string(),
            place: place.at(key.span()),
            item: read_item(value, place)?,
        };
        entries.push((key.span().start, entry));
    }
    // The parser's table is in the order of the alphabet.
    entries.sort_by_key(|(start, _)| *start);
    Ok(Table { entries: entries.into_iter().map(|(_, entry)| entry).collect() })
}

fn read_item(value: &Spanned<DeValue<'_>>, place: &Place) -> Result<Item, ConfigError> {
    let place = if place.is_argument() { place.clone() } else { place.at(value.span()) };
    Ok(Item { value: read_value(value.get_ref(), &place)?, place })
}

fn read_value(value: &DeValue<'_>, place: &Place) -> Result<Value, ConfigError> {
    Ok(match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Integer(digits) => {
            let whole = i64::from_str_radix(digits.as_str(), digits.radix());
            Value::Whole(whole.map_err(|_| ConfigError::new(place, "the number does not fit into 64 bits"))?)
        }
        DeValue::Float(digits) => {
            let real = digits.as_str().parse();
            Value::Real(real.map_err(|_| ConfigError::new(place, "this is not a number"))?)
        }
        DeValue::Datetime(_) => Value::Date,
        DeValue::Array(items) => {
            Value::List(items.iter().map(|item| read_item(item, place)).collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => Value::Table(read_table(table, place)?),
    })
}

#[cfg(test)]
mod tests;
