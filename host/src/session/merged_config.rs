//! The config.json of a merged model: the base's, with what transformers writes where it saves
//! a model with this head, so that its `Auto` classes load the whole of it by themselves.

use anyhow::{Context, Result};
use host_engine::files::write::Precision;
use host_ir::task::HeadKind;
use serde_json::{Map, Value, json};

/// Classes of transformers begin with these, by `model_type`.
const FAMILIES: [(&str, &str); 9] = [
    ("bert", "Bert"),
    ("electra", "Electra"),
    ("roberta", "Roberta"),
    ("xlm-roberta", "XLMRoberta"),
    ("camembert", "Camembert"),
    ("deberta-v2", "DebertaV2"),
    ("t5", "T5"),
    ("mt5", "MT5"),
    ("bart", "Bart"),
];

/// The head of a merged model.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    pub kind: Option<HeadKind>,
    /// Whether what was new in it is left out, so that the base alone stays.
    pub left_out: bool,
    /// The names of what it tells apart, where the task has names.
    pub classes: Option<&'a [String]>,
}

/// The base's config.json for a model with this head.
///
/// # Errors
/// Text that is no JSON object.
pub fn merged(base: &str, head: Head<'_>, precision: Precision) -> Result<String> {
    let mut config: Map<String, Value> = serde_json::from_str(base)?;
    let family = config.get("model_type").and_then(Value::as_str);
    let family = FAMILIES.iter().find(|(known, _)| Some(*known) == family).map(|(_, family)| *family);
    if let Some(class) = family.and_then(|family| class(family, head)) {
        config.insert("architectures".into(), json!([class]));
    }
    if let Some(
        HeadKind::Classification { classes: number } | HeadKind::TokenClassification { classes: number },
    ) = head.kind
        && !head.left_out
    {
        // transformers counts these names and has no other word for how many classes there are.
        let names: Vec<String> = match head.classes {
            Some(names) => names.to_vec(),
            None => (0..number).map(|class| format!("LABEL_{class}")).collect(),
        };
        let ids: Map<String, Value> = (0..).zip(&names).map(|(id, name)| (name.clone(), json!(id))).collect();
        let names: Map<String, Value> =
            (0..).zip(names).map(|(id, name): (u32, _)| (id.to_string(), json!(name))).collect();
        config.insert("id2label".into(), Value::Object(names));
        config.insert("label2id".into(), Value::Object(ids));
        // Older files count them apart; the count and the names would contradict each other.
        config.remove("num_labels");
        config.remove("_num_labels");
        if let Some(HeadKind::Classification { .. }) = head.kind {
            config.insert("problem_type".into(), json!("single_label_classification"));
        }
    }
    let stored = match precision {
        Precision::F32 => "float32",
        Precision::F16 => "float16",
        Precision::Bf16 => "bfloat16",
    };
    let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
    config.insert(key.into(), json!(stored));
    let text = serde_json::to_string_pretty(&config).context("config.json cannot be written")?;
    Ok(text + "\n")
}

/// The class of a family with a head; none where transformers has none.
fn class(family: &str, head: Head<'_>) -> Option<String> {
    let end = match (head.kind, family) {
        // Without a head there is the encoder alone, for which BART has no model.
        (None, "Bart") => return None,
        (None, "T5" | "MT5") => "EncoderModel",
        (Some(HeadKind::TokenClassification { .. }), "T5" | "MT5") if head.left_out => "EncoderModel",
        (None, _) => "Model",
        (Some(_), _) if head.left_out => "Model",
        (Some(HeadKind::Classification { .. }), _) => "ForSequenceClassification",
        (Some(HeadKind::TokenClassification { .. }), _) => "ForTokenClassification",
        (Some(HeadKind::MultipleChoice), _) => "ForMultipleChoice",
        (Some(HeadKind::MaskedLanguageModel), "T5" | "MT5" | "Bart") => "ForConditionalGeneration",
        (Some(HeadKind::MaskedLanguageModel), _) => "ForMaskedLM",
        (Some(HeadKind::SequenceToSequence), _) => "ForConditionalGeneration",
    };
    Some(format!("{family}{end}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(base: &str, kind: Option<HeadKind>, classes: Option<&[String]>) -> Value {
        let head = Head { kind, left_out: false, classes };
        serde_json::from_str(&merged(base, head, Precision::F32).unwrap()).unwrap()
    }

    /// As `save_pretrained` of transformers 5.24 writes them.
    #[test]
    fn heads_have_the_classes_of_transformers() {
        let class = |family: &str, head| {
            let base = format!(r#"{{"architectures": ["Base"], "model_type": "{family}"}}"#);
            of(&base, head, None)["architectures"][0].as_str().unwrap().to_string()
        };
        let classes = 3;
        assert_eq!(
            class("bert", Some(HeadKind::Classification { classes })),
            "BertForSequenceClassification"
        );
        let tokens = Some(HeadKind::TokenClassification { classes });
        assert_eq!(class("xlm-roberta", tokens), "XLMRobertaForTokenClassification");
        assert_eq!(class("deberta-v2", Some(HeadKind::MultipleChoice)), "DebertaV2ForMultipleChoice");
        assert_eq!(class("electra", Some(HeadKind::MaskedLanguageModel)), "ElectraForMaskedLM");
        assert_eq!(class("mt5", Some(HeadKind::SequenceToSequence)), "MT5ForConditionalGeneration");
        assert_eq!(class("camembert", None), "CamembertModel");
        assert_eq!(class("bart", None), "Base");
        assert_eq!(class("another", None), "Base");
    }

    #[test]
    fn classes_have_the_names_of_the_task() {
        let base = r#"{"model_type": "bert", "num_labels": 2, "hidden_size": 32, "dtype": "bfloat16"}"#;
        let names = ["bad", "so so", "good"].map(String::from);
        let config = of(base, Some(HeadKind::Classification { classes: 3 }), Some(&names));
        assert_eq!(config["id2label"], json!({ "0": "bad", "1": "so so", "2": "good" }));
        assert_eq!(config["label2id"], json!({ "bad": 0, "so so": 1, "good": 2 }));
        assert_eq!(config["problem_type"], "single_label_classification");
        assert_eq!((&config["hidden_size"], &config["dtype"]), (&json!(32), &json!("float32")));
        assert!(config.get("num_labels").is_none() && config.get("torch_dtype").is_none());
        let config = of(base, Some(HeadKind::TokenClassification { classes: 2 }), None);
        assert_eq!(config["id2label"], json!({ "0": "LABEL_0", "1": "LABEL_1" }));
        assert!(config.get("problem_type").is_none());
        assert!(of(base, Some(HeadKind::MultipleChoice), Some(&names)).get("id2label").is_none());
    }
}
