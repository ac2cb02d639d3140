//! Tasks: which files, what a record is, and a kit that answers the rest.

use crate::kits::Kit;
use crate::raw;
use crate::settings::Config;

/// A task: its settings, its files, and how a record becomes examples.
pub trait Task: Config {
    /// The kit that answers everything but files and records.
    fn kit(&self) -> impl Kit;

    /// Declares splits and the files in which they may be found.
    fn files(&self, files: Files);

    /// Makes examples of a record.
    ///
    /// # Errors
    /// What is wrong with the record; the host adds its file and line.
    fn parse(&self, record: Record) -> Result<(), String>;
}

/// How records stand in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// A record a line.
    Lines,
    /// A JSON object a line.
    JsonLines,
    /// Lines up to an empty one.
    Blocks,
    /// Lines from `#begin document` to `#end document`.
    Documents,
    /// A file is a record.
    Whole,
    /// A table with the columns' names in its first line.
    Csv,
    /// The same, separated by tabs.
    Tsv,
    Parquet,
}

impl Container {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Container::Lines => "lines",
            Container::JsonLines => "json-lines",
            Container::Blocks => "blocks",
            Container::Documents => "documents",
            Container::Whole => "whole",
            Container::Csv => "csv",
            Container::Tsv => "tsv",
            Container::Parquet => "parquet",
        }
    }
}

/// Splits and files.
#[derive(Clone, Copy, Debug, Default)]
pub struct Files;

impl Files {
    /// A split that trains.
    pub fn train(self, split: &str, files: &[(&str, Container)]) {
        raw::split_train(split);
        self.found_in(split, files);
    }

    /// A split that is evaluated after each epoch.
    pub fn evaluate(self, split: &str, files: &[(&str, Container)]) {
        raw::split_evaluate(split);
        self.found_in(split, files);
    }

    /// A split that is taken when it is there.
    pub fn optional(self, split: &str, files: &[(&str, Container)]) {
        raw::split_optional(split);
        self.found_in(split, files);
    }

    /// Adds to a split the Parquet files in which the hub keeps one of this name: as
    /// `push_to_hub` of datasets leaves them, and as the hub itself has them of any data
    /// set in the revision `refs/convert/parquet`.
    pub fn parquet(self, split: &str, name: &str) {
        for pattern in [
            format!("{name}-*.parquet"),
            format!("data/{name}-*.parquet"),
            format!("default/{name}/*.parquet"),
        ] {
            raw::split_file(split, &pattern, Container::Parquet.name());
        }
    }

    /// A few records of the task in a file of this name, written by the task's
    /// author, with which a run is tried (`host run --smoke`).
    pub fn sample(self, file: &str, content: &str) {
        raw::sample_file(file, content);
    }

    fn found_in(self, split: &str, files: &[(&str, Container)]) {
        files.iter().for_each(|(pattern, container)| raw::split_file(split, pattern, container.name()));
    }
}

/// A record of a file.
#[derive(Clone, Copy, Debug)]
pub struct Record(u32);

impl Record {
    /// The split that is read.
    pub fn split(self) -> String {
        raw::input_split()
    }

    /// Whether the record is an object with named fields: of JSON lines, CSV, TSV
    /// or Parquet.
    pub fn has_fields(self) -> bool {
        matches!(raw::input_container().as_str(), "json-lines" | "csv" | "tsv" | "parquet")
    }

    /// The record's whole text.
    pub fn line(self) -> String {
        raw::input_line(self.0)
    }

    /// A string of a named field.
    ///
    /// # Errors
    /// It is not there, or no string.
    pub fn text(self, path: &str) -> Result<String, String> {
        raw::input_text(self.0, path)
    }

    /// A whole number of a named field.
    ///
    /// # Errors
    /// It is not there, or no whole number.
    pub fn whole(self, path: &str) -> Result<i64, String> {
        raw::input_whole(self.0, path)
    }

    /// A boolean, or the word for one in any case.
    ///
    /// # Errors
    /// It is not there, or neither true nor false.
    pub fn flag(self, path: &str) -> Result<bool, String> {
        raw::input_flag(self.0, path)
    }

    /// Number of the elements of a list.
    ///
    /// # Errors
    /// It is not there, or no list.
    pub fn length(self, path: &str) -> Result<usize, String> {
        raw::input_length(self.0, path).map(|length| length as usize)
    }

    /// The strings of a list: `path` with each place of the list instead of its `*`.
    ///
    /// # Errors
    /// The list is not there, or has something else in it.
    pub fn texts(self, path: &str) -> Result<Vec<String>, String> {
        let (list, rest) = path.split_once(".*").unwrap_or((path, ""));
        (0..self.length(list)?).map(|place| self.text(&format!("{list}.{place}{rest}"))).collect()
    }

    /// Whether there is a named field that is not null.
    pub fn has(self, path: &str) -> bool {
        raw::input_has(self.0, path)
    }

