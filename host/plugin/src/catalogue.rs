//! All plugins that are there: those in the binary, and those in folders.

use std::fmt;
use std::path::{Path, PathBuf};

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
    /// Plugins that cannot be told apart, so that none of them is among the entries.
    pub twice: Vec<Twice>,
}

/// A name that two plugins of a kind have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("two {} plugins are called {name}: {first} and {second}; take one away", kind.name())]
pub struct Twice {
    pub kind: Kind,
    pub name: String,
    pub first: Origin,
    pub second: Origin,
}

impl Catalogue {
    /// The embedded plugins, then those of a folder's `.wasm` files, by name.
    ///
    /// # Errors
    /// An embedded plugin that does not load; a folder that cannot be read.
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
        catalogue.entries.sort_by_key(name);
        for pair in catalogue.entries.windows(2).filter(|pair| name(&pair[0]) == name(&pair[1])) {
            let ((kind, name), [first, second]) =
                (name(&pair[0]), [0, 1].map(|place| pair[place].origin.clone()));
            catalogue.twice.push(Twice { kind, name, first, second });
        }
        let twice = &catalogue.twice;
        catalogue
            .entries
            .retain(|entry| !twice.iter().any(|twice| (twice.kind, twice.name.clone()) == name(entry)));
        Ok(catalogue)
    }
}

fn name(entry: &Entry) -> (Kind, String) {
    (entry.plugin.kind, entry.plugin.description.name.clone())
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
        problem: crate::error::Problem::Unreadable(error.to_string()),
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
