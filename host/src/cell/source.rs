//! Where a model or data come from, and how a cell's record says it.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where a model or data come from. As a path of the config and in JSON a
/// string: a path, or `embedded`, or `embedded:NAME`; what the hub has is an
/// object in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WrittenSource", into = "WrittenSource")]
pub enum Source {
    /// Part of the binary; without a name, the only one of its kind.
    Embedded(Option<String>),
    Path(PathBuf),
    Hub(Repository),
}

/// A model or a data set by its name at the hub.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    /// `owner/name`, or `name` alone.
    pub name: String,
    /// A branch, a tag or a commit; without it, the main branch.
    pub revision: Option<String>,
    /// None until its files were found or brought.
    pub snapshot: Option<Snapshot>,
}

/// A repository's files at one commit, in the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub commit: String,
    pub folder: PathBuf,
}

/// A source as JSON has it.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum WrittenSource {
    Text(String),
    Hub(Repository),
}

impl From<WrittenSource> for Source {
    fn from(written: WrittenSource) -> Source {
        match written {
            WrittenSource::Text(text) => Source::from(text),
            WrittenSource::Hub(repository) => Source::Hub(repository),
        }
    }
}

impl From<Source> for WrittenSource {
    fn from(source: Source) -> WrittenSource {
        match source {
            Source::Hub(repository) => WrittenSource::Hub(repository),
            source => WrittenSource::Text(source.to_string()),
        }
    }
}

impl From<String> for Source {
    fn from(text: String) -> Source {
        match text.strip_prefix("embedded") {
            Some("") => Source::Embedded(None),
            Some(rest) if rest.starts_with(':') => Source::Embedded(Some(rest[1..].into())),
            _ => Source::Path(text.into()),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Embedded(None) => f.write_str("embedded"),
            Source::Embedded(Some(name)) => write!(f, "embedded:{name}"),
            Source::Path(path) => write!(f, "{}", path.display()),
            Source::Hub(Repository { name, revision: None, .. }) => f.write_str(name),
            Source::Hub(Repository { name, revision: Some(revision), .. }) => {
                write!(f, "{name} at {revision}")
            }
        }
    }
}

impl Source {
    /// The same place, named so that it is found from every directory.
    pub fn absolute(&self) -> Source {
        match self {
            Source::Path(path) => Source::Path(std::path::absolute(path).unwrap_or_else(|_| path.clone())),
            other => other.clone(),
        }
    }

    /// The commit of the hub whose files these are, where they are the hub's.
    pub fn commit(&self) -> Option<&str> {
        match self {
            Source::Hub(repository) => Some(&repository.snapshot.as_ref()?.commit),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_written_as_they_are_read() {
        for text in ["embedded", "embedded:reviews", "embedded-models/x", "./embedded"] {
            assert_eq!(Source::from(text.to_string()).to_string(), text);
        }
        assert_eq!(Source::from("embedded:a".to_string()), Source::Embedded(Some("a".into())));
        assert_eq!(Source::from("embeddings".to_string()), Source::Path("embeddings".into()));
        let snapshot = Snapshot { commit: "c0ffee".into(), folder: "/cache/c0ffee".into() };
        let hub = |snapshot| Repository { name: "a/b".into(), revision: Some("v1".into()), snapshot };
        for source in [
            Source::Embedded(None),
            Source::Path("x/y".into()),
            Source::Hub(hub(None)),
            Source::Hub(hub(Some(snapshot))),
        ] {
            let json = serde_json::to_string(&source).unwrap();
            assert_eq!(serde_json::from_str::<Source>(&json).unwrap(), source, "{json}");
        }
    }
}
