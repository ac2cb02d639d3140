//! Full fine-tuning: every parameter trains.

use plugin_sdk::prelude::*;

config! {
    pub struct FullFineTuning {
        /// Train only parameters whose name matches this regular expression in full; all where it is left out.
        parameters: Option<String> = None,
    }
}

impl Method for FullFineTuning {
    fn plan(&self, model: Model, plan: Plan) -> Result<(), String> {
        plan.train(match &self.parameters {
            Some(pattern) => model.parameters_matching(pattern),
            None => model.parameters("all"),
        });
        Ok(())
    }
}

export!(FullFineTuning);

#[cfg(test)]
mod tests {
    use plugin_sdk::testing::{self, MINILM, Setting};

    use super::FullFineTuning;

    #[test]
    fn every_parameter_trains() {
        let model = testing::bert(MINILM);
        let plan = testing::plan::<FullFineTuning>(&model, &[]).unwrap();
        assert_eq!(plan.counts(&model).trained, 22_715_141);
    }

    #[test]
    fn a_pattern_narrows_them() {
        let model = testing::bert(MINILM);
        let last = [("parameters", Setting::Text(r".*layer\.5\..*".into()))];
        assert_eq!(testing::plan::<FullFineTuning>(&model, &last).unwrap().trained.len(), 16);
        let none = [("parameters", Setting::Text("layer".into()))];
        assert!(testing::plan::<FullFineTuning>(&model, &none).unwrap_err().contains("matches no parameter"));
    }
}
