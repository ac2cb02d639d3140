//! Which files hold the splits that a task declares.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use host_ir::settings::did_you_mean;
use host_ir::task::{Container, Layout, Split, SplitUse};

use crate::files::{FileError, listing};

/// The ending of a file that is packed.
const PACKED: &str = ".gz";

/// A split with its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundSplit {
    pub name: String,
    pub usage: SplitUse,
    pub files: Vec<PathBuf>,
    pub container: Container,
}

/// Finds the files of every split. `overrides` gives files, relative to the
/// data's folder, for splits by name.
///
/// # Errors
/// A split without a file; a name that is no split's.
pub fn find(
    layout: &Layout,
    data: &Path,
    overrides: &BTreeMap<String, PathBuf>,
) -> Result<Vec<FoundSplit>, FileError> {
    for name in overrides.keys() {
        let known: Vec<&str> = layout.splits.iter().map(|split| split.name.as_str()).collect();
        if !known.contains(&name.as_str()) {
            return Err(FileError::new(
                data,
                format!("the task has no split {name}{}", did_you_mean(name, &known)),
            ));
        }
    }
    if !data.is_dir() {
        return Err(FileError::new(
            data,
            "there is no such folder; data.path is the folder in which the data's files lie",
        ));
    }
    let mut found = Vec::new();
    for split in &layout.splits {
        if let Some((files, container)) = files_of(split, data, overrides.get(&split.name))? {
            found.push(FoundSplit { name: split.name.clone(), usage: split.usage, files, container });
        } else if split.usage != SplitUse::Optional {
            let patterns: Vec<&str> = split.files.iter().map(|file| file.pattern.as_str()).collect();
            let sentence = format!(
                "there is no file for the split {}; looked for {}; the folder has {}",
                split.name,
                patterns.join(", "),
                listing(data, 8)
            );
            return Err(FileError::new(data, sentence));
        }
    }
    Ok(found)
}

/// The files that hold the splits, out of the names of all files that there are,
/// such as a repository's; and, in words, what is missing for splits that must
/// be there. `overrides` as in [`find`].
pub fn among(
    layout: &Layout,
    names: &[String],
    overrides: &BTreeMap<String, PathBuf>,
) -> (Vec<String>, Vec<String>) {
    let (mut files, mut missing) = (Vec::new(), Vec::new());
    for split in &layout.splits {
        let given = overrides.get(&split.name).map(|path| path.to_string_lossy().into_owned());
        let tried = match &given {
            Some(given) => vec![given.clone()],
            None => patterns(split).map(|(pattern, _)| pattern).collect(),
        };
        let found =
            tried.iter().map(|pattern| names_matching(names, pattern)).find(|found| !found.is_empty());
        match found {
            Some(found) => files.extend(found),
            None if given.is_none() && split.usage == SplitUse::Optional => {}
            None => {
                let declared = split.files.iter().map(|file| file.pattern.as_str()).collect::<Vec<_>>();
                let wanted = given.unwrap_or_else(|| declared.join(", "));
                missing.push(format!("file for the split {} ({wanted})", split.name));
            }
        }
    }
    files.sort();
    files.dedup();
    (files, missing)
}

/// The names that a pattern matches, as [`matching`] finds files.
fn names_matching(names: &[String], pattern: &str) -> Vec<String> {
    let apart = |path: &str| match path.rsplit_once('/') {
        Some((folder, name)) => (folder.to_string(), name.to_string()),
        None => (String::new(), path.to_string()),
    };
    let (folder, last) = apart(pattern);
    let wanted = |name: &&String| {
        let (below, name) = apart(name);
        below == folder && matches(&last, &name)
    };
    names.iter().filter(wanted).cloned().collect()
}

