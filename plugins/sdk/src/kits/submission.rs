//! The file in which a shared task wants its predictions.

use crate::raw;
use crate::task::Container;

/// A file of predictions: the id of an example and its predicted label.
pub struct Submission {
    file: String,
    container: Container,
    id: (String, String, &'static str),
    label: (String, &'static str),
}

impl Submission {
    /// A file of JSON lines or CSV with this name. `id` is a key of the file, the
    /// text field that it holds and its form, "text" or "number"; `label` the key
    /// of the label and its form, "text" (the name), "number" or "boolean".
    pub fn new(
        file: &str,
        container: Container,
        id: (&str, &str, &'static str),
        label: (&str, &'static str),
    ) -> Submission {
        let (key, field, form) = id;
        Submission {
            file: file.into(),
            container,
            id: (key.into(), field.into(), form),
            label: (label.0.into(), label.1),
        }
    }

    /// Declares the id's field, and the file with the label's prediction.
    pub(super) fn layout(&self, prediction: &str) {
        let (key, field, form) = &self.id;
        raw::field_text(field);
        raw::prediction_file(&self.file, self.container.name());
        raw::prediction_file_field(&self.file, key, field, form);
        raw::prediction_file_column(&self.file, &self.label.0, prediction, self.label.1);
    }
}
