//! The configuration of a plugin: keys declared by asking for them, and the
//! user's values checked against the declarations.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The value of a key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Setting {
    Boolean(bool),
    Whole(i64),
    Real(f64),
    Text(String),
    Wholes(Vec<i64>),
    Texts(Vec<String>),
    /// A table from strings to numbers, in the order of the file.
    Numbers(Vec<(String, f64)>),
    /// The key was left out and has no value by default.
    Absent,
}

/// What a key takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SettingType {
    Whole { minimum: i64, maximum: i64 },
    Real { minimum: f64, maximum: f64 },
    Boolean,
    Text,
    OptionalText,
    Choice(Vec<String>),
    Texts,
    Wholes,
    Numbers,
    NamesOrPattern,
}

/// A declared key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Declaration {
    pub key: String,
    pub kind: SettingType,
    pub default: Setting,
    pub documentation: String,
}

/// Who a plugin is and which keys it has: the answer of `describe`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Description {
    pub name: String,
    pub version: String,
    pub summary: String,
    pub keys: Vec<Declaration>,
}

/// The user's values by key.
pub type Values = BTreeMap<String, Setting>;

/// Why a value does not fit, as a sentence, and the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct SettingError {
    pub key: String,
    pub sentence: String,
}

impl SettingType {
    /// The type in words, with its bounds.
    pub fn words(&self) -> String {
        match self {
            SettingType::Whole { minimum, maximum } => match *maximum {
                i64::MAX => format!("a whole number of at least {minimum}"),
                maximum => format!("a whole number from {minimum} to {maximum}"),
            },
            SettingType::Real { minimum, maximum } => match (minimum.is_finite(), maximum.is_finite()) {
                (true, true) => format!("a number from {minimum} to {maximum}"),
                (true, false) => format!("a number of at least {minimum}"),
                _ => "a number".into(),
            },
            SettingType::Boolean => "true or false".into(),
            SettingType::Text | SettingType::OptionalText => "a string".into(),
            SettingType::Choice(options) => format!("one of {}", quoted(options)),
            SettingType::Texts => "a list of strings".into(),
            SettingType::Wholes => "a list of whole numbers".into(),
            SettingType::Numbers => "a table from names to numbers".into(),
            SettingType::NamesOrPattern => "a list of names, or a string with a regular expression".into(),
        }
    }

    /// The value as this type has it; `Err` is what is wanted, in words.
    pub fn accept(&self, value: &Setting) -> Result<Setting, String> {
        let accepted = match (self, value) {
            (SettingType::Whole { minimum, maximum }, Setting::Whole(whole))
                if (minimum..=maximum).contains(&whole) =>
            {
                Some(value.clone())
            }
            (SettingType::Real { minimum, maximum }, Setting::Real(real))
                if real.is_finite() && (minimum..=maximum).contains(&real) =>
            {
                Some(value.clone())
            }
            (SettingType::Real { minimum, maximum }, Setting::Whole(whole))
                if *minimum <= *whole as f64 && *whole as f64 <= *maximum =>
            {
                Some(Setting::Real(*whole as f64))
            }
            (SettingType::Boolean, Setting::Boolean(_))
            | (
                SettingType::Text | SettingType::OptionalText | SettingType::NamesOrPattern,
                Setting::Text(_),
            )
            | (SettingType::OptionalText, Setting::Absent)
            | (SettingType::Texts | SettingType::NamesOrPattern, Setting::Texts(_)) => Some(value.clone()),
            (SettingType::Numbers, Setting::Numbers(numbers))
                if numbers.iter().all(|(_, n)| n.is_finite()) =>
            {
                Some(value.clone())
            }
            (SettingType::Choice(options), Setting::Text(text)) if options.contains(text) => {
                Some(value.clone())
            }
            (SettingType::Wholes, Setting::Wholes(wholes)) if wholes.iter().all(|&whole| whole >= 0) => {
                Some(value.clone())
            }
            (SettingType::Wholes, Setting::Whole(whole)) if *whole >= 0 => {
                Some(Setting::Wholes(vec![*whole]))
            }
            // An empty list or table of the file has no type of its own.
            (SettingType::Texts | SettingType::NamesOrPattern, Setting::Wholes(list)) if list.is_empty() => {
                Some(Setting::Texts(Vec::new()))
            }
            (SettingType::Numbers, Setting::Wholes(list)) if list.is_empty() => {
                Some(Setting::Numbers(Vec::new()))
            }
            _ => None,
        };
        accepted.ok_or_else(|| self.words())
    }
}