fn files_of(
    split: &Split,
    data: &Path,
    given: Option<&PathBuf>,
) -> Result<Option<(Vec<PathBuf>, Container)>, FileError> {
    if let Some(given) = given {
        let path = data.join(given);
        if !path.is_file() {
            return Err(FileError::new(
                path,
                format!("there is no such file, which data.files gives for the split {}", split.name),
            ));
        }
        return Ok(Some((vec![path.clone()], container_of(split, &path))));
    }
    let mut found = patterns(split).map(|(pattern, container)| (matching(data, &pattern), container));
    Ok(found.find(|(files, _)| !files.is_empty()))
}

/// The patterns of a split in the order in which they are tried: each as the task
/// has it, then that of the same files packed.
fn patterns(split: &Split) -> impl Iterator<Item = (String, Container)> {
    split.files.iter().flat_map(|file| {
        [file.pattern.clone(), format!("{}{PACKED}", file.pattern)].map(|pattern| (pattern, file.container))
    })
}

/// The container of a file that the user gave: by a pattern that it matches,
/// else by its ending, else the task's first.
pub fn container_of(split: &Split, path: &Path) -> Container {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(PACKED).unwrap_or(&name);
    let by_pattern = split.files.iter().find(|file| matches(&file.pattern, name)).map(|file| file.container);
    let by_ending = match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("jsonl" | "json") => Some(Container::JsonLines),
        Some("csv") => Some(Container::Csv),
        Some("tsv") => Some(Container::Tsv),
        Some("parquet") => Some(Container::Parquet),
        _ => None,
    };
    by_pattern.or(by_ending).or(split.files.first().map(|file| file.container)).unwrap_or(Container::Lines)
}

