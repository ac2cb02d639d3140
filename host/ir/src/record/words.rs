//! Tasks over words: the functions of the contract's `words`, and the head's own
//! parameters.

use crate::graph::{Kind, NodeId, Op, Scope, SequenceId};
use crate::record::{Answer, Phase, Recorder};
use crate::shape::{Dim, Shape};
use crate::task::{FieldType, FieldValue, PredictionType, PredictionValue, TaskParameter};

/// A span of words with a number: first word, last word, number.
pub type NumberedSpan = [u32; 3];

impl Recorder {
    /// `words.numbers` and `words.spans`: a field over the words of another.
    pub fn field_over_words(&mut self, name: &str, of: &str, kind: FieldType) -> Answer<()> {
        let function = "words";
        let place = self.field_place(function, of)?;
        if self.layout.fields[place].kind != FieldType::Words {
            return Err(self.wrong(function, format!("{function}: the field \"{of}\" has no words")));
        }
        self.field(name, kind)
    }

    /// `words.predicted-spans`.
    pub fn predicted_spans(&mut self, name: &str, of: &str) -> Answer<()> {
        let place = self.field_place("words.predicted-spans", of)?;
        if self.layout.fields[place].kind != FieldType::Words {
            return Err(self.wrong("words", format!("words.predicted-spans: \"{of}\" has no words")));
        }
        self.prediction(name, PredictionType::Spans(of.into()))
    }

    fn words_field(&self, function: &'static str, field: &str, wanted: &[FieldType]) -> Answer<usize> {
        let place = self.field_place(function, field)?;
        let kind = &self.layout.fields[place].kind;
        match wanted.iter().any(|wanted| std::mem::discriminant(wanted) == std::mem::discriminant(kind)) {
            true => Ok(place),
            false => {
                Err(self.wrong(function, format!("{function}: the field \"{field}\" is of another kind")))
            }
        }
    }

    /// `words.put`.
    pub fn put_words(&mut self, example: u32, field: &str, words: Vec<String>) -> Answer<()> {
        let function = "words.put";
        self.only_in(function, &[Phase::Parse])?;
        let place = self.words_field(function, field, &[FieldType::Words])?;
        self.put(function, example, place, FieldValue::Words(words))
    }

    /// `words.put-numbers`.
    pub fn put_word_numbers(&mut self, example: u32, field: &str, numbers: &[u32]) -> Answer<()> {
        let function = "words.put-numbers";
        self.only_in(function, &[Phase::Parse])?;
        let place = self.words_field(function, field, &[FieldType::WordNumbers(String::new())])?;
        self.exact(function, numbers.iter().copied())?;
        self.put(function, example, place, FieldValue::WordNumbers(numbers.to_vec()))
    }

    /// `words.put-spans`.
    pub fn put_spans(&mut self, example: u32, field: &str, spans: Vec<NumberedSpan>) -> Answer<()> {
        let function = "words.put-spans";
        self.only_in(function, &[Phase::Parse])?;
        let place = self.words_field(function, field, &[FieldType::Spans(String::new())])?;
        self.ordered(function, &spans)?;
        self.exact(function, spans.iter().map(|span| span[2]))?;
        self.put(function, example, place, FieldValue::Spans(spans))
    }

    /// Expressions have integers as real numbers, which are exact to 2^24; of a
    /// span's number they read one more.
    fn exact(&self, function: &'static str, mut numbers: impl Iterator<Item = u32>) -> Answer<()> {
        match numbers.find(|&number| number >= 1 << 24) {
            Some(number) => {
                Err(self.wrong(function, format!("{function}: the number {number} is not below 2^24")))
            }
            None => Ok(()),
        }
    }

    fn ordered(&self, function: &'static str, spans: &[NumberedSpan]) -> Answer<()> {
        match spans.iter().find(|[first, last, _]| first > last) {
            Some([first, last, _]) => {
                Err(self.wrong(function, format!("{function}: a span from word {first} to word {last}")))
            }
            None => Ok(()),
        }
    }

    /// `words.read`.
    pub fn sequence_words(&mut self, sequence: u32, field: &str, shared: u32) -> Answer<()> {
        let function = "words.read";
        let place = self.sequence_place(function, sequence)?;
        self.words_field(function, field, &[FieldType::Words])?;
        let sequence = &mut self.task.sequences[place];
        if !sequence.texts.is_empty() || sequence.words.is_some() {
            return Err(self.wrong(function, format!("{function}: the sequence reads something already")));
        }
        sequence.words = Some((field.into(), shared));
        Ok(())
    }

