//! Five grades of sentiment (Socher et al. 2013), in the three forms in which
//! the data set is found.

use plugin_sdk::task_prelude::*;

const LABELS: [&str; 5] = ["very negative", "negative", "neutral", "positive", "very positive"];

config! {
    pub struct Sst5 {
        /// The most tokens of a sentence, special ones included.
        max_tokens: u32 = 128 => 3..=65_536,
        /// Take every phrase of a training tree as an example, not only the sentence.
        phrases: bool = false,
    }
}

impl Task for Sst5 {
    fn kit(&self) -> impl Kit {
        Classification::new("label", &LABELS).of("sentence").at_most(self.max_tokens)
    }

    fn files(&self, files: Files) {
        use Container::{JsonLines, Lines};
        files.train("train", &[("stsa.fine.train", Lines), ("train.txt", Lines), ("train.jsonl", JsonLines)]);
        files.evaluate(
            "dev",
            &[
                ("stsa.fine.dev", Lines),
                ("dev.txt", Lines),
                ("dev.jsonl", JsonLines),
                ("validation.jsonl", JsonLines),
            ],
        );
        files.optional("test", &[("stsa.fine.test", Lines), ("test.txt", Lines), ("test.jsonl", JsonLines)]);
        files.parquet("train", "train");
        files.parquet("dev", "validation");
        files.parquet("test", "test");
        files.sample("train.txt", include_str!("../sample/train.txt"));
        files.sample("dev.txt", include_str!("../sample/dev.txt"));
    }

    fn parse(&self, record: Record) -> Result<(), String> {
        if record.has_fields() {
            let text = record.text("text")?;
            let example = record.example().text("sentence", &text);
            if record.has("label") {
                example.label_of("label", record, "label")?;
            }
            return Ok(());
        }
        let line = record.line();
        if line.trim_start().starts_with('(') {
            let all = self.phrases && record.split() == "train";
            for (label, words) in phrases(&line)?.into_iter().take(if all { usize::MAX } else { 1 }) {
                record.example().text("sentence", &words.join(" ")).label("label", label);
            }
            return Ok(());
        }
        let wanted = || "a label from 0 to 4, a space and a sentence are wanted".to_string();
        let (label, sentence) = line.split_once([' ', '\t']).ok_or_else(wanted)?;
        let label = label.parse().map_err(|_| wanted())?;
        if sentence.trim().is_empty() {
            return Err(wanted());
        }
        record.example().rest("sentence", line.len() - sentence.len()).label("label", label);
        Ok(())
    }
}

/// The phrases of a tree in the Penn Treebank's brackets, (label words or
/// trees), the whole sentence first.
fn phrases(tree: &str) -> Result<Vec<(i64, Vec<String>)>, String> {
    let spaced = tree.replace('(', " ( ").replace(')', " ) ");
    let mut tokens = spaced.split_whitespace().peekable();
    let mut done: Vec<(usize, i64, Vec<String>)> = Vec::new();
    let mut open: Vec<(usize, i64, Vec<String>)> = Vec::new();
    let mut opened = 0;
    while let Some(token) = tokens.next() {
        match token {
            "(" => {
                let label = tokens.next().and_then(|label| label.parse().ok());
                open.push((opened, label.ok_or("a bracket of the tree has no number after it")?, Vec::new()));
                opened += 1;
            }
            ")" => {
                let (place, label, words) =
                    open.pop().ok_or("the tree closes a bracket that it has not opened")?;
                if let Some((_, _, outer)) = open.last_mut() {
                    outer.extend(words.iter().cloned());
                } else if tokens.peek().is_some() {
                    return Err("there is something after the tree".into());
                }
                done.push((place, label, words));
            }
            word => {
                let (_, _, words) = open.last_mut().ok_or("a word stands outside the tree")?;
                words.push(unescaped(word));
            }
        }
    }
    if !open.is_empty() {
        return Err("the tree does not close all of its brackets".into());
    }
    done.sort_by_key(|(place, _, _)| *place);
    match done.iter().find(|(_, _, words)| words.is_empty()) {
        Some(_) => Err("a phrase of the tree has no words".into()),
        None => Ok(done.into_iter().map(|(_, label, words)| (label, words)).collect()),
    }
}

/// A word as it was before the Treebank wrote its brackets and slashes.
fn unescaped(word: &str) -> String {
    match word {
        "-LRB-" => "(".into(),
        "-RRB-" => ")".into(),
        word => word.replace("\\/", "/").replace("\\*", "*"),
    }
}

