//! BitFit: only the biases train (Ben Zaken et al. 2022).

use plugin_sdk::prelude::*;

choice! {
    /// Which biases train.
    pub enum Biases { All = "all", QueryIntermediate = "query_intermediate", }
}

config! {
    pub struct BitFit {
        /// "all" biases, or only those of the queries and of the intermediate layers (section 4 of the paper).
        biases: Biases = Biases::All,
    }
}

impl Method for BitFit {
    fn plan(&self, model: Model, plan: Plan) -> Result<(), String> {
        plan.train(match self.biases {
            Biases::All => model.parameters("bias"),
            Biases::QueryIntermediate => {
                model.parameters_matching(r".*\.(query|query_proj|q_proj|intermediate\.dense|fc1)\.bias")
            }
        });
        Ok(())
    }
}

export!(BitFit);

#[cfg(test)]
mod tests {
    use plugin_sdk::testing::{self, MINILM, Setting};

    use super::BitFit;

    #[test]
    fn the_biases_and_the_head_train() {
        let model = testing::bert(MINILM);
        let count = |values: &[(&str, Setting)]| {
            testing::plan::<BitFit>(&model, values).unwrap().counts(&model).trained
        };
        assert_eq!(count(&[]), 28_037);
        assert_eq!(
            count(&[("biases", Setting::Text("query_intermediate".into()))]),
            6 * (384 + 1536) + 1_925
        );
    }
}
