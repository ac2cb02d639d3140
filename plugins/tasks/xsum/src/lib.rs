//! A news article in one sentence (Narayan et al. 2018, "Don't give me the details,
//! just the summary!").

use plugin_sdk::metrics::rouge::rouge;
use plugin_sdk::task_prelude::*;

/// In the order of `score`.
const METRICS: [&str; 13] = [
    "rouge1",
    "rouge2",
    "rougeL",
    "rougeLsum",
    "rouge1_stemmed",
    "rouge2_stemmed",
    "rougeL_stemmed",
    "rougeLsum_stemmed",
    "words",
    "gold_words",
    "lead_rouge1",
    "lead_rouge2",
    "lead_rougeL",
];

choice! {
    /// When a search with several beams ends.
    pub enum EarlyStopping {
        No = "no",
        Yes = "yes",
        Never = "never",
    }
}

impl EarlyStopping {
    /// The rule's name in the contract.
    fn rule(self) -> &'static str {
        match self {
            EarlyStopping::No => "no",
            EarlyStopping::Yes => "yes",
            EarlyStopping::Never => "never",
        }
    }
}

config! {
    pub struct XSum {
        /// What stands before each article: "summarize: " for T5's own checkpoints.
        source_prefix: String = String::new(),
        /// The most tokens of an article, special ones included.
        max_source_length: u32 = 512 => 3..=65_536,
        /// The most tokens of a summary, special ones included.
        max_target_length: u32 = 64 => 3..=65_536,
        /// The most tokens of a generated summary.
        max_new_tokens: u32 = 62 => 1..=65_536,
        /// The least tokens of a generated summary, its end not among them.
        min_new_tokens: u32 = 0 => 0..=65_536,
        /// Beams of the search; 1 takes the likeliest token each time.
        num_beams: u32 = 4 => 1..=64,
        /// Above 0, the search favours longer summaries.
        length_penalty: f64 = 1.0 => -10.0..=10.0,
        /// no: when a better summary is unlikely; yes: as soon as there are as many as
        /// beams; never: when there can be no better one.
        early_stopping: EarlyStopping = EarlyStopping::No,
        /// The size of n-grams that stand at most once in a summary; 0 for none.
        no_repeat_ngram_size: u32 = 3 => 0..=64,
    }
}

impl Task for XSum {
    fn kit(&self) -> impl Kit {
        Generation::new("document", "summary", &METRICS, "rougeL", score)
            .at_most(self.max_source_length, self.max_target_length)
            .length(self.min_new_tokens, self.max_new_tokens)
            .beams(self.num_beams, self.length_penalty, self.early_stopping.rule())
            .no_repeat(self.no_repeat_ngram_size)
    }

    fn files(&self, files: Files) {
        use Container::{JsonLines, Whole};
        files.train(
            "train",
            &[("train.jsonl", JsonLines), ("train.json", JsonLines), ("train/*.summary", Whole)],
        );
        files.evaluate(
            "dev",
            &[
                ("validation.jsonl", JsonLines),
                ("dev.jsonl", JsonLines),
                ("validation.json", JsonLines),
                ("validation/*.summary", Whole),
            ],
        );
        files.optional(
            "test",
            &[("test.jsonl", JsonLines), ("test.json", JsonLines), ("test/*.summary", Whole)],
        );
        files.parquet("train", "train");
        files.parquet("dev", "validation");
        files.parquet("test", "test");
        files.sample("train.jsonl", include_str!("../sample/train.jsonl"));
        files.sample("validation.jsonl", include_str!("../sample/validation.jsonl"));
        files.sample("test.jsonl", include_str!("../sample/test.jsonl"));
    }

    fn parse(&self, record: Record) -> Result<(), String> {
        let (document, summary) = match record.has_fields() {
            true => {
                let summary = if record.has("summary") { Some(record.text("summary")?) } else { None };
                (record.text("document")?, summary)
            }
            false => {
                let text = record.line();
                (section(&text, "RESTBODY")?, Some(section(&text, "FIRST-SENTENCE")?))
            }
        };
        if document.trim().is_empty() {
            record.skip("the article is empty");
            return Ok(());
        }
        if summary.as_ref().is_some_and(|summary| summary.trim().is_empty()) {
            record.skip("the summary is empty");
            return Ok(());
        }
        let example = record.example().text("document", &format!("{}{document}", self.source_prefix));
        if let Some(summary) = summary {
            example.text("summary", &summary);
        }
        Ok(())
    }
}

/// A section of an article as the authors extract it: what stands between its mark,
/// `[SN]NAME[SN]`, and the next one.
fn section(text: &str, name: &str) -> Result<String, String> {
    let mark = format!("[SN]{name}[SN]");
    let (_, rest) = text.split_once(&mark).ok_or_else(|| format!("there is no {mark}"))?;
    Ok(rest.split("[SN]").next().unwrap_or_default().trim().to_string())
}

/// The values of the metrics, in their order: F1 of each ROUGE, lengths in words, and
/// F1 of the article's first sentence.
fn score(generated: &Generated) -> Vec<f64> {
    let Generated { source, prediction, gold } = generated;
    let mut values = Vec::with_capacity(METRICS.len());
    for stemmer in [false, true] {
        let scores = rouge(gold, prediction, stemmer);
        values.extend([scores.rouge1.f1, scores.rouge2.f1, scores.rouge_l.f1, scores.rouge_lsum.f1]);
    }
    values.extend([prediction, gold].map(|text| text.split_whitespace().count() as f64));
    let lead = rouge(gold, lead(source), false);
    values.extend([lead.rouge1.f1, lead.rouge2.f1, lead.rouge_l.f1]);
    values
}

