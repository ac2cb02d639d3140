//! Texts as data sets have them.

use std::borrow::Cow;

/// The text with HTML's character references (`&quot;`, `&#39;`, `&eacute;`)
/// replaced by what they stand for, once: as Python's `html.unescape`, for
/// references that end in a semicolon.
pub fn decode_entities(text: &str) -> Cow<'_, str> {
    html_escape::decode_html_entities(text)
}

#[cfg(test)]
mod tests {
    use super::decode_entities;

    /// What Python's `html.unescape` gives, written by tests/reference/entities.py.
    #[test]
    fn entities_are_those_of_python() {
        let text = include_str!("../../../tests/golden/entities.json");
        let cases: Vec<(String, String)> = serde_json::from_str(text).unwrap();
        for (written, meant) in &cases {
            assert_eq!(decode_entities(written), meant.as_str(), "{written}");
        }
        assert!(cases.len() > 15);
    }
}
