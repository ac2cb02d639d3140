//! Coreference over whole documents, without gold mentions, in the columns of
//! CoNLL-2012 (Pradhan et al. 2012).

mod model;

use std::collections::BTreeMap;

use model::Head;
use plugin_sdk::conll;
use plugin_sdk::metrics::coreference::{Counts, Entity, Score};
use plugin_sdk::task_prelude::*;
use plugin_sdk::words::{self, NumberedSpan};

config! {
    pub struct Conll2012 {
        /// The most tokens of a window, special ones included.
        max_tokens: u32 = 256 => 8..=65_536,
        /// Words that neighbouring windows share.
        shared_words: u32 = 32,
        /// The most words of a mention.
        max_span_width: u32 = 12 => 1..=64,
        /// Candidates that are kept for each thousand words of a document.
        spans_per_thousand_words: u32 = 300 => 1..=1000,
        /// Size of the head's hidden layers.
        head_size: u32 = 384 => 8..=8192,
        /// Dropout of the head's hidden layers.
        head_dropout: f64 = 0.3 => 0.0..=0.9,
        /// Weight of a loss that tells gold mentions from all other spans, beside the one over antecedents.
        mention_loss: f64 = 1.0 => 0.0..=100.0,
        /// Tell the head whether two mentions have one speaker.
        speakers: bool = true,
        /// Kinds of text that the head tells apart, such as bc, nw and wb: a document is of the
        /// first one that is a part of its name.
        genres: Vec<String> = Vec::new(),
        /// Report recall and precision of every metric too.
        details: bool = false,
    }
}

/// The split that is learned from.
const TRAIN: &str = "train";

/// Each split with the patterns of its files.
const SPLITS: [(&str, [&str; 4]); 3] = [
    (TRAIN, ["train.*_conll", "train.conll", "*train*.conll", "*train*_conll"]),
    ("dev", ["dev.*_conll", "dev.conll", "*dev*.conll", "*dev*_conll"]),
    ("test", ["test.*_conll", "test.conll", "*test*.conll", "*test*_conll"]),
];

impl Task for Conll2012 {
    fn kit(&self) -> impl Kit {
        Coreference {
            head: Head {
                max_tokens: self.max_tokens,
                shared_words: self.shared_words,
                width: self.max_span_width,
                spans_per_thousand_words: self.spans_per_thousand_words,
                size: self.head_size,
                dropout: self.head_dropout,
                mention_loss: self.mention_loss,
                speakers: self.speakers,
                genres: self.genres.len() as u32,
            },
            details: self.details,
        }
    }

