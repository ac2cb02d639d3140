//! Builds every plugin of the workspace to WebAssembly and lists them for the
//! binary to carry.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const TARGET: &str = "wasm32-unknown-unknown";

fn main() {
    if let Err(sentence) = run() {
        eprintln!("error: {sentence}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), String> {
    let variable = |name: &str| env::var_os(name).ok_or_else(|| format!("cargo has not set {name}"));
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("..");
    let out = PathBuf::from(variable("OUT_DIR")?);
    let mut plugins = Vec::new();
    for kind in ["methods", "tasks"] {
        for entry in fs::read_dir(root.join("plugins").join(kind))
            .map_err(|error| format!("plugins/{kind}: {error}"))?
        {
            let path = entry.map_err(|error| error.to_string())?.path();
            if path.join("Cargo.toml").is_file() {
                plugins.push(path);
            }
        }
    }
    plugins.sort();
    for watched in ["wit", "plugins/sdk/src", "plugins/sdk/Cargo.toml", "Cargo.lock", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", root.join(watched).display());
    }
    for plugin in &plugins {
        for watched in ["src", "Cargo.toml"] {
            println!("cargo::rerun-if-changed={}", plugin.join(watched).display());
        }
    }
    let names: Vec<String> =
        plugins.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect();
    let built = build(&root, &out.join("guests"), &names)?;
    let mut list = String::from("/// The embedded plugins: name of the crate, and its module.\n");
    list.push_str("pub static EMBEDDED: &[(&str, &[u8])] = &[\n");
    for name in &names {
        let module = built.join(format!("{}.wasm", name.replace('-', "_")));
        if !module.is_file() {
            return Err(format!("the plugin {name} was built, and {} is not there", module.display()));
        }
        writeln!(list, "    ({name:?}, include_bytes!({:?})),", module.display().to_string())
            .map_err(|error| error.to_string())?;
    }
    list.push_str("];\n");
    fs::write(out.join("embedded_plugins.rs"), list).map_err(|error| error.to_string())
}

/// Runs a cargo of its own, with a target folder of its own, for the guests;
/// answers the folder with the modules.
fn build(root: &Path, target: &Path, names: &[String]) -> Result<PathBuf, String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root).args([
        "build",
        "--quiet",
        "--locked",
        "--profile",
        "guest",
        "--target",
        TARGET,
    ]);
    command.arg("--target-dir").arg(target);
    for name in names {
        command.args(["--package", name]);
    }
    // What the outer cargo has set is for the outer build.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let flags =
            ["RUSTFLAGS", "RUSTDOCFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTC", "CLIPPY_ARGS"];
        let outer = text.starts_with("CARGO_")
            && text != "CARGO_HOME"
            && !text.starts_with("CARGO_NET")
            && !text.starts_with("CARGO_REGISTRIES");
        if outer || flags.contains(&text.as_ref()) {
            command.env_remove(&name);
        }
    }
    let output =
        command.output().map_err(|error| format!("cargo cannot be started for the plugins: {error}"))?;
    if output.status.success() {
        return Ok(target.join(TARGET).join("guest"));
    }
    let text = String::from_utf8_lossy(&output.stderr);
    if text.contains("target may not be installed")
        || text.contains("can't find crate for `core`")
        || text.contains("can't find crate for `std`")
    {
        return Err(format!(
            "the plugins are built for {TARGET}, which is not installed; install it with `rustup target add {TARGET}`"
        ));
    }
    Err(format!("the plugins do not build:\n{text}"))
}
