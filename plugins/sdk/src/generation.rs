//! The kit of tasks whose answer is a text that a decoder says.

use crate::kits::Kit;
use crate::raw;

/// An evaluated example: what was read, what was said and what should have been.
#[derive(Clone, Debug, Default)]
pub struct Generated {
    pub source: String,
    pub prediction: String,
    pub gold: String,
}

/// A text from a text, by a decoder with its language-model head. The loss is the
/// mean over all target tokens; metrics are means over the examples that have a
/// target.
pub struct Generation {
    source: &'static str,
    target: &'static str,
    tokens: (u32, u32),
    metrics: &'static [&'static str],
    best: &'static str,
    score: fn(&Generated) -> Vec<f64>,
    max_new_tokens: u32,
    min_new_tokens: u32,
    num_beams: u32,
    length_penalty: f64,
    early_stopping: String,
    no_repeat_ngram_size: u32,
}

/// The statistic beside those of the metrics.
const COUNT: &str = "examples";

impl Generation {
    /// The fields of what is read and of what should be said. `score` gives the values
    /// of the metrics, in their order, of which `best` chooses the checkpoint.
    pub fn new(
        source: &'static str,
        target: &'static str,
        metrics: &'static [&'static str],
        best: &'static str,
        score: fn(&Generated) -> Vec<f64>,
    ) -> Generation {
        Generation {
            source,
            target,
            tokens: (0, 0),
            metrics,
            best,
            score,
            max_new_tokens: 64,
            min_new_tokens: 0,
            num_beams: 1,
            length_penalty: 1.0,
            early_stopping: "no".into(),
            no_repeat_ngram_size: 0,
        }
    }

    /// The most tokens of what is read and of what should be said; 0 for as many as
    /// the model takes.
    pub fn at_most(mut self, source: u32, target: u32) -> Generation {
        self.tokens = (source, target);
        self
    }

    /// The least and the most tokens that are generated.
    pub fn length(mut self, min_new_tokens: u32, max_new_tokens: u32) -> Generation {
        (self.min_new_tokens, self.max_new_tokens) = (min_new_tokens, max_new_tokens);
        self
    }

    /// Beams of the search, and what the scores of longer texts are divided by.
    pub fn beams(mut self, num_beams: u32, length_penalty: f64, early_stopping: &str) -> Generation {
        (self.num_beams, self.length_penalty) = (num_beams, length_penalty);
        self.early_stopping = early_stopping.into();
        self
    }

    /// The size of n-grams that stand at most once in a text; 0 for none.
    pub fn no_repeat(mut self, ngram_size: u32) -> Generation {
        self.no_repeat_ngram_size = ngram_size;
        self
    }
}

impl Kit for Generation {
    fn layout(&self) {
        raw::field_text(self.source);
        raw::field_text(self.target);
        raw::field_gold(self.target);
        raw::prediction_text(self.target);
        self.metrics.iter().chain([&COUNT]).for_each(|name| raw::statistic(name));
        self.metrics.iter().for_each(|metric| raw::metric(metric, true));
        raw::best_metric(self.best);
    }

    fn plan(&self) {
        let sequence = raw::sequence("input");
        raw::sequence_text(sequence, self.source);
        if self.tokens.0 > 0 {
            raw::at_most(sequence, self.tokens.0);
        }
        raw::target(sequence, self.target, self.tokens.1);
        let losses = raw::cross_entropy(raw::sequence_to_sequence(sequence), raw::target_tokens(sequence));
        raw::objective_mean(losses);
        raw::declare_generated(sequence, self.target);
        raw::max_new_tokens(self.max_new_tokens);
        raw::min_new_tokens(self.min_new_tokens);
        raw::num_beams(self.num_beams);
        raw::length_penalty(self.length_penalty);
        raw::early_stopping(&self.early_stopping);
        raw::no_repeat_ngram_size(self.no_repeat_ngram_size);
    }

    fn predict(&self, example: u32) {
        raw::set_text(example, self.target, &raw::output_text(example, self.target));
    }

    fn score(&self, group: u32, example: u32) {
        // Without a target there is nothing to score.
        let Ok(gold) = raw::group_text(example, self.target) else { return };
        let source = raw::group_text(example, self.source).unwrap_or_default();
        let prediction = raw::get_text(example, self.target).unwrap_or_default();
        let values = (self.score)(&Generated { source, prediction, gold });
        for (name, value) in self.metrics.iter().zip(values) {
            raw::add_statistic(group, name, 0, value);
        }
        raw::add_statistic(group, COUNT, 0, 1.0);
    }

    fn measure(&self, sample: u32) {
        let examples = raw::sum_of(sample, COUNT, 0);
        if examples > 0.0 {
            for name in self.metrics {
                raw::set_metric(sample, name, raw::sum_of(sample, name, 0) / examples);
            }
        }
    }
}