impl Description {
    /// The declaration of a key.
    pub fn key(&self, key: &str) -> Option<&Declaration> {
        self.keys.iter().find(|declaration| declaration.key == key)
    }

    /// The user's values with the defaults of the other keys.
    ///
    /// # Errors
    /// A key that the plugin does not have, with the nearest one; a value of
    /// the wrong type or out of its range.
    pub fn resolve(&self, values: &Values) -> Result<Values, SettingError> {
        let mut resolved: Values = self
            .keys
            .iter()
            .map(|declaration| (declaration.key.clone(), declaration.default.clone()))
            .collect();
        for (key, value) in values {
            let error = |sentence| SettingError { key: key.clone(), sentence };
            let Some(declaration) = self.key(key) else {
                let known: Vec<&str> = self.keys.iter().map(|declaration| declaration.key.as_str()).collect();
                return Err(error(format!(
                    "`{key}` is not a key of {}{}",
                    self.name,
                    did_you_mean(key, &known)
                )));
            };
            let value = declaration.kind.accept(value);
            let value = value.map_err(|wanted| error(format!("`{key}` of {} takes {wanted}", self.name)))?;
            resolved.insert(key.clone(), value);
        }
        Ok(resolved)
    }
}

/// `"a", "b" or "c"`.
pub fn quoted(words: &[String]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

/// The end of a sentence that names the nearest of the known words, or all of
/// them where none is near and they are few.
pub fn did_you_mean(word: &str, known: &[&str]) -> String {
    let near = |candidate: &&&str| strsim::jaro_winkler(word, candidate);
    let best = known.iter().max_by(|a, b| near(a).total_cmp(&near(b)));
    match best {
        Some(best) if strsim::jaro_winkler(word, best) > 0.8 => format!("; did you mean `{best}`?"),
        Some(_) if known.len() <= 12 => format!("; there are: {}", known.join(", ")),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description() -> Description {
        let declaration = |key: &str, kind, default| Declaration {
            key: key.into(),
            kind,
            default,
            documentation: String::new(),
        };
        Description {
            name: "lora".into(),
            keys: vec![
                declaration("r", SettingType::Whole { minimum: 1, maximum: 4096 }, Setting::Whole(8)),
                declaration(
                    "lora_alpha",
                    SettingType::Real { minimum: 0.0, maximum: f64::INFINITY },
                    Setting::Real(8.0),
                ),
            ],
            ..Description::default()
        }
    }

    #[test]
    fn whole_numbers_are_real_numbers_too() {
        let values = Values::from([("lora_alpha".to_string(), Setting::Whole(32))]);
        let resolved = description().resolve(&values).unwrap();
        assert_eq!(resolved["lora_alpha"], Setting::Real(32.0));
        assert_eq!(resolved["r"], Setting::Whole(8));
    }

    #[test]
    fn what_does_not_fit_is_a_sentence() {
        let error = |key: &str, value| {
            description().resolve(&Values::from([(key.to_string(), value)])).unwrap_err().sentence
        };
        assert_eq!(
            error("lora_alhpa", Setting::Whole(1)),
            "`lora_alhpa` is not a key of lora; did you mean `lora_alpha`?"
        );
        assert_eq!(error("r", Setting::Whole(0)), "`r` of lora takes a whole number from 1 to 4096");
    }
}
