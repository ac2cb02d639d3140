//! Yes-or-no questions about a passage (Clark et al. 2019), as Slovene SuperGLUE
//! has them, and in English.

use plugin_sdk::task_prelude::*;
use plugin_sdk::text::decode_entities;

/// The classes; true, the answer yes, is the positive one.
const LABELS: [&str; 2] = ["false", "true"];

config! {
    pub struct BoolQ {
        /// The most tokens of a question with a part of its passage, special ones included.
        max_tokens: u32 = 256 => 8..=65_536,
        /// Tokens that a window of a long passage shares with the one before.
        stride: u32 = 64 => 0..=65_535,
        /// Put the title of the English data before the passage, as the Slovene data have it.
        title: bool = true,
    }
}

impl Task for BoolQ {
    fn kit(&self) -> impl Kit {
        Classification::new("label", &LABELS)
            .of("question")
            .of("passage")
            .at_most(self.max_tokens)
            .windows("passage", self.stride)
            .positive(1)
            .submitted_as(Submission::new(
                "BoolQ.jsonl",
                Container::JsonLines,
                ("idx", "idx", "number"),
                ("label", "boolean"),
            ))
    }

    fn files(&self, files: Files) {
        use Container::{Csv, JsonLines};
        files.train("train", &[("train.jsonl", JsonLines), ("train.csv", Csv)]);
        files.evaluate(
            "val",
            &[
                ("val.jsonl", JsonLines),
                ("dev.jsonl", JsonLines),
                ("validation.jsonl", JsonLines),
                ("val.csv", Csv),
                ("dev.csv", Csv),
            ],
        );
        files.optional("test", &[("test.jsonl", JsonLines), ("test.csv", Csv)]);
        files.parquet("train", "train");
        files.parquet("val", "validation");
        // Translations of SuperGLUE at the hub have both names for it.
        files.parquet("val", "eval");
        files.parquet("test", "test");
        files.sample("train.jsonl", include_str!("../sample/train.jsonl"));
        files.sample("val.csv", include_str!("../sample/val.csv"));
        files.sample("test.jsonl", include_str!("../sample/test.jsonl"));
    }

    fn parse(&self, record: Record) -> Result<(), String> {
        let question = record.text("question")?;
        let mut passage = record.text("passage")?;
        if self.title && record.has("title") {
            passage = format!("{} -- {passage}", record.text("title")?);
        }
        let gold = ["label", "answer"].into_iter().find(|key| record.has(key));
        let gold = gold.map(|key| answer(record, key)).transpose()?.flatten();
        let (question, passage) = (decode_entities(&question), decode_entities(&passage));
        let (question, passage) = (question.trim(), passage.trim());
        for (name, text) in [("question", question), ("passage", passage)] {
            if text.is_empty() {
                return Err(format!("the {name} is empty"));
            }
        }
        let example = record.example().text("question", question).text("passage", passage);
        if record.has("idx") {
            example.text("idx", &record.whole("idx")?.to_string());
        }
        if let Some(yes) = gold {
            example.label("label", i64::from(yes));
        }
        Ok(())
    }
}

/// A gold answer: true or false, or 0 or 1 as the hub stores it. Where test has
/// none, the hub says -1.
fn answer(record: Record, key: &str) -> Result<Option<bool>, String> {
    match record.whole(key) {
        Ok(-1) => Ok(None),
        Ok(number @ (0 | 1)) => Ok(Some(number == 1)),
        _ => record.flag(key).map(Some),
    }
}

export_task!(BoolQ);

#[cfg(test)]
mod tests {
    use plugin_sdk::host_ir::task::{Container, Parsed, Side};
    use plugin_sdk::testing::{self, MINILM, TaskUnderTest};

    use super::BoolQ;

    fn parsed(container: Container, content: &str) -> Parsed {
        let task = TaskUnderTest::new::<BoolQ>(&[]).unwrap();
        task.parse::<BoolQ>("train", container, content).unwrap()
    }

