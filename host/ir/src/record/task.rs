//! The model side that a task declares: the functions of `sequence`, `head`,
//! `objective` and `output`.

use crate::graph::{Kind, NodeId, Op, Scope, SequenceId};
use crate::record::{Answer, Handle, Phase, Recorder};
use crate::shape::{Dim, Shape};
use crate::task::{FieldType, HeadKind, Sequence, Side, TargetText};

impl Recorder {
    fn shaping(&self, function: &'static str) -> Answer<()> {
        self.only_in(function, &[Phase::TaskPlan])
    }

    /// `sequence.new`.
    pub fn sequence(&mut self, name: &str) -> Answer<u32> {
        self.shaping("sequence.new")?;
        if !self.task.sequences.is_empty() {
            return Err(self.wrong(
                "sequence.new",
                "sequence.new: more than one sequence is not supported by this host yet",
            ));
        }
        self.task.sequences.push(Sequence { name: name.into(), ..Sequence::default() });
        Ok(self.give(Handle::Sequence(self.task.sequences.len() as u32 - 1)))
    }

    pub(super) fn sequence_place(&self, function: &'static str, number: u32) -> Answer<usize> {
        self.shaping(function)?;
        match self.handles.get(number as usize) {
            Some(Handle::Sequence(place)) => Ok(*place as usize),
            other => Err(self.misuse(function, "a sequence", number, other)),
        }
    }

    /// `sequence.text`.
    pub fn sequence_text(&mut self, sequence: u32, field: &str) -> Answer<()> {
        self.segment("sequence.text", sequence, field, &FieldType::Text).map(|_| ())
    }

    /// `sequence.each`.
    pub fn sequence_each(&mut self, sequence: u32, field: &str) -> Answer<()> {
        let function = "sequence.each";
        let place = self.segment(function, sequence, field, &FieldType::Texts)?;
        let sequence = &mut self.task.sequences[place];
        if sequence.each.is_some() {
            return Err(self.wrong(function, format!("{function}: a sequence has at most one list of texts")));
        }
        sequence.each = Some(sequence.texts.len() - 1);
        Ok(())
    }

    /// Adds a field as the next segment of a sequence; answers the sequence's place.
    fn segment(
        &mut self,
        function: &'static str,
        sequence: u32,
        field: &str,
        kind: &FieldType,
    ) -> Answer<usize> {
        let place = self.sequence_place(function, sequence)?;
        let field_place = self.field_place(function, field)?;
        if self.layout.fields[field_place].kind != *kind {
            let wanted = if *kind == FieldType::Text { "no text" } else { "no list of texts" };
            return Err(self.wrong(function, format!("{function}: the field \"{field}\" is {wanted}")));
        }
        if self.task.sequences[place].texts.len() == 2 {
            return Err(self.wrong(function, format!("{function}: a sequence has at most two texts")));
        }
        self.task.sequences[place].texts.push(field.into());
        Ok(place)
    }

    /// `sequence.at-most`.
    pub fn at_most(&mut self, sequence: u32, tokens: u32) -> Answer<()> {
        let place = self.sequence_place("sequence.at-most", sequence)?;
        self.task.sequences[place].at_most = Some(tokens);
        Ok(())
    }

    /// `sequence.cut`.
    pub fn sequence_cut(&mut self, sequence: u32, field: &str, side: &str) -> Answer<()> {
        let function = "sequence.cut";
        let place = self.sequence_place(function, sequence)?;
        let text = self.task.sequences[place].texts.iter().position(|name| name == field);
        let Some(text) = text else {
            let sentence = format!("{function}: the sequence does not read the field \"{field}\"");
            return Err(self.wrong(function, sentence));
        };
        let side = match side {
            "start" => Side::Start,
            "end" => Side::End,
            _ => {
                let sentence =
                    format!("{function}: a text is cut at its start or its end, not at \"{side}\"");
                return Err(self.wrong(function, sentence));
            }
        };
        self.task.sequences[place].cut = Some((text, side));
        Ok(())
    }

    /// `sequence.windows`.
    pub fn sequence_windows(&mut self, sequence: u32, stride: u32) -> Answer<()> {
        let function = "sequence.windows";
        let place = self.sequence_place(function, sequence)?;
        let known = &self.task.sequences[place];
        if known.each.is_some() || known.cut.is_none_or(|(_, side)| side == Side::Start) {
            return Err(self.wrong(
                function,
                format!("{function}: windows need a text that is cut at its end, and no list of texts"),
            ));
        }
        self.task.sequences[place].windows = Some(stride);
        Ok(())
    }

