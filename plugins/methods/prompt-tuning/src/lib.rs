//! Prompt tuning: trained virtual tokens before the input (Lester et al. 2021).

use plugin_sdk::prelude::*;
use plugin_sdk::settings::reject;

choice! {
    /// How the virtual tokens start.
    pub enum Init { Random = "random", SampledVocab = "sampled_vocab", Text = "text", }
}

config! {
    pub struct PromptTuning {
        /// Number of virtual tokens.
        num_virtual_tokens: u32 = 20 => 1..=4_096,
        /// How they start: "random" with the spread of the word embeddings, as rows of the "sampled_vocab", or as the embeddings of a "text".
        prompt_tuning_init: Init = Init::Random,
        /// The text of which the virtual tokens start, repeated or cut to their number.
        prompt_tuning_init_text: Option<String> = None,
        /// The virtual tokens learn with the learning rate times this factor.
        prompt_learning_rate_factor: f64 = 1.0 => 0.0..=f64::INFINITY,
    }
}

impl Method for PromptTuning {
    fn plan(&self, model: Model, plan: Plan) -> Result<(), String> {
        let (count, table) = (self.num_virtual_tokens, model.word_embeddings());
        let size = table.shape()[1];
        let start = match self.prompt_tuning_init {
            Init::Random => normal([count, size], 0.0, 1.0) * table.deviation([0, 1], false),
            Init::SampledVocab => sampled_rows(table, count),
            Init::Text => {
                let ids = model.tokenize(self.prompt_tuning_init_text.as_deref().unwrap_or_default());
                if ids.is_empty() {
                    reject("prompt_tuning_init_text", "a text is wanted for prompt_tuning_init = \"text\"");
                }
                let ids: Vec<u32> = ids.iter().copied().cycle().take(count as usize).collect();
                rows_of(table, &ids)
            }
        };
        let prompt = plan.parameter("prompt_embeddings", start);
        plan.learning_rate(prompt, self.prompt_learning_rate_factor);
        plan.prompt(prompt);
        Ok(())
    }
}

export!(PromptTuning);

#[cfg(test)]
mod tests {
    use plugin_sdk::testing::{self, MINILM, Setting};

    use super::PromptTuning;

    #[test]
    fn the_prompt_and_the_head_train() {
        let model = testing::bert(MINILM);
        let plan = testing::plan::<PromptTuning>(&model, &[]).unwrap();
        assert_eq!(plan.counts(&model).trained, 9_605);
        assert_eq!(plan.virtual_tokens(), 20);
    }

    #[test]
    fn a_text_is_wanted_where_it_is_the_start() {
        let model = testing::bert(MINILM);
        let init = ("prompt_tuning_init", Setting::Text("text".into()));
        let error = testing::plan::<PromptTuning>(&model, std::slice::from_ref(&init)).unwrap_err();
        assert!(error.contains("prompt_tuning_init_text"), "{error}");
        let text = ("prompt_tuning_init_text", Setting::Text("abc".into()));
        assert!(testing::plan::<PromptTuning>(&model, &[init, text]).is_ok());
        let sampled = ("prompt_tuning_init", Setting::Text("sampled_vocab".into()));
        assert!(testing::plan::<PromptTuning>(&model, &[sampled]).is_ok());
    }
}
