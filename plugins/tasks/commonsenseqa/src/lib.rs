//! Questions of common sense with five choices (Talmor et al. 2019), in the two
//! forms in which the data set is found.

use plugin_sdk::task_prelude::*;

/// The choices' labels, in their order.
const LABELS: [&str; 5] = ["A", "B", "C", "D", "E"];

config! {
    pub struct CommonsenseQa {
        /// The most tokens of a question with one choice, special ones included.
        max_tokens: u32 = 80 => 3..=65_536,
    }
}

impl Task for CommonsenseQa {
    fn kit(&self) -> impl Kit {
        Choice::new("answer", &LABELS, "choices").after("question").at_most(self.max_tokens)
    }

    fn files(&self, files: Files) {
        use Container::JsonLines;
        files.train("train", &[("train_rand_split.jsonl", JsonLines), ("train.jsonl", JsonLines)]);
        files.evaluate(
            "dev",
            &[("dev_rand_split.jsonl", JsonLines), ("dev.jsonl", JsonLines), ("validation.jsonl", JsonLines)],
        );
        files.optional("test", &[("test_rand_split_no_answers.jsonl", JsonLines), ("test.jsonl", JsonLines)]);
        files.parquet("train", "train");
        files.parquet("dev", "validation");
        files.parquet("test", "test");
        files.sample("train_rand_split.jsonl", include_str!("../sample/train.jsonl"));
        files.sample("dev_rand_split.jsonl", include_str!("../sample/dev.jsonl"));
        files.sample("test_rand_split_no_answers.jsonl", include_str!("../sample/test.jsonl"));
    }

    fn parse(&self, record: Record) -> Result<(), String> {
        // The authors nest the choices in the question, as objects; the hub's copy
        // has them beside it, as two lists.
        let (question, labels, texts) = match record.has("question.stem") {
            true => ("question.stem", "question.choices.*.label", "question.choices.*.text"),
            false => ("question", "choices.label", "choices.text"),
        };
        let labels = record.texts(labels)?;
        let mut choices = record.texts(texts)?;
        if labels != LABELS || choices.len() != LABELS.len() {
            let (found, count) = (labels.join(", "), choices.len());
            return Err(format!(
                "the choices are {count} with the labels {found}; five, from A to E, are wanted"
            ));
        }
        choices.iter_mut().for_each(|choice| *choice = choice.trim().to_string());
        let question = record.text(question)?;
        let question = question.trim();
        if let Some(empty) = choices.iter().position(String::is_empty) {
            return Err(format!("the choice {} is empty", LABELS[empty]));
        }
        if question.is_empty() {
            return Err("the question is empty".into());
        }
        let example = record.example().text("question", question).texts("choices", &choices);
        // The hub's copy of the test split has empty answers, the authors' none.
        if record.has("answerKey") {
            let answer = record.text("answerKey")?;
            if !answer.is_empty() {
                example.label_name("answer", &answer);
            }
        }
        Ok(())
    }
}

export_task!(CommonsenseQa);

#[cfg(test)]
mod tests {
    use plugin_sdk::host_ir::task::{Container, HeadKind, Parsed};
    use plugin_sdk::testing::{self, MINILM, TaskUnderTest};

    use super::CommonsenseQa;

    fn parsed(content: &str) -> Parsed {
        let task = TaskUnderTest::new::<CommonsenseQa>(&[]).unwrap();
        task.parse::<CommonsenseQa>("train", Container::JsonLines, content).unwrap()
    }

    const NESTED: &str = r#"{"answerKey": "C", "id": "1", "question": {"question_concept": "ice",
        "choices": [{"label": "A", "text": "oven"}, {"label": "B", "text": "desert"},
        {"label": "C", "text": "freezer"}, {"label": "D", "text": "sun"}, {"label": "E", "text": "pan"}],
        "stem": "Where does water become ice?"}}"#;
    const FLAT: &str = r#"{"id": "1", "question": "Where does water become ice?", "question_concept": "ice",
        "choices": {"label": ["A", "B", "C", "D", "E"], "text": ["oven", "desert", "freezer", "sun", "pan"]},
        "answerKey": "C"}"#;

    #[test]
    fn both_forms_give_the_same_example() {
        let (nested, flat) = (parsed(&NESTED.replace('\n', " ")), parsed(&FLAT.replace('\n', " ")));
        assert_eq!(nested, flat);
        let example = &nested.examples[0];
        assert_eq!(example.text(0), Some("Where does water become ice?"));
        assert_eq!(example.texts(1).unwrap(), ["oven", "desert", "freezer", "sun", "pan"]);
        assert_eq!(example.label(2), Some(2));
    }

    #[test]
    fn without_an_answer_an_example_is_for_prediction() {
        let nested = parsed(&NESTED.replace('\n', " ").replace(r#""answerKey": "C", "#, ""));
        let flat = parsed(&FLAT.replace('\n', " ").replace(r#""answerKey": "C""#, r#""answerKey": """#));
        assert_eq!(nested, flat);
        assert_eq!((nested.examples[0].label(2), nested.rejected.len()), (None, 0));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let four = FLAT.replace('\n', " ").replace(r#", "E"]"#, "]");
        let sixth = FLAT.replace('\n', " ").replace(r#""answerKey": "C""#, r#""answerKey": "F""#);
        let unasked = FLAT.replace('\n', " ").replace("Where does water become ice?", " ");
        let without = FLAT.replace('\n', " ").replace("desert", "");
        let wrong = parsed(&format!("{four}\n{sixth}\n{unasked}\n{without}"));
        assert_eq!(wrong.rejected[2..], ["data:3: the question is empty", "data:4: the choice B is empty"]);
        assert!(wrong.rejected[0].starts_with("data:1: the choices are 5 with the labels A, B, C, D;"));
        assert_eq!(wrong.rejected[1], "data:2: the answer is \"F\", and one of A, B, C, D, E is wanted");
    }

    #[test]
    fn the_loss_is_over_the_choices_of_an_example() {
        let task = TaskUnderTest::new::<CommonsenseQa>(&[]).unwrap();
        let plan = task.plan::<CommonsenseQa>(&testing::bert(MINILM)).unwrap();
        assert_eq!((plan.head, plan.sequences[0].choices), (Some(HeadKind::MultipleChoice), Some(5)));
        let unanswered = FLAT.replace('\n', " ").replace(r#""answerKey": "C""#, r#""answerKey": """#);
        let flat = FLAT.replace('\n', " ");
        let examples = parsed(&format!("{flat}\n{flat}\n{unanswered}")).examples;
        let logits = |best: usize| vec![(0..5).map(|place| f32::from(u8::from(place == best))).collect()];
        let outputs = vec![logits(2), logits(0), logits(2)];
        let metrics = task.metrics::<CommonsenseQa>(&["logits"], examples, outputs).unwrap();
        assert_eq!(metrics["accuracy"], 0.5);
    }

    #[test]
    fn the_sample_can_be_read() {
        let samples = TaskUnderTest::new::<CommonsenseQa>(&[]).unwrap().samples::<CommonsenseQa>().unwrap();
        let counts: Vec<(&str, usize)> =
            samples.iter().map(|(split, examples)| (split.as_str(), examples.len())).collect();
        assert_eq!(counts, [("dev", 3), ("test", 1), ("train", 6)]);
    }
}
