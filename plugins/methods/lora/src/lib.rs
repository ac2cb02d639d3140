//! LoRA: low-rank updates of linear layers (Hu et al. 2021).

use plugin_sdk::prelude::*;

choice! {
    /// Which biases of the model train.
    pub enum Bias { None = "none", All = "all", LoraOnly = "lora_only", }
}

config! {
    pub struct Lora {
        /// Rank of the update.
        r: u32 = 8 => 1..=65_536,
        /// The update is multiplied by lora_alpha / r.
        lora_alpha: f64 = 8.0 => 0.0..=f64::INFINITY,
        /// Dropout of the update's input.
        lora_dropout: f64 = 0.0 => 0.0..=0.99,
        /// Modules that are adapted: names, or a regular expression; without it those that peft takes for the architecture.
        targets: Targets = Targets::default(),
        /// Which biases of the model train besides.
        bias: Bias = Bias::None,
        /// Multiply by lora_alpha / sqrt(r) instead (Kalajdzievski 2023).
        use_rslora: bool = false,
        /// Ranks of their own for modules, by regular expressions of their names' ends.
        rank_pattern: Patterns = Patterns::default(),
        /// Values of lora_alpha of their own, likewise.
        alpha_pattern: Patterns = Patterns::default(),
    }
}

/// The modules that peft adapts by default, by architecture.
fn default_targets(architecture: &str) -> Result<&'static [&'static str], String> {
    Ok(match architecture {
        "bert" | "electra" | "roberta" | "xlm-roberta" | "camembert" => &["query", "value"],
        "deberta" => &["in_proj"],
        "deberta-v2" => &["query_proj", "value_proj"],
        "t5" | "mt5" => &["q", "v"],
        "bart" => &["q_proj", "v_proj"],
        other => {
            return Err(format!("there are no default targets for {other}: name them in target_modules"));
        }
    })
}

impl Method for Lora {
    fn plan(&self, model: Model, plan: Plan) -> Result<(), String> {
        let sites = model.linears(&self.targets.or(default_targets(&model.architecture())?));
        self.rank_pattern.all_match("rank_pattern", &sites)?;
        self.alpha_pattern.all_match("alpha_pattern", &sites)?;
        for site in sites {
            let r = site.lookup(&self.rank_pattern).map_or(self.r, |rank| rank as u32);
            if r == 0 {
                return Err(format!("rank_pattern gives {} a rank of 0", site.name()));
            }
            let alpha = site.lookup(&self.alpha_pattern).unwrap_or(self.lora_alpha);
            let scaling = alpha / if self.use_rslora { f64::from(r).sqrt() } else { f64::from(r) };
            let a = site.parameter("lora_A", kaiming_uniform([r, site.inputs()], 5f64.sqrt()));
            let b = site.parameter("lora_B", zeros([site.outputs(), r]));
            let x = site.input().dropout(self.lora_dropout);
            site.replace_output(site.output() + x.matmul(a.t()).matmul(b.t()) * scaling);
            site.merge_as(site.weight() + b.matmul(a) * scaling);
            if self.bias == Bias::LoraOnly {
                plan.train(site.bias());
            }
        }
        if self.bias == Bias::All {
            plan.train(model.parameters("bias"));
        }
        Ok(())
    }
}

export!(Lora);

#[cfg(test)]
mod tests {
    use plugin_sdk::testing::{self, MINILM, Setting};

    use super::Lora;

    fn trained(values: &[(&str, Setting)]) -> Result<usize, String> {
        let model = testing::bert(MINILM);
        Ok(testing::plan::<Lora>(&model, values)?.counts(&model).trained)
    }

    fn texts(values: &[&str]) -> Setting {
        Setting::Texts(values.iter().map(|value| value.to_string()).collect())
    }

    /// Figures of peft 0.21 for the same settings.
    #[test]
    fn trained_parameters_are_pefts() {
        let r16 = ("r", Setting::Whole(16));
        let bias = |word: &str| ("bias", Setting::Text(word.into()));
        assert_eq!(trained(&[r16.clone(), bias("lora_only")]), Ok(153_989));
        assert_eq!(trained(std::slice::from_ref(&r16)), Ok(149_381));
        assert_eq!(trained(&[r16.clone(), bias("all")]), Ok(147_456 + 26_112 + 1_925));
        let layers = ("layers_to_transform", Setting::Wholes(vec![0, 3]));
        assert_eq!(trained(&[r16.clone(), layers]), Ok(147_456 / 3 + 1_925));
        let ranks = ("rank_pattern", Setting::Numbers(vec![("value".into(), 4.0)]));
        assert_eq!(trained(&[r16, ranks]), Ok(147_456 / 2 + 147_456 / 8 + 1_925));
    }

    #[test]
    fn settings_that_do_not_fit_are_sentences() {
        assert!(
            trained(&[("target_modules", texts(&["qeury"]))]).unwrap_err().contains("did you mean `query`")
        );
        assert!(
            trained(&[("bias", Setting::Text("some".into()))])
                .unwrap_err()
                .contains("one of \"none\", \"all\" or \"lora_only\"")
        );
        for key in ["rank_pattern", "alpha_pattern"] {
            let idle = Setting::Numbers(vec![("value".into(), 2.0), ("nope".into(), 3.0)]);
            let error = trained(&[(key, idle)]).unwrap_err();
            assert!(error.contains(&format!("{key} has \"nope\", which matches no module")), "{error}");
            // A module of the model that is not adapted; then an end of names and all of one.
            let dense = Setting::Numbers(vec![("output.dense".into(), 2.0)]);
            assert!(trained(&[(key, dense)]).unwrap_err().contains("has \"output.dense\""));
            let both = [("self.query", 2.0), (r".*layer\.0.*value", 3.0)];
            let both = Setting::Numbers(both.map(|(name, number)| (name.into(), number)).into());
            assert!(trained(&[(key, both)]).is_ok());
        }
        let pattern = ("layers_pattern", texts(&["layer"]));
        assert!(trained(std::slice::from_ref(&pattern)).unwrap_err().contains("layers_to_transform"));
        assert!(trained(&[pattern, ("layers_to_transform", Setting::Wholes(vec![0]))]).is_ok());
        assert!(trained(&[("r", Setting::Whole(0))]).unwrap_err().contains("from 1 to"));
        let unknown = testing::Sizes { architecture: "gpt2", ..MINILM };
        assert!(testing::plan::<Lora>(&testing::bert(unknown), &[]).unwrap_err().contains("target_modules"));
    }

    #[test]
    fn modules_of_a_user_are_adapted() {
        assert_eq!(
            trained(&[
                ("target_modules", Setting::Text("all-linear".into())),
                ("exclude_modules", texts(&["pooler.dense"]))
            ])
            .unwrap(),
            {
                let (h, f, r) = (384, 1536, 8);
                6 * r * (4 * 2 * h + 2 * (h + f)) + 1_925
            }
        );
    }
}