export_task!(Sst5);

#[cfg(test)]
mod tests {
    use host::task::{Container, Parsed};
    use plugin_sdk::host_ir as host;
    use plugin_sdk::testing::{self, MINILM, Setting, TaskUnderTest};

    use super::Sst5;

    fn parsed(container: Container, content: &str, values: &[(&str, Setting)]) -> Parsed {
        let task = TaskUnderTest::new::<Sst5>(values).unwrap();
        task.parse::<Sst5>("train", container, content).unwrap()
    }

    fn examples(parsed: &Parsed) -> Vec<(String, Option<u32>)> {
        parsed
            .examples
            .iter()
            .map(|example| (example.text(0).unwrap().to_string(), example.label(1)))
            .collect()
    }

    #[test]
    fn all_three_forms_give_the_same_example() {
        let wanted = vec![("a good ( fine ) film".to_string(), Some(3))];
        let line = parsed(Container::Lines, "3 a good ( fine ) film", &[]);
        let tree = "(3 (2 a) (3 (3 (3 good) (2 (2 -LRB-) (2 (3 fine) (2 -RRB-)))) (2 film)))";
        let json = r#"{"text": "a good ( fine ) film", "label": 3, "label_text": "positive"}"#;
        assert_eq!(examples(&line), wanted);
        assert_eq!(examples(&parsed(Container::Lines, tree, &[])), wanted);
        assert_eq!(examples(&parsed(Container::JsonLines, json, &[])), wanted);
        let named = r#"{"text": "a good ( fine ) film", "label": "positive"}"#;
        assert_eq!(examples(&parsed(Container::JsonLines, named, &[])), wanted);
    }

    #[test]
    fn phrases_of_trees_are_examples_where_the_user_wants_them() {
        let phrases = ("phrases", Setting::Boolean(true));
        let found = parsed(Container::Lines, "(4 (3 very) (4 good))", &[phrases]);
        assert_eq!(
            examples(&found),
            [("very good".into(), Some(4)), ("very".into(), Some(3)), ("good".into(), Some(4))]
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let wrong = parsed(Container::Lines, "3 fine\n7 too good\nbad\n(3 (2 a)", &[]);
        assert_eq!(wrong.rejected.len(), 3);
        assert!(
            wrong.rejected[0].starts_with("data:2: the label is 7, and 0 to 4 are wanted"),
            "{:?}",
            wrong.rejected
        );
        let json = parsed(
            Container::JsonLines,
            "{\"text\": \"a\", \"label\": \"fine\"}\n{\"text\": \"a\", \"label\": 1.5}",
            &[],
        );
        assert!(
            json.rejected[0].starts_with("data:1: the label is \"fine\", and one of very negative, negative")
        );
        assert!(json.rejected[1].starts_with("data:2: \"label\" is 1.5"), "{:?}", json.rejected);
        assert!(wrong.rejected[1].starts_with("data:3: a label from 0 to 4"));
        assert!(wrong.rejected[2].starts_with("data:4: the tree does not close"));
    }

    #[test]
    fn scores_are_those_of_a_classification() {
        let task = TaskUnderTest::new::<Sst5>(&[]).unwrap();
        task.plan::<Sst5>(&testing::bert(MINILM)).unwrap();
        let found = parsed(Container::Lines, "0 a\n1 b\n1 c\n4 d", &[]);
        let logits =
            |class: usize| vec![(0..5).map(|place| if place == class { 1.0 } else { 0.0 }).collect()];
        let outputs = [0, 1, 0, 4].map(logits).to_vec();
        let metrics = task.metrics::<Sst5>(&["logits"], found.examples, outputs).unwrap();
        assert_eq!(metrics["accuracy"], 0.75);
        assert!((metrics["f1_macro"] - (2.0 / 3.0 + 2.0 / 3.0 + 1.0) / 3.0).abs() < 1e-12);
    }

    #[test]
    fn the_sample_can_be_read() {
        let samples = TaskUnderTest::new::<Sst5>(&[]).unwrap().samples::<Sst5>().unwrap();
        let counts: Vec<(&str, usize)> =
            samples.iter().map(|(split, examples)| (split.as_str(), examples.len())).collect();
        assert_eq!(counts, [("dev", 4), ("train", 11)]);
    }
}
