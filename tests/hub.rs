//! Models and data by their names at a hub: brought whole and once, or a sentence
//! that says why not and what to do.

#[path = "hub/data.rs"]
mod data;
#[path = "hub/server.rs"]
mod server;
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use server::{Fault, Repository, Server};
use support::{cells, experiment, fails, succeeds};

const COMMIT: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const MODEL: &str = "models/owner/tiny";

/// An experiment whose model a hub has.
struct Lab {
    folder: tempfile::TempDir,
    server: Server,
}

impl Lab {
    fn new() -> Lab {
        let folder = experiment(|config| config.replace("path = \"model\"", "name = \"owner/tiny\""));
        let lab = Lab { folder, server: Server::start() };
        lab.server.add(MODEL, Repository::new(&lab.files()));
        lab
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The checkpoint's files, and what people put beside them.
    fn files(&self) -> [(&'static str, &'static [u8], bool); 6] {
        let read = |name: &str| -> &'static [u8] {
            Box::leak(fs::read(support::checkpoint().join(name)).unwrap().into_boxed_slice())
        };
        [
            ("README.md", b"# tiny", false),
            ("config.json", read("config.json"), false),
            ("vocab.txt", read("vocab.txt"), false),
            ("model.safetensors", read("model.safetensors"), true),
            ("pytorch_model.bin", b"the same again", true),
            ("onnx/model.onnx", b"and again", true),
        ]
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = support::host(self.path(), arguments);
        for name in ["HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN_PATH"] {
            command.env_remove(name);
        }
        command.env("HF_ENDPOINT", self.server.endpoint()).env("HF_HOME", self.path().join("hf"));
        command.env("NO_PROXY", "127.0.0.1");
        command
    }

    fn fetch(&self) -> Command {
        self.command(&["fetch", "experiment.toml"])
    }

    fn offline(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(arguments);
        command.env("HF_HUB_OFFLINE", "1");
        command
    }

    fn cache(&self) -> PathBuf {
        self.path().join("hf/hub/models--owner--tiny")
    }

    fn snapshot(&self, name: &str) -> PathBuf {
        self.cache().join("snapshots").join(COMMIT).join(name)
    }