    /// Question, passage, idx and label of each example.
    fn examples(parsed: &Parsed) -> Vec<(String, String, Option<String>, Option<u32>)> {
        assert!(parsed.rejected.is_empty(), "{:?}", parsed.rejected);
        let text =
            |example: &plugin_sdk::host_ir::task::Example, field| example.text(field).map(str::to_string);
        let of = |example| {
            (text(example, 0).unwrap(), text(example, 1).unwrap(), text(example, 3), example.label(2))
        };
        parsed.examples.iter().map(of).collect()
    }

    #[test]
    fn all_forms_give_the_same_example() {
        let json = r#"{"idx": 7, "label": true, "passage": "Led – &quot;Led&quot; je trden.", "question": "je led trden"}"#;
        let csv = "idx,label,passage,question\n7,True,\"Led – \"\"Led\"\" je trden.\",je led trden\n";
        let wanted =
            vec![("je led trden".into(), "Led – \"Led\" je trden.".into(), Some("7".into()), Some(1))];
        assert_eq!(examples(&parsed(Container::JsonLines, json)), wanted);
        assert_eq!(examples(&parsed(Container::Csv, csv)), wanted);
        let hub = json.replace("true", "1");
        assert_eq!(examples(&parsed(Container::JsonLines, &hub)), wanted);
    }

    #[test]
    fn english_data_have_an_answer_and_a_title() {
        let json =
            r#"{"question": "is ice solid", "title": "Ice", "answer": false, "passage": "Ice is water."}"#;
        let wanted = vec![("is ice solid".into(), "Ice -- Ice is water.".into(), None, Some(0))];
        assert_eq!(examples(&parsed(Container::JsonLines, json)), wanted);
    }

    #[test]
    fn without_a_label_an_example_is_for_prediction() {
        for label in ["", r#""label": null, "#, r#""label": -1, "#] {
            let json = format!(r#"{{"idx": 7, {label}"passage": "p", "question": "q"}}"#);
            assert_eq!(examples(&parsed(Container::JsonLines, &json))[0].3, None, "{label}");
        }
        let wrong = parsed(Container::JsonLines, r#"{"label": "maybe", "passage": "p", "question": "q"}"#);
        assert_eq!(wrong.rejected, ["data:1: \"label\" is \"maybe\", and true or false is wanted"]);
        let empty = parsed(Container::JsonLines, r#"{"label": true, "passage": "&nbsp;", "question": "q"}"#);
        assert_eq!(empty.rejected, ["data:1: the passage is empty"]);
    }

    #[test]
    fn windows_of_a_passage_come_to_one_prediction() {
        let task = TaskUnderTest::new::<BoolQ>(&[]).unwrap();
        let plan = task.plan::<BoolQ>(&testing::bert(MINILM)).unwrap();
        let sequence = &plan.sequences[0];
        assert_eq!((sequence.cut, sequence.windows), (Some((1, Side::End)), Some(64)));
        let line = r#"{"label": true, "passage": "p", "question": "q"}"#;
        let found = parsed(Container::JsonLines, &[line; 3].join("\n"));
        // One window sure of yes outweighs two that lean to no.
        let windows = vec![vec![0.2, 0.0, 0.2, 0.0, 0.0, 9.0]];
        let outputs = vec![windows, vec![vec![1.0, 0.0]], vec![vec![0.0, 1.0]]];
        let metrics = task.metrics::<BoolQ>(&["logits"], found.examples, outputs).unwrap();
        assert!((metrics["accuracy"] - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!((metrics["precision"], metrics["f1"]), (1.0, 0.8));
    }

    #[test]
    fn the_sample_can_be_read() {
        let samples = TaskUnderTest::new::<BoolQ>(&[]).unwrap().samples::<BoolQ>().unwrap();
        let counts: Vec<(&str, usize)> =
            samples.iter().map(|(split, examples)| (split.as_str(), examples.len())).collect();
        assert_eq!(counts, [("test", 1), ("train", 6), ("val", 3)]);
    }
}