    /// `sequence.mask-tokens`.
    pub fn mask_tokens(&mut self, sequence: u32, probability: f64) -> Answer<()> {
        let place = self.sequence_place("sequence.mask-tokens", sequence)?;
        if !(probability > 0.0 && probability < 1.0) {
            return Err(self.wrong(
                "sequence.mask-tokens",
                format!("sequence.mask-tokens: a share of {probability}; it must lie between 0 and 1"),
            ));
        }
        self.task.sequences[place].mask_probability = Some(probability);
        Ok(())
    }

    /// `sequence.shift-positions`.
    pub fn shift_positions(&mut self, sequence: u32, most: u32) -> Answer<()> {
        let place = self.sequence_place("sequence.shift-positions", sequence)?;
        self.task.sequences[place].shift_positions = Some(most);
        Ok(())
    }

    /// `sequence.hidden`.
    pub fn hidden(&mut self, sequence: u32) -> Answer<u32> {
        let place = self.sequence_place("sequence.hidden", sequence)?;
        let size = self.model_fact("sequence.hidden", "hidden_size")?;
        Ok(self.task_leaf(
            Op::Hidden(SequenceId(place as u32)),
            vec![Dim::Tokens, Dim::Fixed(size)],
            Kind::Real,
        ))
    }

    pub(super) fn model_fact(&self, function: &'static str, key: &str) -> Answer<u32> {
        let fact = self.model.as_ref().and_then(|model| model.facts.get(key));
        fact.map(|&value| value as u32)
            .ok_or_else(|| self.wrong(function, format!("{function}: the model has no {key}")))
    }

    fn task_leaf(&mut self, op: Op, dims: Vec<Dim>, kind: Kind) -> u32 {
        let place = self.place.clone();
        let scope = if matches!(op, Op::ChoiceLogits(_)) { Scope::Example } else { Scope::Sequence };
        let node = self.task.graph.leaf(op, Shape(dims), kind, scope, place);
        self.give_node(node)
    }

    fn take_head(&mut self, function: &'static str, head: HeadKind) -> Answer<()> {
        match self.task.head {
            None => self.task.head = Some(head),
            Some(known) if known == head => {}
            Some(_) => {
                return Err(self.wrong(
                    function,
                    format!("{function}: more than one head is not supported by this host yet"),
                ));
            }
        }
        Ok(())
    }

    /// `head.classification`.
    pub fn classification(&mut self, sequence: u32, classes: u32) -> Answer<u32> {
        let place = self.sequence_place("head.classification", sequence)?;
        if classes == 0 {
            return Err(self.wrong("head.classification", "head.classification: there are no classes"));
        }
        self.take_head("head.classification", HeadKind::Classification { classes })?;
        Ok(self.task_leaf(
            Op::ClassificationLogits(SequenceId(place as u32)),
            vec![Dim::Fixed(classes)],
            Kind::Real,
        ))
    }

    /// A head with logits of so many classes for each token, [tokens, classes].
    pub fn token_classification(&mut self, sequence: u32, classes: u32) -> Answer<u32> {
        let function = "head.token-classification";
        let place = self.sequence_place(function, sequence)?;
        if classes == 0 {
            return Err(self.wrong(function, format!("{function}: there are no classes")));
        }
        self.take_head(function, HeadKind::TokenClassification { classes })?;
        let logits = Op::TokenLogits(SequenceId(place as u32));
        Ok(self.task_leaf(logits, vec![Dim::Tokens, Dim::Fixed(classes)], Kind::Real))
    }

    /// `head.choice`.
    pub fn choice_head(&mut self, sequence: u32, choices: u32) -> Answer<u32> {
        let function = "head.choice";
        let place = self.sequence_place(function, sequence)?;
        if choices == 0 || self.task.sequences[place].each.is_none() {
            return Err(self.wrong(
                function,
                format!("{function}: {choices} choices; one or more, and a sequence with each of a list's texts are wanted"),
            ));
        }
        self.take_head(function, HeadKind::MultipleChoice)?;
        if self.task.sequences[place].choices.is_some_and(|known| known != choices) {
            return Err(self.wrong(function, format!("{function}: a sequence has one number of choices")));
        }
        self.task.sequences[place].choices = Some(choices);
        let op = Op::ChoiceLogits(SequenceId(place as u32));
        Ok(self.task_leaf(op, vec![Dim::Fixed(choices)], Kind::Real))
    }

