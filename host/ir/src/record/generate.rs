//! The functions of the contract's `generate`.

use crate::record::{Answer, Phase, Recorder};
use crate::settings::did_you_mean;
use crate::task::{EarlyStopping, GenerationPlan, GenerationSettings};

impl Recorder {
    /// `generate.declare`.
    pub fn declare_generated(&mut self, sequence: u32, name: &str) -> Answer<()> {
        let function = "generate.declare";
        let place = self.sequence_place(function, sequence)?;
        self.has_target(function, place)?;
        if self.task.generation.is_some() {
            return Err(self.wrong(function, format!("{function} was called twice")));
        }
        self.task.generation =
            Some(GenerationPlan { name: name.into(), settings: GenerationSettings::default() });
        Ok(())
    }

    fn generation(&mut self, function: &'static str) -> Answer<&mut GenerationSettings> {
        self.only_in(function, &[Phase::TaskPlan])?;
        if self.task.generation.is_none() {
            return Err(self.wrong(function, format!("{function}: generate.declare comes first")));
        }
        Ok(&mut self.task.generation.get_or_insert_default().settings)
    }

    /// `generate.max-new-tokens`.
    pub fn max_new_tokens(&mut self, tokens: u32) -> Answer<()> {
        let function = "generate.max-new-tokens";
        if tokens == 0 {
            return Err(self.wrong(function, format!("{function}: at least 1 token is wanted")));
        }
        self.generation(function)?.max_new_tokens = tokens;
        Ok(())
    }

    /// `generate.min-new-tokens`.
    pub fn min_new_tokens(&mut self, tokens: u32) -> Answer<()> {
        self.generation("generate.min-new-tokens")?.min_new_tokens = tokens;
        Ok(())
    }

    /// `generate.num-beams`.
    pub fn num_beams(&mut self, beams: u32) -> Answer<()> {
        let function = "generate.num-beams";
        if beams == 0 {
            return Err(self.wrong(function, format!("{function}: at least 1 beam is wanted")));
        }
        self.generation(function)?.num_beams = beams;
        Ok(())
    }

    /// `generate.length-penalty`.
    pub fn length_penalty(&mut self, penalty: f64) -> Answer<()> {
        let function = "generate.length-penalty";
        if !penalty.is_finite() {
            return Err(self.wrong(function, format!("{function}: {penalty} is no finite number")));
        }
        self.generation(function)?.length_penalty = penalty;
        Ok(())
    }

    /// `generate.early-stopping`.
    pub fn early_stopping(&mut self, rule: &str) -> Answer<()> {
        let function = "generate.early-stopping";
        let rules = [("no", EarlyStopping::No), ("yes", EarlyStopping::Yes), ("never", EarlyStopping::Never)];
        let Some(&(_, known)) = rules.iter().find(|(name, _)| *name == rule) else {
            let names = rules.map(|(name, _)| name);
            let sentence = format!("{function}: there is no rule \"{rule}\"{}", did_you_mean(rule, &names));
            return Err(self.wrong(function, sentence));
        };
        self.generation(function)?.early_stopping = known;
        Ok(())
    }

    /// `generate.no-repeat-ngram-size`.
    pub fn no_repeat_ngram_size(&mut self, size: u32) -> Answer<()> {
        self.generation("generate.no-repeat-ngram-size")?.no_repeat_ngram_size = size;
        Ok(())
    }

    /// `generate.forced-bos-token`.
    pub fn forced_bos_token(&mut self, id: u32) -> Answer<()> {
        self.generation("generate.forced-bos-token")?.forced_bos_token_id = Some(id);
        Ok(())
    }

    /// `generate.forced-eos-token`.
    pub fn forced_eos_token(&mut self, id: u32) -> Answer<()> {
        self.generation("generate.forced-eos-token")?.forced_eos_token_id = Some(id);
        Ok(())
    }
}
