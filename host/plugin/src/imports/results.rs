//! What tasks read and answer after the model has run: outputs, predictions, scores,
//! metrics; and the functions of words, which stand on both sides.

use host_ir::record::{Answer, NumberedSpan};
use host_ir::task::{FieldType, PredictionType, PredictionValue};

use super::peft;
use super::peft::plugin::graph::Node;
use super::{State, lift, node, node_functions};

/// Spans as they go over the wire.
type WireSpans = Vec<(u32, u32, u32)>;

fn spans(wire: WireSpans) -> Vec<NumberedSpan> {
    wire.into_iter().map(|(first, last, number)| [first, last, number]).collect()
}

fn wire_spans(answer: Answer<Option<Vec<NumberedSpan>>>) -> wasmtime::Result<Option<WireSpans>> {
    let wire = |spans: Vec<NumberedSpan>| spans.into_iter().map(|[a, b, c]| (a, b, c)).collect();
    Ok(lift(answer)?.map(wire))
}

impl peft::plugin::words::Host for State {
    fn field(&mut self, name: String) -> wasmtime::Result<()> {
        lift(self.recorder.field(&name, FieldType::Words))
    }

    fn numbers(&mut self, name: String, of: String) -> wasmtime::Result<()> {
        lift(self.recorder.field_over_words(&name, &of, FieldType::WordNumbers(of.clone())))
    }

    fn spans(&mut self, name: String, of: String) -> wasmtime::Result<()> {
        lift(self.recorder.field_over_words(&name, &of, FieldType::Spans(of.clone())))
    }

    fn predicted_spans(&mut self, name: String, of: String) -> wasmtime::Result<()> {
        lift(self.recorder.predicted_spans(&name, &of))
    }

    fn put(&mut self, example: u32, field: String, words: Vec<String>) -> wasmtime::Result<()> {
        lift(self.recorder.put_words(example, &field, words))
    }

    fn put_numbers(&mut self, example: u32, field: String, numbers: Vec<u32>) -> wasmtime::Result<()> {
        lift(self.recorder.put_word_numbers(example, &field, &numbers))
    }

    fn put_spans(&mut self, example: u32, field: String, wire: WireSpans) -> wasmtime::Result<()> {
        lift(self.recorder.put_spans(example, &field, spans(wire)))
    }

    fn read(&mut self, sequence: u32, field: String, shared: u32) -> wasmtime::Result<()> {
        lift(self.recorder.sequence_words(sequence, &field, shared))
    }

    node_functions! {
        states(sequence: u32) = |r| r.word_states(sequence);
        numbers_of(field: String) = |r| r.word_numbers(&field);
        spans_of(field: String, width: u32) = |r| r.span_numbers(&field, width);
    }

    fn get(&mut self, example: u32, field: String) -> wasmtime::Result<Vec<String>> {
        lift(self.recorder.group_words(example, &field))
    }

    fn get_spans(&mut self, example: u32, field: String) -> wasmtime::Result<Option<WireSpans>> {
        wire_spans(self.recorder.group_spans(example, &field))
    }

    fn set_predicted(&mut self, example: u32, name: String, wire: WireSpans) -> wasmtime::Result<()> {
        lift(self.recorder.set_spans(example, &name, spans(wire)))
    }

    fn get_predicted(&mut self, example: u32, name: String) -> wasmtime::Result<Option<WireSpans>> {
        wire_spans(self.recorder.get_spans(example, &name))
    }
}

impl peft::plugin::output::Host for State {
    fn declare(&mut self, name: String, value: Node) -> wasmtime::Result<()> {
        lift(self.recorder.declare_output(&name, value.id))
    }

    fn reals(&mut self, example: u32, name: String) -> wasmtime::Result<Vec<f64>> {
        lift(self.recorder.output_reals(example, &name))
    }

    fn text(&mut self, example: u32, name: String) -> wasmtime::Result<String> {
        lift(self.recorder.output_text(example, &name))
    }
}

impl peft::plugin::group::Host for State {
    fn count(&mut self, split: String) -> wasmtime::Result<u64> {
        lift(self.recorder.count(&split))
    }

    fn size(&mut self, group: u32) -> wasmtime::Result<u32> {
        lift(self.recorder.group_size(group))
    }