    /// `words.states`.
    pub fn word_states(&mut self, sequence: u32) -> Answer<u32> {
        let function = "words.states";
        let place = self.sequence_place(function, sequence)?;
        if self.task.sequences[place].words.is_none() {
            return Err(self.wrong(function, format!("{function}: the sequence reads no words")));
        }
        let size = self.model_fact(function, "hidden_size")?;
        let op = Op::WordStates(SequenceId(place as u32));
        Ok(self.example_leaf(op, vec![Dim::Words, Dim::Fixed(size)], Kind::Real))
    }

    /// `words.numbers-of`.
    pub fn word_numbers(&mut self, field: &str) -> Answer<u32> {
        let function = "words.numbers-of";
        self.only_in(function, &[Phase::TaskPlan])?;
        self.words_field(function, field, &[FieldType::WordNumbers(String::new())])?;
        Ok(self.example_leaf(Op::WordNumbers(field.into()), vec![Dim::Words], Kind::Integer))
    }

    /// `words.spans-of`.
    pub fn span_numbers(&mut self, field: &str, width: u32) -> Answer<u32> {
        let function = "words.spans-of";
        self.only_in(function, &[Phase::TaskPlan])?;
        self.words_field(function, field, &[FieldType::Spans(String::new())])?;
        if width == 0 {
            return Err(self.wrong(function, format!("{function}: spans of no words")));
        }
        let op = Op::SpanNumbers { field: field.into(), width };
        Ok(self.example_leaf(op, vec![Dim::Words, Dim::Fixed(width)], Kind::Integer))
    }

    fn example_leaf(&mut self, op: Op, dims: Vec<Dim>, kind: Kind) -> u32 {
        let place = self.place.clone();
        let node = self.task.graph.leaf(op, Shape(dims), kind, Scope::Example, place);
        self.give_node(node)
    }

    /// `head.parameter`.
    pub fn head_parameter(&mut self, name: &str, initial: u32) -> Answer<u32> {
        let function = "head.parameter";
        self.only_in(function, &[Phase::TaskPlan])?;
        let initial = self.node(function, initial)?;
        let node = self.graph().node(initial);
        let wrong = |why: &str| Err(self.wrong(function, format!("{function} \"{name}\": {why}")));
        if name.is_empty() || name.contains(char::is_whitespace) {
            return wrong("the name is empty or has a space in it");
        }
        if node.scope != Scope::Plan || node.kind != Kind::Real {
            return wrong("the initial value has to be of real numbers that depend on no example");
        }
        if node.shape.elements().is_none_or(|elements| elements == 0) {
            return wrong("the initial value has no elements");
        }
        if self.task.parameters.iter().any(|known| known.name == name) {
            return wrong("there is a parameter of this name already");
        }
        let shape = node.shape.clone();
        self.task.parameters.push(TaskParameter { name: name.into(), initial });
        let op = Op::Head(self.task.parameters.len() as u32 - 1);
        let place = self.place.clone();
        let node: NodeId = self.task.graph.leaf(op, shape, Kind::Real, Scope::Plan, place);
        Ok(self.give_node(node))
    }

    /// `words.get`.
    pub fn group_words(&self, example: u32, field: &str) -> Answer<Vec<String>> {
        let place = self.readable("words.get", field)?;
        match self.example("words.get", example)?.values.get(place) {
            Some(Some(FieldValue::Words(words))) => Ok(words.clone()),
            _ => Ok(Vec::new()),
        }
    }

    /// `words.get-spans`: none where the example has no such gold.
    pub fn group_spans(&self, example: u32, field: &str) -> Answer<Option<Vec<NumberedSpan>>> {
        let place = self.readable("words.get-spans", field)?;
        match self.example("words.get-spans", example)?.values.get(place) {
            Some(Some(FieldValue::Spans(spans))) => Ok(Some(spans.clone())),
            _ => Ok(None),
        }
    }

    /// `words.set-predicted`.
    pub fn set_spans(&mut self, example: u32, name: &str, spans: Vec<NumberedSpan>) -> Answer<()> {
        self.ordered("words.set-predicted", &spans)?;
        self.set_prediction(example, name, PredictionValue::Spans(spans))
    }

    /// `words.get-predicted`.
    pub fn get_spans(&self, example: u32, name: &str) -> Answer<Option<Vec<NumberedSpan>>> {
        match self.get_prediction("words.get-predicted", example, name)? {
            Some(PredictionValue::Spans(spans)) => Ok(Some(spans)),
            _ => Ok(None),
        }
    }
}
