//! Where the hub is, where its cache is and who asks: the variables of the
//! environment that Python's `huggingface_hub` reads, read the same way.

use std::path::PathBuf;

/// What the environment says about the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Address without a slash at its end.
    pub endpoint: String,
    /// The folder that holds a folder for each repository.
    pub cache: PathBuf,
    /// What is sent to the endpoint, and to nobody else.
    pub token: Option<String>,
    /// The variable that forbids the network.
    pub offline: Option<&'static str>,
}

const ENDPOINT: &str = "https://huggingface.co";

impl Settings {
    /// The settings of this process's environment.
    pub fn from_environment() -> Settings {
        Settings::of(|name| std::env::var(name).ok())
    }

    /// The settings of an environment. An empty variable is an absent one.
    fn of(variable: impl Fn(&str) -> Option<String>) -> Settings {
        let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let home = || variable("HOME").map_or_else(std::env::temp_dir, PathBuf::from);
        let path = |text: String| match text.strip_prefix("~/") {
            Some(rest) => home().join(rest),
            None => PathBuf::from(text),
        };
        let hub_home = variable("HF_HOME").map(&path).unwrap_or_else(|| {
            let caches = variable("XDG_CACHE_HOME").map(&path).unwrap_or_else(|| home().join(".cache"));
            caches.join("huggingface")
        });
        let cache = variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE"));
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        // A token that stands in the environment was meant; that of the file may
        // be kept back.
        let file = || {
            let kept_back = variable("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(|value| is_true(&value));
            let file = variable("HF_TOKEN_PATH").map(&path).unwrap_or_else(|| hub_home.join("token"));
            (!kept_back).then(|| std::fs::read_to_string(file).ok()).flatten()
        };
        let token = variable("HF_TOKEN").or_else(|| variable("HUGGING_FACE_HUB_TOKEN")).or_else(file);
        Settings {
            endpoint: endpoint.trim().trim_end_matches('/').to_string(),
            cache: cache.map(path).unwrap_or_else(|| hub_home.join("hub")),
            token: token.map(|token| token.trim().to_string()).filter(|token| !token.is_empty()),
            offline: ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]
                .into_iter()
                .find(|name| variable(name).is_some_and(|value| is_true(&value))),
        }
    }
}

fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&value.trim().to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        Settings::of(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into())
        })
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        let cache = |variables: &[(&str, &str)]| {
            let all: Vec<_> = [("HOME", "/home/a")].into_iter().chain(variables.iter().copied()).collect();
            settings(&all).cache
        };
        assert_eq!(cache(&[]), PathBuf::from("/home/a/.cache/huggingface/hub"));
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/c")]), PathBuf::from("/c/huggingface/hub"));
        assert_eq!(cache(&[("HF_HOME", "/h"), ("XDG_CACHE_HOME", "/c")]), PathBuf::from("/h/hub"));
        assert_eq!(cache(&[("HF_HOME", "~/h")]), PathBuf::from("/home/a/h/hub"));
        assert_eq!(cache(&[("HF_HUB_CACHE", "/x"), ("HF_HOME", "/h")]), PathBuf::from("/x"));
        assert_eq!(cache(&[("HF_HUB_CACHE", "")]), PathBuf::from("/home/a/.cache/huggingface/hub"));
    }

    #[test]
    fn offline_is_said_in_many_ways() {
        for value in ["1", "ON", "yes", "True"] {
            assert_eq!(settings(&[("HF_HUB_OFFLINE", value)]).offline, Some("HF_HUB_OFFLINE"), "{value}");
        }
        for value in ["0", "", "off", "no"] {
            assert_eq!(settings(&[("HF_HUB_OFFLINE", value)]).offline, None, "{value}");
        }
        assert_eq!(settings(&[("TRANSFORMERS_OFFLINE", "1")]).offline, Some("TRANSFORMERS_OFFLINE"));
    }

    #[test]
    fn the_token_is_the_variables_or_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        assert_eq!(settings(&[("HF_HOME", home)]).token, None);
        std::fs::write(folder.path().join("token"), "from-file\n").unwrap();
        let token = |more: (&str, &str)| settings(&[("HF_HOME", home), more]).token;
        assert_eq!(token(("X", "")).as_deref(), Some("from-file"));
        assert_eq!(token(("HF_TOKEN", " given ")).as_deref(), Some("given"));
        assert_eq!(token(("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")), None);
        assert_eq!(token(("HF_TOKEN_PATH", "/nowhere")), None);
    }

    #[test]
    fn the_endpoint_has_no_slash_at_its_end() {
        assert_eq!(settings(&[]).endpoint, "https://huggingface.co");
        assert_eq!(settings(&[("HF_ENDPOINT", "http://127.0.0.1:8/")]).endpoint, "http://127.0.0.1:8");
    }
}
