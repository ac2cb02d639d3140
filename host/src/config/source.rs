//! `path`, or `name` and `revision`: where the model and the data come from.

use super::raw::{ConfigError, Entry, Place, Raw, Table};
use super::resolved::{table, text};
use crate::cell::{Repository, Source};

/// The table `[model]` or `[data]`, and the source that it names.
///
/// # Errors
/// No source or two; a path or a name that can be none.
pub fn of<'a>(raw: &'a Raw, named: &str) -> Result<(&'a Table, Source), ConfigError> {
    let missing = |place: &Place| {
        ConfigError::new(
            place,
            format!(
                "[{named}] needs the key `path`, or `name` for what the hub has, in the config or by \
                 --set {named}.path=…"
            ),
        )
    };
    let entry = raw.root.get(named).ok_or_else(|| missing(&raw.place))?;
    let keys = table(entry)?;
    let source = match (keys.get("path"), keys.get("name")) {
        (None, None) => return Err(missing(&entry.place)),
        (Some(_), Some(name)) => {
            return Err(ConfigError::new(
                &name.place,
                format!(
                    "[{named}] has `path` and `name`, and either alone says what is meant; leave one out"
                ),
            ));
        }
        (Some(path), None) => by_path(path, keys)?,
        (None, Some(name)) => by_name(name, keys.get("revision"), named)?,
    };
    Ok((keys, source))
}

fn by_path(path: &Entry, keys: &Table) -> Result<Source, ConfigError> {
    if let Some(revision) = keys.get("revision") {
        let sentence = "`revision` belongs to `name`: what lies at a path has none";
        return Err(ConfigError::new(&revision.place, sentence));
    }
    let text = text(path)?;
    match text.is_empty() {
        true => Err(path.item.error("`path` is empty; give a folder, or \"embedded\"")),
        false => Ok(Source::from(text)),
    }
}

fn by_name(name: &Entry, revision: Option<&Entry>, named: &str) -> Result<Source, ConfigError> {
    let text_of = text(name)?;
    if !is_name(&text_of) {
        let sentence = format!(
            "`name` is a name at the hub, \"owner/name\", and not \"{text_of}\"; a folder is given by {named}.path"
        );
        return Err(name.item.error(sentence));
    }
    let revision = match revision {
        Some(entry) => Some(text(entry)?).filter(|text| is_revision(text)).ok_or_else(|| {
            entry.item.error(format!(
                "`revision` takes a branch, a tag or a commit in quotes, not {}",
                entry.item.words()
            ))
        })?,
        None => return Ok(Source::Hub(Repository { name: text_of, revision: None, snapshot: None })),
    };
    Ok(Source::Hub(Repository { name: text_of, revision: Some(revision), snapshot: None }))
}

/// `owner/name` or `name`, of the letters that the hub allows.
fn is_name(text: &str) -> bool {
    let part = |part: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !part.is_empty() && part.chars().all(plain) && !part.starts_with(['-', '.']) && !part.contains("..")
    };
    let parts: Vec<&str> = text.split('/').collect();
    parts.len() <= 2 && parts.into_iter().all(part)
}

/// A name of git that is safe as a path below a folder.
fn is_revision(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./+".contains(c);
    !text.is_empty()
        && text.chars().all(plain)
        && text.split('/').all(|part| !part.is_empty() && !part.starts_with('.'))
        && !text.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Result<Source, String> {
        let raw = Raw::parse("x.toml", text.into()).unwrap();
        of(&raw, "model").map(|(_, source)| source).map_err(|error| error.to_string())
    }

    #[test]
    fn names_and_revisions_are_read() {
        let hub = |name: &str, revision: Option<&str>| {
            Source::Hub(Repository {
                name: name.into(),
                revision: revision.map(String::from),
                snapshot: None,
            })
        };
        assert_eq!(source("[model]\nname = \"a/b-c.d\"\n"), Ok(hub("a/b-c.d", None)));
        assert_eq!(
            source("[model]\nname = \"bert\"\nrevision = \"refs/pr/1\"\n"),
            Ok(hub("bert", Some("refs/pr/1")))
        );
        assert_eq!(source("[model]\npath = \"x\"\n"), Ok(Source::Path("x".into())));
    }

    #[test]
    fn what_cannot_be_meant_is_said_with_its_line() {
        let error = |text: &str| source(&format!("[model]\n{text}\n")).unwrap_err();
        let both = error("path = \"x\"\nname = \"a/b\"");
        assert!(both.starts_with("x.toml:3: [model] has `path` and `name`"), "{both}");
        assert!(error("reinitialise = true").contains("needs the key `path`, or `name`"));
        for wrong in ["/a/b", "./a", "a/b/c", "a/../b", "a b", ""] {
            let error = error(&format!("name = \"{wrong}\""));
            assert!(error.contains("a folder is given by model.path"), "{error}");
        }
        for wrong in ["\"../x\"", "\"\"", "\"a//b\""] {
            let error = error(&format!("name = \"a/b\"\nrevision = {wrong}"));
            assert!(error.contains("`revision` takes a branch"), "{error}");
        }
        assert!(error("name = \"a/b\"\nrevision = 3").contains("`revision` takes a string"));
        assert!(error("path = \"x\"\nrevision = \"main\"").contains("`revision` belongs to `name`"));
    }
}
