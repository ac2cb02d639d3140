//! All plugins that are there: those in the binary, and those in folders.

use std::fmt;
use std::path::{Path, PathBuf};

use host_ir::settings::did_you_mean;
use rayon::prelude::*;

use crate::error::PluginError;
use crate::limits::Limits;
use crate::plugin::{Kind, Plugin};

/// Where a plugin comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Embedded,
    File(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Embedded => f.write_str("embedded"),
            Origin::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A plugin with its origin.
#[derive(Clone)]
pub struct Entry {
    pub plugin: Plugin,
    pub origin: Origin,
}

/// Why a plugin is not found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    #[error("there is no {kind} plugin called {name}{nearest}")]
    Unknown { kind: &'static str, name: String, nearest: String },
    #[error("two plugins are called {name}: {first} and {second}; take one away")]
    Twice { name: String, first: String, second: String },
    #[error("{}: the plugin folder cannot be read: {sentence}", folder.display())]
    Folder { folder: PathBuf, sentence: String },
    #[error(transparent)]
    Plugin(#[from] PluginError),
}

/// The plugins that were found.
#[derive(Clone, Default)]
pub struct Catalogue {
    pub entries: Vec<Entry>,
    /// Files of folders that are no plugins, as sentences.
    pub broken: Vec<(PathBuf, PluginError)>,
}

impl Catalogue {
    /// The embedded plugins, then those of a folder's `.wasm` files, by name.
    ///
    /// # Errors
    /// An embedded plugin that does not load; a folder that cannot be read; a
    /// name that two plugins have.
    pub fn find(embedded: &[(&str, &[u8])], folders: &[PathBuf]) -> Result<Catalogue, CatalogueError> {
        let mut catalogue = Catalogue::default();
        let load_embedded = |(_, bytes): &(&str, &[u8])| -> Result<Entry, CatalogueError> {
            let plugin = Plugin::load(bytes, "embedded", Limits::default())?;
            Ok(Entry { plugin, origin: Origin::Embedded })
        };
        catalogue.entries = embedded.par_iter().map(load_embedded).collect::<Result<_, _>>()?;
        for folder in folders {
            for path in wasm_files(folder)? {
                match load(&path) {
                    Ok(plugin) => catalogue.entries.push(Entry { plugin, origin: Origin::File(path) }),
                    Err(error) => catalogue.broken.push((path, error)),
                }
            }
        }
        let name = |entry: &Entry| (entry.plugin.kind, entry.plugin.description.name.clone());
        catalogue.entries.sort_by_key(name);
        for pair in catalogue.entries.windows(2) {
            if name(&pair[0]) == name(&pair[1]) {
                let (first, second) = (pair[0].origin.to_string(), pair[1].origin.to_string());
                return Err(CatalogueError::Twice { name: name(&pair[0]).1, first, second });
            }
        }
        Ok(catalogue)
    }

    /// The plugin of a kind with a name.
    ///
    /// # Errors
    /// There is none; the nearest name is told, or why the file of that name is
    /// no plugin.
    pub fn get(&self, kind: Kind, name: &str) -> Result<&Entry, CatalogueError> {
        let of_kind = || self.entries.iter().filter(|entry| entry.plugin.kind == kind);
        if let Some(entry) = of_kind().find(|entry| entry.plugin.description.name == name) {
            return Ok(entry);
        }
        let named = |path: &Path| {
            path.file_stem().is_some_and(|stem| stem.to_string_lossy().replace('_', "-") == name)
        };
        if let Some((_, error)) = self.broken.iter().find(|(path, _)| named(path)) {
            return Err(error.clone().into());
        }
        let known: Vec<&str> = of_kind().map(|entry| entry.plugin.description.name.as_str()).collect();
        let nearest = did_you_mean(name, &known);
        Err(CatalogueError::Unknown { kind: kind.name(), name: name.into(), nearest })
    }
}

/// Loads the plugin in a file.
///
/// # Errors
/// A file that cannot be read or is no plugin.
pub fn load(path: &Path) -> Result<Plugin, PluginError> {
    let origin = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|error| PluginError {
        origin: origin.clone(),
        call: None,
        problem: crate::error::Problem::NotAComponent(error.to_string()),
    })?;
    Plugin::load(&bytes, &origin, Limits::default())
}

fn wasm_files(folder: &Path) -> Result<Vec<PathBuf>, CatalogueError> {
    let failed =
        |error: std::io::Error| CatalogueError::Folder { folder: folder.into(), sentence: error.to_string() };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "wasm") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