    /// Names of the contents in the cache.
    fn blobs(&self) -> Vec<String> {
        let entries = fs::read_dir(self.cache().join("blobs")).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}

/// The sentence of a command that fails has these parts.
#[track_caller]
fn says(command: Command, parts: &[&str]) {
    let text = fails(command, 1);
    for part in parts {
        assert!(text.contains(part), "\"{part}\" is not in:\n{text}");
    }
}

#[test]
fn a_model_is_fetched_by_name_and_trains_without_network() {
    let lab = Lab::new();
    let (out, log) = succeeds(lab.fetch());
    assert!(out.contains(&format!("model owner/tiny at {COMMIT}: 3 files")), "{out}");
    assert!(log.contains("bringing model.safetensors"), "{log}");
    // As Python's cache has it: links to contents named by their digests.
    let link = fs::read_link(lab.snapshot("model.safetensors")).unwrap();
    assert!(link.starts_with("../../blobs") && link.file_name().unwrap().len() == 64, "{link:?}");
    assert_eq!(fs::read_to_string(lab.cache().join("refs/main")).unwrap(), COMMIT);
    assert_eq!(lab.blobs().len(), 3);
    for unwanted in ["pytorch_model.bin", "README.md", "onnx/model.onnx"] {
        assert_eq!(lab.server.contents(unwanted), 0, "{unwanted}");
    }

    let before = lab.server.requests().len();
    succeeds(lab.offline(&["run", "experiment.toml"]));
    assert_eq!(lab.server.requests().len(), before, "an offline run has asked the hub");
    let run = lab.path().join("runs/experiment");
    let source = cells(&run)[0].1["spec"]["model"]["path"].clone();
    assert_eq!(
        (source["name"].as_str(), source["snapshot"]["commit"].as_str()),
        (Some("owner/tiny"), Some(COMMIT))
    );
    let resolved = fs::read_to_string(run.join("config.toml")).unwrap();
    assert!(resolved.contains("name = \"owner/tiny\"") && resolved.contains(COMMIT), "{resolved}");

    // Online again, the hub is asked what the branch is, and nothing more.
    let (_, log) = succeeds(lab.command(&["run", "experiment.toml"]));
    assert_eq!(log.matches("finished earlier").count(), 2, "{log}");
    assert_eq!(lab.server.requests().len(), before + 1);
    let (text, _) = succeeds(lab.offline(&["eval", "runs/experiment"]));
    assert!(text.contains("agree with what was recorded"), "{text}");
    // A branch that moves is another model, although these files stay.
    let mut moved = Repository::default();
    moved.commit("main", 'b', &lab.files());
    lab.server.add(MODEL, moved);
    let (_, log) = succeeds(lab.command(&["run", "experiment.toml"]));
    assert!(!log.contains("finished earlier"), "{log}");
    assert_eq!(lab.server.contents("model.safetensors"), 1, "the content was there already");
    assert_eq!(cells(&run).len(), 4);
}

#[test]
fn a_run_brings_what_it_needs_by_itself_and_data_too() {
    let lab = Lab::new();
    let config = fs::read_to_string(lab.path().join("experiment.toml")).unwrap();
    let config = config.replace("path = \"data\"", "name = \"owner/sentences\"\nrevision = \"v1\"");
    fs::write(lab.path().join("experiment.toml"), config).unwrap();
    let read = |name: &str| fs::read(lab.path().join("data").join(name)).unwrap();
    let (train, dev) = (read("stsa.fine.train"), read("stsa.fine.dev"));
    let mut data = Repository::new(&[]);
    let files: &[(&str, &[u8], bool)] =
        &[("stsa.fine.train", &train, true), ("stsa.fine.dev", &dev, false), ("other.csv", b"x", false)];
    data.commit("v1", 'd', files);
    lab.server.add("datasets/owner/sentences", data);
    succeeds(lab.command(&["run", "experiment.toml", "--method", "lora"]));
    assert_eq!(cells(&lab.path().join("runs/experiment")).len(), 1);
    assert_eq!(lab.server.contents("other.csv"), 0);
    let (out, log) = succeeds(lab.offline(&["fetch", "experiment.toml"]));
    assert!(out.contains("data owner/sentences at dddddddd") && out.contains("2 files"), "{out}");
    assert!(!log.contains("bringing"), "{log}");
    // What the task needs and the data set has not.
    let mut data = Repository::new(&[]);
    data.commit("v1", 'e', &[("stsa.fine.train", &train, false), ("other.csv", b"x", false)]);
    lab.server.add("datasets/owner/sentences", data);
    let parts = ["data set owner/sentences at v1 lacks file for the split dev", "it has other.csv, stsa"];
    says(lab.fetch(), &parts);
}

#[test]
fn a_path_on_the_command_line_takes_the_names_place() {
    let lab = Lab::new();
    succeeds(lab.command(&["plan", "experiment.toml", "--set", "model.path=model", "--summary"]));
    assert_eq!(lab.server.requests().len(), 0);
    let (out, _) = succeeds(lab.command(&["fetch", "experiment.toml", "--set", "model.path=model"]));
    assert!(out.contains("nothing to fetch"), "{out}");
    let both = ["fetch", "experiment.toml", "--set", "model.path=model", "--set", "model.name=a/b"];
    let text = fails(lab.command(&both), 2);
    assert!(text.contains("[model] has `path` and `name`"), "{text}");
}

#[test]
fn offline_says_what_is_missing_and_how_to_fetch_it() {
    let lab = Lab::new();
    let run = ["run", "experiment.toml"];
    says(
        lab.offline(&run),
        &["HF_HUB_OFFLINE forbids the network", "model owner/tiny at main", "`host fetch CONFIG` brings"],
    );
    assert_eq!(lab.server.requests().len(), 0, "an offline run has asked the hub");
    succeeds(lab.fetch());
    fs::remove_file(lab.snapshot("vocab.txt")).unwrap();
    let weights = fs::canonicalize(lab.snapshot("model.safetensors")).unwrap();
    fs::remove_file(weights).unwrap();
    says(lab.offline(&run), &["no vocab.txt and no model.safetensors of the model owner/tiny"]);
    // And the same command brings just that.
    let before = lab.server.contents("config.json");
    succeeds(lab.fetch());
    assert_eq!((lab.server.contents("config.json"), before), (1, 1));
    succeeds(lab.offline(&["plan", "experiment.toml", "--summary"]));
}

#[test]
fn a_hub_that_cannot_be_reached_is_done_without_where_the_cache_has_all() {
    let lab = Lab::new();
    let alone = |arguments: &[&str]| {
        let mut command = lab.command(arguments);
        // Nothing listens at the port of discarded bytes.
        command.env("HF_ENDPOINT", "http://127.0.0.1:9");
        command
    };
    says(alone(&["fetch", "experiment.toml"]), &["http://127.0.0.1:9 cannot be reached", "host fetch"]);
    succeeds(lab.fetch());
    let (_, log) = succeeds(alone(&["plan", "experiment.toml", "--summary"]));
    assert!(log.contains("cannot be reached") && log.contains("taken from the cache"), "{log}");
    // A commit needs nobody to say what it is.
    let revision = format!("model.revision={COMMIT}");
    let (_, log) = succeeds(alone(&["plan", "experiment.toml", "--summary", "--set", &revision]));
    assert!(!log.contains("cannot be reached"), "{log}");
}

#[test]
fn what_the_hub_does_not_have_is_named() {
    let lab = Lab::new();
    let fetch = |set: &str| lab.command(&["fetch", "experiment.toml", "--set", set]);
    says(fetch("model.name=owner/tinny"), &["has no model owner/tinny", "set HF_TOKEN"]);
    says(fetch("model.revision=v9"), &["the model owner/tiny has no revision v9", "/owner/tiny/refs"]);
    let files = lab.files();
    lab.server.add("models/owner/bare", Repository::new(&files[..2]));
    says(
        fetch("model.name=owner/bare"),
        &[
            "lacks file of a tokenizer (tokenizer.json",
            "and model.safetensors or pytorch_model.bin",
            "it has README.md",
        ],
    );
}

#[test]
fn gated_and_private_repositories_want_a_token() {
    let lab = Lab::new();
    let refuse = |refusal| {
        lab.server.add(MODEL, Repository { refusal: Some(refusal), ..Repository::new(&lab.files()) });
    };
    let with = |token: &str| {
        let mut command = lab.fetch();
        command.env("HF_TOKEN", token);
        command
    };
    refuse((401, "GatedRepo", "right"));
    says(lab.fetch(), &["owner/tiny is gated (no token was sent)", "ask for access at http", "HF_TOKEN"]);
    refuse((403, "GatedRepo", "right"));
    says(
        with("wrong"),
        &["owner/tiny is gated (the token of HF_TOKEN or of the token file does not suffice)"],
    );
    refuse((401, "", "right"));
    says(with("wrong"), &["may not be read (401)", "set HF_TOKEN"]);
    succeeds(with("right"));
    // The token is for the hub, and not for where it sends on to.
    let requests = lab.server.requests();
    assert!(requests.iter().any(|request| request.elsewhere));
    for request in requests {
        assert!(!request.elsewhere || request.token.is_none(), "{request:?}");
    }
    // The token of the file does as well.
    fs::remove_dir_all(lab.cache()).unwrap();
    fs::write(lab.path().join("hf/token"), "right\n").unwrap();
    succeeds(lab.fetch());
}

#[test]
fn a_cut_connection_goes_on_where_it_was() {
    let lab = Lab::new();
    lab.server.fault("model.safetensors", Fault::Cut { after: 1000, times: 1 });
    lab.server.fault("vocab.txt", Fault::Busy(1));
    let (_, log) = succeeds(lab.fetch());
    assert!(log.contains("the connection broke after 1000 bytes"), "{log}");
    let ranges: Vec<Option<String>> = lab
        .server
        .requests()
        .into_iter()
        .filter(|request| request.elsewhere)
        .map(|request| request.range)
        .collect();
    assert_eq!(ranges, [None, Some("bytes=1000-".to_string())]);
    let whole = fs::read(support::checkpoint().join("model.safetensors")).unwrap();
    assert!(fs::read(lab.snapshot("model.safetensors")).unwrap() == whole);
    succeeds(lab.offline(&["plan", "experiment.toml", "--summary"]));
}

#[test]
fn what_never_comes_whole_is_not_kept() {
    let lab = Lab::new();
    let is_clean = || {
        let blobs = lab.blobs();
        // Of what came before, config.json and vocab.txt, 40 digits each.
        assert!(blobs.iter().all(|name| name.len() == 40), "{blobs:?}");
        assert!(!lab.snapshot("model.safetensors").exists());
        lab.server.mend();
    };
    let size = fs::metadata(support::checkpoint().join("model.safetensors")).unwrap().len();
    lab.server.fault("model.safetensors", Fault::Cut { after: 10, times: usize::MAX });
    says(
        lab.fetch(),
        &["model.safetensors of the model owner/tiny did not come whole", "the connection broke"],
    );
    is_clean();
    lab.server.fault("model.safetensors", Fault::Shorter(3));
    says(lab.fetch(), &["did not come whole", &format!("{} bytes", size), "nothing of it was kept"]);
    is_clean();
    lab.server.fault("model.safetensors", Fault::Longer);
    says(lab.fetch(), &[&format!("more than its {size} bytes came"), "nothing of it was kept"]);
    is_clean();
    lab.server.fault("model.safetensors", Fault::Other);
    says(lab.fetch(), &["model.safetensors of the model owner/tiny is not what the hub says: its digest is"]);
    is_clean();
    // Small files have git's digest.
    fs::remove_dir_all(lab.cache()).unwrap();
    lab.server.fault("config.json", Fault::Other);
    says(lab.fetch(), &["config.json of the model owner/tiny is not what the hub says"]);
    assert!(lab.blobs().is_empty());
    lab.server.mend();
    succeeds(lab.fetch());
}

#[test]
fn two_processes_at_once_bring_a_file_once() {
    let lab = Lab::new();
    lab.server.fault("model.safetensors", Fault::Slow(Duration::from_millis(1500)));
    let started: Vec<_> = (0..2)
        .map(|_| {
            let mut command = lab.fetch();
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    let mut logs = String::new();
    for child in started {
        let output = child.wait_with_output().unwrap();
        logs.push_str(&String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{logs}");
    }
    assert_eq!(lab.server.contents("model.safetensors"), 1, "{logs}");
    assert!(logs.contains("another process is bringing model.safetensors; waiting for it"), "{logs}");
    let whole = fs::read(support::checkpoint().join("model.safetensors")).unwrap();
    assert!(fs::read(lab.snapshot("model.safetensors")).unwrap() == whole);
    assert_eq!(lab.blobs().len(), 3);
}

#[test]
fn a_revision_is_a_branch_a_tag_or_a_commit() {
    let lab = Lab::new();
    let mut repository = Repository::new(&lab.files());
    let mut files = lab.files();
    files[2].1 = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nanother\n";
    repository.commit("refs/pr/1", 'b', &files);
    lab.server.add(MODEL, repository);
    let other = "b".repeat(40);
    for revision in ["refs/pr/1", other.as_str()] {
        let set = format!("model.revision={revision}");
        let (out, _) = succeeds(lab.command(&["fetch", "experiment.toml", "--set", &set]));
        assert!(out.contains(&other), "{out}");
    }
    assert_eq!(fs::read_to_string(lab.cache().join("refs/refs/pr/1")).unwrap(), other);
    assert!(!lab.cache().join("refs/main").exists());
    let vocabulary =
        fs::read_to_string(lab.cache().join("snapshots").join(&other).join("vocab.txt")).unwrap();
    assert!(vocabulary.ends_with("another\n"));
}

#[test]
fn weights_come_in_one_form() {
    let lab = Lab::new();
    let files = lab.files();
    let pickled = [files[1], files[2], files[4]];
    lab.server.add(MODEL, Repository::new(&pickled));
    succeeds(lab.fetch());
    assert!(lab.snapshot("pytorch_model.bin").is_file());
    let index = br#"{"weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors"}}"#;
    let mut parts = vec![
        files[1],
        files[2],
        files[4],
        ("model.safetensors.index.json", index, false),
        ("part-1.safetensors", b"1", true),
    ];
    let mut sharded = Repository::default();
    sharded.commit("main", 'c', &parts);
    lab.server.add(MODEL, sharded.clone());
    says(lab.fetch(), &["lacks part-2.safetensors"]);
    parts.push(("part-2.safetensors", b"2", true));
    sharded.commit("main", 'c', &parts);
    lab.server.add(MODEL, sharded);
    let (out, _) = succeeds(lab.fetch());
    assert!(out.contains("5 files"), "{out}");
    assert_eq!(lab.server.contents("pytorch_model.bin"), 1, "only where there was nothing better");
    let part = lab.cache().join("snapshots").join("c".repeat(40)).join("part-2.safetensors");
    let part_blob = fs::canonicalize(part).unwrap();
    fs::remove_file(part_blob).unwrap();
    says(lab.offline(&["run", "experiment.toml"]), &["no part-2.safetensors"]);
}

#[test]
fn an_older_name_leads_to_the_new_one() {
    let lab = Lab::new();
    lab.server.add("models/tiny", Repository { moved: Some("owner/tiny".into()), ..Repository::default() });
    let (out, _) = succeeds(lab.command(&["fetch", "experiment.toml", "--set", "model.name=tiny"]));
    assert!(out.contains(&format!("model tiny at {COMMIT}: 3 files")), "{out}");
}

#[test]
fn what_is_no_hub_writes_nothing() {
    let lab = Lab::new();
    let mut files = lab.files().to_vec();
    files.push(("../../../escaped", b"x", false));
    lab.server.add(MODEL, Repository::new(&files));
    says(lab.fetch(), &["\"../../../escaped\" is no name of a file", "is HF_ENDPOINT the address of one?"]);
    assert!(lab.blobs().is_empty());
}
