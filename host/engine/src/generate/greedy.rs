//! The likeliest token, again and again.

use crate::generate::Running;
use crate::generate::processors::Processors;

pub struct Greedy {
    running: Running,
    finished: bool,
}

impl Greedy {
    pub fn new(start: Running, processors: &Processors) -> Greedy {
        Greedy { finished: start.tokens.len() >= processors.longest, running: start }
    }

    pub fn running(&self) -> &[Running] {
        std::slice::from_ref(&self.running)
    }

    pub fn note_row(&mut self, row: u32) {
        self.running.rows.push(row);
    }

    pub fn advance(&mut self, logits: &mut [f32], processors: &Processors) {
        processors.apply(logits, &self.running.tokens);
        let mut best = 0;
        for (token, &score) in logits.iter().enumerate() {
            if score > logits[best] {
                best = token;
            }
        }
        self.running.tokens.push(best as u32);
        self.finished = processors.ended(self.running.tokens.len(), best as u32);
    }

    pub fn finished(&self) -> bool {
        self.finished
    }

    pub fn into_tokens(mut self) -> Vec<u32> {
        self.running.tokens.split_off(1)
    }
}