    /// Leaves the record out, for a reason that is counted.
    pub fn skip(self, reason: &str) {
        raw::skip(self.0, reason);
    }

    /// A new example of this record.
    pub fn example(self) -> Example {
        Example(raw::add_example(self.0))
    }
}

/// An example that is being made.
#[derive(Clone, Copy, Debug)]
pub struct Example(pub(crate) u32);

impl Example {
    pub fn text(self, field: &str, text: &str) -> Example {
        raw::put_text(self.0, field, text);
        self
    }

    pub fn texts(self, field: &str, texts: &[String]) -> Example {
        raw::put_texts(self.0, field, texts);
        self
    }

    /// The record's text from a byte on, without a copy through the plugin.
    pub fn rest(self, field: &str, start: usize) -> Example {
        raw::put_rest(self.0, field, start as u32);
        self
    }

    /// A label by its number.
    pub fn label(self, field: &str, label: i64) -> Example {
        raw::put_label(self.0, field, label);
        self
    }

    /// A label of a named field of the record, which has its number or its name.
    ///
    /// # Errors
    /// The field is not there, or neither a whole number nor a string.
    pub fn label_of(self, field: &str, record: Record, path: &str) -> Result<Example, String> {
        match (record.whole(path), record.text(path)) {
            (Ok(label), _) => Ok(self.label(field, label)),
            (Err(_), Ok(name)) => Ok(self.label_name(field, &name)),
            (Err(sentence), Err(_)) => Err(sentence),
        }
    }

    /// A label by its name.
    pub fn label_name(self, field: &str, name: &str) -> Example {
        raw::put_label_name(self.0, field, name);
        self
    }
}

/// The names of the labels of a field, in the order of their numbers.
pub fn label_names(field: &str) -> Vec<String> {
    raw::field_names(field)
}

/// The task's `layout`; for `export_task!`.
pub fn layout<T: Task>() {
    let task = T::ask();
    task.files(Files);
    task.kit().layout();
}

/// The task's `parse`; for `export_task!`. What is wrong with a record is told
/// to the host, and the next one is tried.
pub fn parse<T: Task>(records: u32) {
    let task = T::ask();
    for record in 0..records {
        if let Err(sentence) = task.parse(Record(record)) {
            raw::reject(record, &sentence);
        }
    }
}

/// The task's `plan`; for `export_task!`.
pub fn plan<T: Task>() {
    crate::node::forget_place();
    T::ask().kit().plan();
}

/// The task's `predict`, `score` and `measure`; for `export_task!`.
pub fn predict<T: Task>(groups: u32) {
    let task = T::ask();
    (0..groups).for_each(|group| {
        (0..raw::group_size(group)).for_each(|place| task.kit().predict(raw::group_example(group, place)))
    });
}

/// See [`predict`].
pub fn score<T: Task>(groups: u32) {
    let task = T::ask();
    (0..groups).for_each(|group| {
        (0..raw::group_size(group))
            .for_each(|place| task.kit().score(group, raw::group_example(group, place)))
    });
}

/// See [`predict`].
pub fn measure<T: Task>(samples: u32) {
    let task = T::ask();
    (0..samples).for_each(|sample| task.kit().measure(sample));
}

/// Exports a task. Name, version and summary are those of Cargo.toml.
#[macro_export]
macro_rules! export_task {
    ($task:ty) => {
        #[cfg(target_arch = "wasm32")]
        mod exported {
            use super::*;

            struct Exported;

            type Answer = ::std::result::Result<(), ::std::string::String>;

            impl $crate::bindings::task::exports::peft::plugin::task::Guest for Exported {
                fn describe() {
                    $crate::guest::carry_panics_out();
                    $crate::method::describe::<$task>(
                        env!("CARGO_PKG_NAME"),
                        env!("CARGO_PKG_VERSION"),
                        env!("CARGO_PKG_DESCRIPTION"),
                    );
                }

                fn layout() -> Answer {
                    $crate::guest::carry_panics_out();
                    Ok($crate::task::layout::<$task>())
                }

                fn parse(records: u32) -> Answer {
                    $crate::guest::carry_panics_out();
                    Ok($crate::task::parse::<$task>(records))
                }

                fn plan() -> Answer {
                    $crate::guest::carry_panics_out();
                    Ok($crate::task::plan::<$task>())
                }

                fn predict(groups: u32) -> Answer {
                    $crate::guest::carry_panics_out();
                    Ok($crate::task::predict::<$task>(groups))
                }

                fn score(groups: u32) -> Answer {
                    $crate::guest::carry_panics_out();
                    Ok($crate::task::score::<$task>(groups))
                }

                fn measure(samples: u32) -> Answer {
                    $crate::guest::carry_panics_out();
                    Ok($crate::task::measure::<$task>(samples))
                }
            }

            $crate::bindings::task::export!(Exported with_types_in $crate::bindings::task);
        }
    };
}