/// Files whose paths below a folder match a pattern, sorted. Stars stand in the
/// last part of the path.
fn matching(data: &Path, pattern: &str) -> Vec<PathBuf> {
    let exact = data.join(pattern);
    if !pattern.contains('*') {
        return if exact.is_file() { vec![exact] } else { Vec::new() };
    }
    let (folder, pattern) = match pattern.rsplit_once('/') {
        Some((below, name)) => (data.join(below), name),
        None => (data.to_path_buf(), pattern),
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries
        .filter(|path| {
            path.is_file() && matches(pattern, &path.file_name().unwrap_or_default().to_string_lossy())
        })
        .collect();
    files.sort();
    files
}

/// Whether a name matches a pattern in which `*` stands for any part.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let mut last = None;
    for part in parts {
        last = Some(part);
        match rest.find(part) {
            Some(place) => rest = &rest[place + part.len()..],
            None => return false,
        }
    }
    // The last part stands at the end, wherever it was found first.
    last.map_or(rest.is_empty(), |last| name.ends_with(last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use host_ir::task::FilePattern;

    fn layout() -> Layout {
        let file = |pattern: &str, container| FilePattern { pattern: pattern.into(), container };
        let split = |name: &str, usage, files| Split { name: name.into(), usage, files };
        Layout {
            splits: vec![
                split(
                    "train",
                    SplitUse::Train,
                    vec![file("a.train", Container::Lines), file("*train*.jsonl", Container::JsonLines)],
                ),
                split("dev", SplitUse::Optional, vec![file("a.dev", Container::Lines)]),
            ],
            ..Layout::default()
        }
    }

    #[test]
    fn patterns_are_tried_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let error = find(&layout(), folder.path(), &BTreeMap::new()).unwrap_err().to_string();
        assert!(
            error.contains("split train; looked for a.train, *train*.jsonl; the folder has no files"),
            "{error}"
        );
        fs::write(folder.path().join("my-train-1.jsonl"), "{}").unwrap();
        let found = find(&layout(), folder.path(), &BTreeMap::new()).unwrap();
        assert_eq!((found.len(), found[0].container), (1, Container::JsonLines));
        fs::write(folder.path().join("a.train"), "x").unwrap();
        assert_eq!(find(&layout(), folder.path(), &BTreeMap::new()).unwrap()[0].container, Container::Lines);
    }

    #[test]
    fn files_are_found_among_names() {
        let names = ["README.md", "a/my-train-1.jsonl", "my-train-2.jsonl", "my-train-1.jsonl", "a.dev"];
        let names: Vec<String> = names.into_iter().map(String::from).collect();
        let none = BTreeMap::new();
        let (files, missing) = among(&layout(), &names, &none);
        assert_eq!(files, ["a.dev", "my-train-1.jsonl", "my-train-2.jsonl"]);
        assert!(missing.is_empty());
        let (files, missing) = among(&layout(), &names[4..], &none);
        assert_eq!(files, ["a.dev"]);
        assert_eq!(missing, ["file for the split train (a.train, *train*.jsonl)"]);
        let given = |file: &str| BTreeMap::from([("dev".to_string(), PathBuf::from(file))]);
        assert!(among(&layout(), &names, &given("README.md")).0.contains(&"README.md".to_string()));
        assert_eq!(among(&layout(), &names, &given("x")).1, ["file for the split dev (x)"]);
    }

    /// As in a folder: a packed file takes the place of one that is not there.
    #[test]
    fn packed_files_are_found_among_names() {
        let names = ["README.md", "a.dev.gz", "my-train-1.jsonl.gz", "my-train-2.jsonl.gz"];
        let mut names: Vec<String> = names.into_iter().map(String::from).collect();
        let none = BTreeMap::new();
        let (files, missing) = among(&layout(), &names, &none);
        assert_eq!((&files[..], missing.len()), (&names[1..], 0));
        names.push("a.dev".into());
        assert!(!among(&layout(), &names, &none).0.contains(&"a.dev.gz".to_string()));
    }

    #[test]
    fn files_can_be_given() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("mine.jsonl"), "{}").unwrap();
        let given = |split: &str, file: &str| BTreeMap::from([(split.to_string(), PathBuf::from(file))]);
        let found = find(&layout(), folder.path(), &given("train", "mine.jsonl")).unwrap();
        assert_eq!(found[0].container, Container::JsonLines);
        assert!(
            find(&layout(), folder.path(), &given("train", "none"))
                .unwrap_err()
                .to_string()
                .contains("no such file")
        );
        assert!(
            find(&layout(), folder.path(), &given("trian", "x"))
                .unwrap_err()
                .to_string()
                .contains("did you mean `train`")
        );
    }

    #[test]
    fn files_may_be_packed_and_of_any_container() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.train.gz"), "x").unwrap();
        let found = find(&layout(), folder.path(), &BTreeMap::new()).unwrap();
        assert_eq!((found[0].files.len(), found[0].container), (1, Container::Lines));
        for (name, container) in [
            ("b.csv", Container::Csv),
            ("b.tsv.gz", Container::Tsv),
            ("b.parquet", Container::Parquet),
            ("b.jsonl.gz", Container::JsonLines),
            ("b.other", Container::Lines),
        ] {
            fs::write(folder.path().join(name), "x").unwrap();
            let given = BTreeMap::from([("train".to_string(), PathBuf::from(name))]);
            assert_eq!(find(&layout(), folder.path(), &given).unwrap()[0].container, container, "{name}");
        }
    }

    #[test]
    fn stars_stand_for_any_part() {
        assert!(matches("*.txt", "a.txt") && matches("a*b", "aXb") && matches("ab", "ab"));
        assert!(!matches("*.txt", "a.txt.gz") && !matches("a*b", "ba") && !matches("ab", "abc"));
    }

    #[test]
    fn a_star_may_stand_below_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("data")).unwrap();
        for name in ["data/train-1.txt", "data/train-0.txt", "train-2.txt"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        let names = |pattern: &str| -> Vec<String> {
            let files = matching(folder.path(), pattern);
            files.iter().map(|file| file.file_name().unwrap().to_string_lossy().into_owned()).collect()
        };
        assert_eq!(names("data/train-*.txt"), ["train-0.txt", "train-1.txt"]);
        assert_eq!(names("train-*.txt"), ["train-2.txt"]);
    }
}