    fn example(&mut self, group: u32, place: u32) -> wasmtime::Result<u32> {
        lift(self.recorder.group_example(group, place))
    }

    fn text(&mut self, example: u32, field: String) -> wasmtime::Result<Result<String, String>> {
        lift(self.recorder.group_text(example, &field))
    }

    fn texts(&mut self, example: u32, field: String) -> wasmtime::Result<Result<Vec<String>, String>> {
        lift(self.recorder.group_texts(example, &field))
    }

    fn label(&mut self, example: u32, field: String) -> wasmtime::Result<Option<u32>> {
        lift(self.recorder.group_label(example, &field))
    }
}

impl peft::plugin::prediction::Host for State {
    fn label(&mut self, name: String, field: String) -> wasmtime::Result<()> {
        lift(self.recorder.prediction(&name, PredictionType::Label(field)))
    }

    fn real(&mut self, name: String) -> wasmtime::Result<()> {
        lift(self.recorder.prediction(&name, PredictionType::Real))
    }

    fn file(&mut self, name: String, container: String) -> wasmtime::Result<()> {
        lift(self.recorder.prediction_file(&name, &container))
    }

    fn file_field(&mut self, file: String, key: String, field: String, form: String) -> wasmtime::Result<()> {
        lift(self.recorder.prediction_file_column(&file, &key, (false, &field), &form))
    }

    fn file_column(
        &mut self,
        file: String,
        key: String,
        prediction: String,
        form: String,
    ) -> wasmtime::Result<()> {
        lift(self.recorder.prediction_file_column(&file, &key, (true, &prediction), &form))
    }

    fn text_file(&mut self, name: String, prediction: String) -> wasmtime::Result<()> {
        lift(self.recorder.text_file(&name, &prediction))
    }

    fn set_label(&mut self, example: u32, name: String, label: u32) -> wasmtime::Result<()> {
        lift(self.recorder.set_prediction(example, &name, PredictionValue::Label(label)))
    }

    fn text(&mut self, name: String) -> wasmtime::Result<()> {
        lift(self.recorder.prediction(&name, PredictionType::Text))
    }

    fn set_text(&mut self, example: u32, name: String, value: String) -> wasmtime::Result<()> {
        lift(self.recorder.set_prediction(example, &name, PredictionValue::Text(value)))
    }

    fn get_text(&mut self, example: u32, name: String) -> wasmtime::Result<Option<String>> {
        lift(self.recorder.prediction_text(example, &name))
    }

    fn set_real(&mut self, example: u32, name: String, value: f64) -> wasmtime::Result<()> {
        lift(self.recorder.set_prediction(example, &name, PredictionValue::Real(value)))
    }

    fn get_label(&mut self, example: u32, name: String) -> wasmtime::Result<Option<u32>> {
        lift(self.recorder.prediction_label(example, &name))
    }

    fn get_real(&mut self, example: u32, name: String) -> wasmtime::Result<Option<f64>> {
        lift(self.recorder.prediction_real(example, &name))
    }
}

impl peft::plugin::statistic::Host for State {
    fn sum(&mut self, name: String) -> wasmtime::Result<()> {
        lift(self.recorder.sum(&name))
    }

    fn add(&mut self, group: u32, name: String, key: u64, value: f64) -> wasmtime::Result<()> {
        lift(self.recorder.add_statistic(group, &name, key, value))
    }

    fn sum_of(&mut self, sample: u32, name: String, key: u64) -> wasmtime::Result<f64> {
        lift(self.recorder.sum_of(sample, &name, key))
    }
}

impl peft::plugin::metric::Host for State {
    fn higher_is_better(&mut self, name: String) -> wasmtime::Result<()> {
        lift(self.recorder.metric(&name, true))
    }

    fn lower_is_better(&mut self, name: String) -> wasmtime::Result<()> {
        lift(self.recorder.metric(&name, false))
    }

    fn best(&mut self, name: String) -> wasmtime::Result<()> {
        lift(self.recorder.best_metric(&name))
    }

    fn set(&mut self, sample: u32, name: String, value: f64) -> wasmtime::Result<()> {
        lift(self.recorder.set_metric(sample, &name, value))
    }
}