/// The first sentence of an article: up to a full stop, a question mark or an
/// exclamation mark before a space, or to the end of the line.
fn lead(document: &str) -> &str {
    let line = document.trim_start().lines().next().unwrap_or_default();
    let ends = |(place, _): &(usize, &str)| line[place + 1..].starts_with(char::is_whitespace);
    let marks = line.match_indices(['.', '?', '!']);
    marks.into_iter().find(ends).map_or(line, |(place, _)| &line[..=place])
}

export_task!(XSum);

#[cfg(test)]
mod tests {
    use plugin_sdk::host_ir::settings::Setting;
    use plugin_sdk::host_ir::task::{Container, EarlyStopping};
    use plugin_sdk::testing::{self, MINILM, TaskUnderTest};

    use super::*;

    const LINES: &str = r#"{"document": "The cat sat on the mat. It slept.\nNobody saw.", "summary": "A cat sat on a mat.", "id": "1"}
{"document": "Rain fell in Kranj.", "id": "2"}
{"document": " ", "summary": "Nothing.", "id": "3"}
{"summary": "No article."}
{"document": "No summary.", "summary": ""}"#;

    #[test]
    fn records_become_articles_with_their_summaries() {
        let task =
            TaskUnderTest::new::<XSum>(&[("source_prefix", Setting::Text("summarize: ".into()))]).unwrap();
        let parsed = task.parse::<XSum>("train", Container::JsonLines, LINES).unwrap();
        assert_eq!(parsed.examples.len(), 2);
        assert_eq!(
            parsed.examples[0].text(0),
            Some("summarize: The cat sat on the mat. It slept.\nNobody saw.")
        );
        assert_eq!(parsed.examples[0].text(1), Some("A cat sat on a mat."));
        assert_eq!(parsed.examples[1].text(1), None);
        assert_eq!((parsed.skipped["the article is empty"], parsed.skipped["the summary is empty"]), (1, 1));
        assert_eq!(parsed.rejected.len(), 1);
        assert!(parsed.rejected[0].starts_with("data:4: there is no \"document\""), "{:?}", parsed.rejected);
    }

    #[test]
    fn the_authors_files_have_sections() {
        let task = TaskUnderTest::new::<XSum>(&[]).unwrap();
        let parsed = |text: &str| task.parse::<XSum>("train", Container::Whole, text).unwrap();
        let text = "[SN]URL[SN]\nhttp://news.example/1\n\n[SN]TITLE[SN]\nThe cat\n\n[SN]FIRST-SENTENCE[SN]\nA cat sat.\n\n\
                    [SN]RESTBODY[SN]\nThe cat sat on the mat.\nIt slept.\n";
        let found = parsed(text);
        assert_eq!(found.examples[0].text(0), Some("The cat sat on the mat.\nIt slept."));
        assert_eq!(found.examples[0].text(1), Some("A cat sat."));
        assert_eq!(parsed("No marks.").rejected, ["data:1: there is no [SN]RESTBODY[SN]"]);
        let empty = parsed("[SN]FIRST-SENTENCE[SN]\nA cat sat.\n[SN]RESTBODY[SN]\n");
        assert_eq!(empty.skipped["the article is empty"], 1);
    }

    #[test]
    fn settings_of_generation_are_those_of_the_user() {
        let values = [("num_beams", Setting::Whole(6)), ("early_stopping", Setting::Text("never".into()))];
        let task = TaskUnderTest::new::<XSum>(&values).unwrap();
        let plan = task.plan::<XSum>(&testing::bert(MINILM)).unwrap();
        let settings = plan.generation.unwrap().settings;
        assert_eq!((settings.num_beams, settings.max_new_tokens, settings.no_repeat_ngram_size), (6, 62, 3));
        assert_eq!(settings.early_stopping, EarlyStopping::Never);
        let target = plan.sequences[0].target.as_ref().unwrap();
        assert_eq!((target.text.as_str(), target.at_most), ("summary", Some(64)));
    }

    #[test]
    fn scores_are_rouge_with_the_lead_beside_it() {
        let mut task = TaskUnderTest::new::<XSum>(&[]).unwrap();
        let parsed = task.parse::<XSum>("dev", Container::JsonLines, LINES).unwrap();
        let said = ["A cat sat on a mat.", "Rain."].map(String::from).to_vec();
        task.generated = Some(("summary".into(), said));
        let metrics = task.metrics::<XSum>(&[], parsed.examples, vec![Vec::new(); 2]).unwrap();
        // The article without a summary counts nowhere.
        assert_eq!((metrics["rouge1"], metrics["rougeLsum_stemmed"], metrics["words"]), (1.0, 1.0, 6.0));
        // "the cat sat on the mat" has cat, sat, on and mat in common.
        assert!((metrics["lead_rouge1"] - 4.0 / 6.0).abs() < 1e-12);
        assert!((metrics["lead_rougeL"] - 4.0 / 6.0).abs() < 1e-12);
    }

    #[test]
    fn the_sample_can_be_read() {
        let samples = TaskUnderTest::new::<XSum>(&[]).unwrap().samples::<XSum>().unwrap();
        let counts: Vec<(&str, usize)> =
            samples.iter().map(|(split, examples)| (split.as_str(), examples.len())).collect();
        assert_eq!(counts, [("dev", 3), ("test", 2), ("train", 8)]);
    }

    #[test]
    fn the_lead_is_the_first_sentence() {
        assert_eq!(lead("It cost 3.5 pounds. More followed."), "It cost 3.5 pounds.");
        assert_eq!(lead("\nNo mark here\nSecond."), "No mark here");
        assert_eq!(lead("Why? Because."), "Why?");
        assert_eq!(lead("The end."), "The end.");
        assert_eq!(lead(""), "");
    }
}
