//! What a task may say of its sequences, and the sentences about what it may not.

use crate::record::{Phase, Recorder};
use crate::settings::{Description, Values};
use crate::task::{FieldType, Side};

/// A recorder in `plan`, with a question, a passage, choices and an answer.
fn recorder() -> Recorder {
    let mut recorder = Recorder::calling(Phase::Layout, Description::default(), Values::new());
    recorder.field("question", FieldType::Text).unwrap();
    recorder.field("passage", FieldType::Text).unwrap();
    recorder.field("choices", FieldType::Texts).unwrap();
    recorder.field("answer", FieldType::Label(vec!["A".into(), "B".into(), "C".into()])).unwrap();
    recorder.phase = Phase::TaskPlan;
    recorder
}

#[test]
fn a_choice_is_of_an_example() {
    let mut recorder = recorder();
    let sequence = recorder.sequence("input").unwrap();
    recorder.sequence_text(sequence, "question").unwrap();
    let early = recorder.choice_head(sequence, 3).unwrap_err().to_string();
    assert!(early.contains("a sequence with each of a list's texts"), "{early}");
    recorder.sequence_each(sequence, "choices").unwrap();
    let logits = recorder.choice_head(sequence, 3).unwrap();
    assert_eq!(recorder.shape(logits).unwrap(), [3]);
    let other = recorder.choice_head(sequence, 4).unwrap_err().to_string();
    assert!(other.contains("one number of choices"), "{other}");
    let label = recorder.objective_label("answer").unwrap();
    let loss = recorder.cross_entropy(logits, label).unwrap();
    recorder.objective_mean(loss).unwrap();
    assert_eq!((recorder.task.sequences[0].each, recorder.task.sequences[0].choices), (Some(1), Some(3)));
}

#[test]
fn values_of_pieces_and_of_examples_do_not_mix() {
    let mut recorder = recorder();
    let mut facts = crate::model::ModelDescription::default();
    facts.facts.insert("hidden_size".into(), 3);
    recorder.model = Some(std::sync::Arc::new(facts));
    let sequence = recorder.sequence("input").unwrap();
    recorder.sequence_each(sequence, "choices").unwrap();
    let of_example = recorder.choice_head(sequence, 3).unwrap();
    let of_piece = recorder.hidden(sequence).unwrap();
    let mixed = recorder.binary(crate::graph::Binary::Add, of_example, of_piece).unwrap_err().to_string();
    assert!(mixed.contains("add of a value of a sequence and one of a whole example"), "{mixed}");
}

#[test]
fn segments_are_of_the_fields_types() {
    let mut recorder = recorder();
    let sequence = recorder.sequence("input").unwrap();
    let list = recorder.sequence_text(sequence, "choices").unwrap_err().to_string();
    assert_eq!(list, "sequence.text: the field \"choices\" is no text");
    let text = recorder.sequence_each(sequence, "passage").unwrap_err().to_string();
    assert_eq!(text, "sequence.each: the field \"passage\" is no list of texts");
}

#[test]
fn windows_are_over_a_text_that_is_cut_at_its_end() {
    let mut recorder = recorder();
    let sequence = recorder.sequence("input").unwrap();
    recorder.sequence_text(sequence, "question").unwrap();
    let foreign = recorder.sequence_cut(sequence, "passage", "end").unwrap_err().to_string();
    assert!(foreign.contains("does not read the field \"passage\""), "{foreign}");
    recorder.sequence_text(sequence, "passage").unwrap();
    let side = recorder.sequence_cut(sequence, "passage", "middle").unwrap_err().to_string();
    assert!(side.contains("not at \"middle\""), "{side}");
    let early = recorder.sequence_windows(sequence, 8).unwrap_err().to_string();
    assert!(early.contains("windows need a text that is cut at its end"), "{early}");
    recorder.sequence_cut(sequence, "passage", "start").unwrap();
    assert!(recorder.sequence_windows(sequence, 8).is_err());
    recorder.sequence_cut(sequence, "passage", "end").unwrap();
    recorder.sequence_windows(sequence, 8).unwrap();
    let sequence = &recorder.task.sequences[0];
    assert_eq!((sequence.cut, sequence.windows), (Some((1, Side::End)), Some(8)));
}

#[test]
fn samples_and_prediction_files_have_plain_names() {
    let mut recorder = recorder();
    recorder.phase = Phase::Layout;
    recorder.sample("data/train-0.parquet", "").unwrap();
    for name in ["", "../train.txt", "/train.txt", "a b"] {
        assert!(recorder.sample(name, "").unwrap_err().to_string().contains("a plain name"), "{name}");
    }
    assert!(recorder.sample("large.txt", &"x".repeat(300 << 10)).is_err());
    assert!(
        recorder.prediction_file("a/b", "csv").is_err() && recorder.prediction_file("a", "blocks").is_err()
    );
    recorder.prediction_file("a.csv", "csv").unwrap();
    let form = recorder.prediction_file_column("a.csv", "id", (false, "question"), "word").unwrap_err();
    assert!(form.to_string().contains("the form text, number or boolean"), "{form}");
    recorder.prediction_file_column("a.csv", "id", (false, "question"), "text").unwrap();
}
