//! A checkpoint's config.json, with typed questions to it.

use serde_json::{Map, Value};

use super::FileError;

/// The entries of config.json, in the file's order.
#[derive(Clone, Debug)]
pub struct Configuration {
    entries: Map<String, Value>,
    /// What errors call the file.
    origin: String,
}

impl Configuration {
    /// Reads the JSON object that config.json is.
    pub fn parse(json: &[u8], origin: &str) -> Result<Configuration, FileError> {
        let entries = serde_json::from_slice(json)
            .map_err(|source| FileError::Json { origin: origin.to_owned(), source })?;
        Ok(Configuration { entries, origin: origin.to_owned() })
    }

    pub fn entries(&self) -> &Map<String, Value> {
        &self.entries
    }

    /// `model_type`, the family of the model.
    pub fn model_type(&self) -> Result<&str, FileError> {
        self.text("model_type")?.ok_or_else(|| self.missing("model_type"))
    }

    /// A whole number that must be there.
    pub fn whole(&self, key: &str) -> Result<u64, FileError> {
        self.optional_whole(key)?.ok_or_else(|| self.missing(key))
    }

    pub fn optional_whole(&self, key: &str) -> Result<Option<u64>, FileError> {
        self.get(key, "a whole number", Value::as_u64)
    }

    pub fn real(&self, key: &str) -> Result<Option<f64>, FileError> {
        self.get(key, "a number", Value::as_f64)
    }

    pub fn boolean(&self, key: &str) -> Result<Option<bool>, FileError> {
        self.get(key, "true or false", Value::as_bool)
    }

    pub fn text(&self, key: &str) -> Result<Option<&str>, FileError> {
        self.get(key, "a string", Value::as_str)
    }

    /// The value of a key: none where it is left out or null.
    fn get<'a, T>(
        &'a self,
        key: &str,
        wanted: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, FileError> {
        match self.entries.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match read(value) {
                Some(value) => Ok(Some(value)),
                None => Err(self.error(key, format!("is {value}, and {wanted} is wanted"))),
            },
        }
    }

    fn missing(&self, key: &str) -> FileError {
        self.error(key, "is not there, and the model needs it".into())
    }

    fn error(&self, key: &str, problem: String) -> FileError {
        FileError::Configuration { origin: self.origin.clone(), key: key.to_owned(), problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_typed() {
        let json = br#"{"model_type": "bert", "hidden_size": 8, "eps": 1e-12, "rank": -1, "none": null}"#;
        let configuration = Configuration::parse(json, "config.json").unwrap();
        assert_eq!(configuration.model_type().unwrap(), "bert");
        assert_eq!(configuration.whole("hidden_size").unwrap(), 8);
        assert_eq!(configuration.real("eps").unwrap(), Some(1e-12));
        assert_eq!(configuration.real("none").unwrap(), None);
        assert_eq!(configuration.boolean("tie").unwrap(), None);
        let message = configuration.whole("layers").unwrap_err().to_string();
        assert_eq!(message, "config.json: layers is not there, and the model needs it");
        let message = configuration.whole("rank").unwrap_err().to_string();
        assert_eq!(message, "config.json: rank is -1, and a whole number is wanted");
        let message = Configuration::parse(b"{\n  1", "config.json").unwrap_err().to_string();
        assert!(message.starts_with("config.json is not valid JSON: ") && message.contains("line 2"));
    }
}