    fn files(&self, files: Files) {
        let found = |patterns: [&'static str; 4]| patterns.map(|pattern| (pattern, Container::Documents));
        let [(train, of_train), (dev, of_dev), (test, of_test)] = SPLITS;
        files.train(train, &found(of_train));
        files.evaluate(dev, &found(of_dev));
        files.optional(test, &found(of_test));
        files.sample("train.conll", include_str!("../sample/train.conll"));
        files.sample("dev.conll", include_str!("../sample/dev.conll"));
        files.sample("test.conll", include_str!("../sample/test.conll"));
    }

    fn parse(&self, record: Record) -> Result<(), String> {
        // What is scored is read as the scorer reads it.
        let documents = match record.split() == TRAIN {
            true => conll::well_formed_documents(&record.line()),
            false => conll::documents(&record.line()),
        };
        for document in
            documents.map_err(|sentence| format!("in the document that begins here, {sentence}"))?
        {
            if document.rows.is_empty() {
                record.skip("the document has no words");
                continue;
            }
            let texts: Vec<String> = document.words()?.into_iter().map(str::to_string).collect();
            let sentences: Vec<u32> = document.rows.iter().map(|row| row.sentence + 1).collect();
            let genres = vec![genre(&document.name, &self.genres); texts.len()];
            record
                .example()
                .text("name", &document.name)
                .text("document", &document.written(&[]))
                .words("words", &texts)
                .word_numbers("sentence", &sentences)
                .word_numbers("speaker", &numbered(&document.speakers()))
                .word_numbers("genre", &genres)
                .spans("mentions", &spans(&document.entities));
        }
        Ok(())
    }
}

/// Names by the order in which they appear, from 1; 0 where there is none.
fn numbered(names: &[&str]) -> Vec<u32> {
    let mut known = BTreeMap::new();
    let mut number = |name: &str| {
        let next = known.len() as u32 + 1;
        if name.is_empty() { 0 } else { *known.entry(name.to_string()).or_insert(next) }
    };
    names.iter().map(|name| number(name)).collect()
}

/// The number of the first genre that is a part of a document's name, from 1; 0
/// where none is.
fn genre(name: &str, genres: &[String]) -> u32 {
    let parts = name.split(|letter: char| !letter.is_alphanumeric());
    let found = genres.iter().position(|genre| parts.clone().any(|part| part == genre));
    found.map_or(0, |place| place as u32 + 1)
}

/// Mentions with the number of their entity.
fn spans(entities: &[Entity]) -> Vec<NumberedSpan> {
    let numbered = entities.iter().zip(0..);
    numbered.flat_map(|(entity, number)| entity.iter().map(move |&(a, b)| (a, b, number))).collect()
}

/// Entities of mentions with their numbers.
fn entities(spans: &[NumberedSpan]) -> Vec<Entity> {
    conll::entities(spans.iter().map(|&(first, last, number)| ((first, last), number)))
}

/// The trivial baseline: gold mentions with the same words, in any case, are one
/// entity. It is told the mentions, which a system has to find.
fn same_string(words: &[String], gold: &[NumberedSpan]) -> Vec<Entity> {
    let text = |&(first, last, _): &NumberedSpan| {
        words.get(first as usize..=last as usize).unwrap_or_default().join(" ").to_lowercase()
    };
    let mut known = BTreeMap::new();
    let numbered = gold.iter().map(|span| {
        let next = known.len() as u32;
        ((span.0, span.1), *known.entry(text(span)).or_insert(next))
    });
    conll::entities(numbered).into_iter().filter(|entity| entity.len() > 1).collect()
}

/// The metrics, by name, of which each has a recall, a precision and an F1.
fn scores(counts: &Counts) -> [(&'static str, Score); 7] {
    [
        ("mention", counts.mentions.score()),
        ("muc", counts.muc.score()),
        ("b_cubed", counts.b_cubed.score()),
        ("ceaf_e", counts.ceaf_e.score()),
        ("ceaf_m", counts.ceaf_m.score()),
        ("blanc", counts.blanc()),
        ("lea", counts.lea.score()),
    ]
}

/// The statistics of the model's predictions, and of the trivial baseline's.
const COUNTED: &str = "counts";
const COUNTED_SAME_STRING: &str = "same_string";

/// The kit: graph, links to entities, and the official metrics.
struct Coreference {
    head: Head,
    details: bool,
}

impl Kit for Coreference {
    fn layout(&self) {
        words::id("name");
        words::text("document");
        words::field("words");
        words::numbers("sentence", "words");
        words::numbers("speaker", "words");
        words::numbers("genre", "words");
        words::gold_spans("mentions", "words");
        words::predicted_spans("mentions", "words");
        words::predicted_text("columns", "response.conll");
        words::statistic(COUNTED);
        words::statistic(COUNTED_SAME_STRING);
        words::metric("conll_f1");
        for (name, _) in scores(&Counts::default()) {
            words::metric(&format!("{name}_f1"));
        }
        for (name, _) in scores(&Counts::default()).into_iter().filter(|_| self.details) {
            words::metric(&format!("{name}_recall"));
            words::metric(&format!("{name}_precision"));
        }
        words::metric("same_string_conll_f1");
        words::best_metric("conll_f1");
    }

    fn plan(&self) {
        self.head.plan();
    }

    fn predict(&self, example: u32) {
        let whole = |name: &str| -> Vec<u32> {
            words::reals(example, name).into_iter().map(|number| number as u32).collect()
        };
        let scores = words::reals(example, "score");
        let links = linked(&whole("place"), &whole("antecedent"), &scores, self.head.width);
        words::predict(example, "mentions", &links);
        let document = words::text_of(example, "document").and_then(|text| conll::documents(&text));
        if let Some(document) = document.ok().and_then(|mut documents| documents.pop()) {
            words::predict_text(example, "columns", &document.written(&entities(&links)));
        }
    }

    fn score(&self, group: u32, example: u32) {
        let (Some(gold), Some(predicted)) =
            (words::spans(example, "mentions"), words::predicted(example, "mentions"))
        else {
            return;
        };
        let key = entities(&gold);
        let same = same_string(&words::of(example, "words"), &gold);
        for (name, response) in [(COUNTED, entities(&predicted)), (COUNTED_SAME_STRING, same)] {
            for (place, value) in Counts::of(&key, &response).numbers().into_iter().enumerate() {
                words::add(group, name, place as u64, value);
            }
        }
    }

    fn measure(&self, sample: u32) {
        let counts = |name: &str| {
            Counts::from_numbers(&std::array::from_fn(|place| words::sum_of(sample, name, place as u64)))
        };
        words::set_metric(sample, "same_string_conll_f1", counts(COUNTED_SAME_STRING).conll_f1());
        let counts = counts(COUNTED);
        words::set_metric(sample, "conll_f1", counts.conll_f1());
        for (name, score) in scores(&counts) {
            words::set_metric(sample, &format!("{name}_f1"), score.f1);
            if self.details {
                words::set_metric(sample, &format!("{name}_recall"), score.recall);
                words::set_metric(sample, &format!("{name}_precision"), score.precision);
            }
        }
    }
}

/// Entities of candidates and their best antecedents: a candidate whose best
/// score is above 0, that of no antecedent, joins its antecedent's entity.
/// What is linked to nothing is no mention.
fn linked(places: &[u32], antecedents: &[u32], scores: &[f64], width: u32) -> Vec<NumberedSpan> {
    let mut entity: Vec<Option<u32>> = vec![None; places.len()];
    let mut count = 0;
    for candidate in 0..places.len() {
        let antecedent = antecedents[candidate] as usize;
        if scores[candidate] > 0.0 && antecedent < candidate {
            let number = *entity[antecedent].get_or_insert_with(|| {
                count += 1;
                count - 1
            });
            entity[candidate] = Some(number);
        }
    }
    let span = |(place, number): (&u32, Option<u32>)| {
        let first = place / width;
        number.map(|number| (first, first + place % width, number))
    };
    places.iter().zip(entity).filter_map(span).collect()
}

export_task!(Conll2012);

#[cfg(test)]
mod tests;
