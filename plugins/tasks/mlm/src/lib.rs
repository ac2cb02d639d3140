//! Masked-language modelling on plain text (Devlin et al. 2019, section 3.1).

use plugin_sdk::task_prelude::*;

config! {
    pub struct MaskedLanguageModelling {
        /// The most tokens of a line, special ones included.
        max_tokens: u32 = 128 => 3..=65_536,
        /// Share of the tokens that are chosen and have to be told.
        mask_probability: f64 = 0.15 => 0.001..=0.9,
        /// In training, half of the lines start at a position drawn from 0 to this one.
        shift_positions: u32 = 0,
    }
}

impl Task for MaskedLanguageModelling {
    fn kit(&self) -> impl Kit {
        MaskedTokens {
            text: "text",
            at_most: self.max_tokens,
            probability: self.mask_probability,
            shift_positions: self.shift_positions,
        }
    }

    fn files(&self, files: Files) {
        use Container::{JsonLines, Lines};
        files.train("train", &[("train.txt", Lines), ("train.jsonl", JsonLines)]);
        files.evaluate("dev", &[("dev.txt", Lines), ("dev.jsonl", JsonLines)]);
        files.optional("test", &[("test.txt", Lines), ("test.jsonl", JsonLines)]);
        files.sample("train.txt", include_str!("../sample/train.txt"));
        files.sample("dev.jsonl", include_str!("../sample/dev.jsonl"));
    }

    fn parse(&self, record: Record) -> Result<(), String> {
        match record.has_fields() {
            true => {
                let text = record.text("text")?;
                record.example().text("text", &text);
            }
            false => {
                record.example().rest("text", 0);
            }
        }
        Ok(())
    }
}

export_task!(MaskedLanguageModelling);

#[cfg(test)]
mod tests {
    use plugin_sdk::host_ir::task::Container;
    use plugin_sdk::testing::{self, MINILM, TaskUnderTest};

    use super::MaskedLanguageModelling;

    #[test]
    fn the_loss_is_the_mean_over_the_chosen_tokens() {
        let task = TaskUnderTest::new::<MaskedLanguageModelling>(&[]).unwrap();
        let plan = task.plan::<MaskedLanguageModelling>(&testing::bert(MINILM)).unwrap();
        assert_eq!(plan.sequences[0].mask_probability, Some(0.15));
        let parsed =
            task.parse::<MaskedLanguageModelling>("train", Container::Lines, "a line\nanother").unwrap();
        assert_eq!(parsed.examples[1].text(0), Some("another"));
        let outputs = vec![vec![vec![1.0, 2.0]], vec![vec![3.0]]];
        let metrics = task.metrics::<MaskedLanguageModelling>(&["losses"], parsed.examples, outputs).unwrap();
        assert_eq!(metrics["loss"], 2.0);
        assert!((metrics["perplexity"] - 2f64.exp()).abs() < 1e-12);
    }

    #[test]
    fn the_sample_can_be_read() {
        let samples = TaskUnderTest::new::<MaskedLanguageModelling>(&[])
            .unwrap()
            .samples::<MaskedLanguageModelling>()
            .unwrap();
        let counts: Vec<(&str, usize)> =
            samples.iter().map(|(split, examples)| (split.as_str(), examples.len())).collect();
        assert_eq!(counts, [("dev", 2), ("train", 8)]);
    }
}