    /// `head.masked-language-model`.
    pub fn masked_language_model(&mut self, sequence: u32) -> Answer<u32> {
        let function = "head.masked-language-model";
        let place = self.sequence_place(function, sequence)?;
        let vocabulary = self.model_fact(function, "vocab_size")?;
        self.take_head(function, HeadKind::MaskedLanguageModel)?;
        Ok(self.task_leaf(
            Op::MaskedLogits(SequenceId(place as u32)),
            vec![Dim::Masked, Dim::Fixed(vocabulary)],
            Kind::Real,
        ))
    }

    /// `head.masked-tokens`.
    pub fn masked_tokens(&mut self, sequence: u32) -> Answer<u32> {
        let place = self.sequence_place("head.masked-tokens", sequence)?;
        Ok(self.task_leaf(Op::MaskedTokens(SequenceId(place as u32)), vec![Dim::Masked], Kind::Integer))
    }

    /// `sequence.target`.
    pub fn target(&mut self, sequence: u32, field: &str, tokens: u32) -> Answer<()> {
        let function = "sequence.target";
        let place = self.sequence_place(function, sequence)?;
        let field_place = self.field_place(function, field)?;
        if self.layout.fields[field_place].kind != FieldType::Text {
            return Err(self.wrong(function, format!("{function}: the field \"{field}\" is no text")));
        }
        if self.task.sequences[place].target.is_some() {
            return Err(self.wrong(function, format!("{function}: the sequence has a target already")));
        }
        let at_most = (tokens > 0).then_some(tokens);
        self.task.sequences[place].target = Some(TargetText { text: field.into(), at_most });
        Ok(())
    }

    pub(super) fn has_target(&self, function: &'static str, sequence: usize) -> Answer<()> {
        match &self.task.sequences[sequence].target {
            Some(_) => Ok(()),
            None => Err(self.wrong(
                function,
                format!("{function}: the sequence has no target; sequence.target gives it one"),
            )),
        }
    }

    /// `head.sequence-to-sequence`.
    pub fn sequence_to_sequence(&mut self, sequence: u32) -> Answer<u32> {
        let function = "head.sequence-to-sequence";
        let place = self.sequence_place(function, sequence)?;
        self.has_target(function, place)?;
        let vocabulary = self.model_fact(function, "vocab_size")?;
        self.take_head(function, HeadKind::SequenceToSequence)?;
        let logits = Op::TargetLogits(SequenceId(place as u32));
        Ok(self.task_leaf(logits, vec![Dim::Targets, Dim::Fixed(vocabulary)], Kind::Real))
    }

    /// `head.target-tokens`.
    pub fn target_tokens(&mut self, sequence: u32) -> Answer<u32> {
        let function = "head.target-tokens";
        let place = self.sequence_place(function, sequence)?;
        self.has_target(function, place)?;
        Ok(self.task_leaf(Op::TargetTokens(SequenceId(place as u32)), vec![Dim::Targets], Kind::Integer))
    }

    /// `objective.label`.
    pub fn objective_label(&mut self, field: &str) -> Answer<u32> {
        self.shaping("objective.label")?;
        self.names(field)?;
        Ok(self.task_leaf(Op::Label(field.into()), Vec::new(), Kind::Integer))
    }

    /// `objective.mean`.
    pub fn objective_mean(&mut self, value: u32) -> Answer<()> {
        let node = self.objective_value("objective.mean", value)?;
        self.task.losses.push(node);
        Ok(())
    }

    fn objective_value(&self, function: &'static str, value: u32) -> Answer<NodeId> {
        self.shaping(function)?;
        let node = self.node(function, value)?;
        let found = self.graph().node(node);
        if found.kind != Kind::Real || found.scope == Scope::Plan {
            return Err(self.wrong(
                function,
                format!("{function}: real numbers that depend on the sequence or the example are wanted"),
            ));
        }
        Ok(node)
    }

    /// `output.declare`.
    pub fn declare_output(&mut self, name: &str, value: u32) -> Answer<()> {
        self.shaping("output.declare")?;
        let node = self.node("output.declare", value)?;
        if self.graph().node(node).scope == Scope::Plan {
            return Err(self.wrong("output.declare", "output.declare: a value of an example is wanted"));
        }
        if self.task.outputs.iter().any(|(known, _)| known == name) {
            return Err(self.wrong("output.declare", format!("output.declare: \"{name}\" is declared twice")));
        }
        self.task.outputs.push((name.into(), node));
        Ok(())
    }

    /// `group.count`.
    pub fn count(&self, split: &str) -> Answer<u64> {
        self.shaping("group.count")?;
        Ok(self.counts.get(split).copied().unwrap_or(0))
    }
}
