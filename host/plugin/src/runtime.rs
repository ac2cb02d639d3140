//! One wasmtime engine for all plugins: fuel, deadlines, a cache of compiled
//! code, and the limiter of memory.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use wasmtime::{Cache, CacheConfig, Config, Engine, ResourceLimiter};

/// How often deadlines are looked at.
pub const TICK: Duration = Duration::from_millis(50);

/// The engine, made once. A ticker thread moves its epoch.
///
/// # Errors
/// wasmtime's, where the machine cannot run it.
pub fn engine() -> Result<&'static Engine, String> {
    static ENGINE: OnceLock<Result<Engine, String>> = OnceLock::new();
    let made = ENGINE.get_or_init(|| {
        let mut config = Config::new();
        config
            .wasm_component_model(true)
            .consume_fuel(true)
            .epoch_interruption(true)
            .cranelift_nan_canonicalization(true);
        if let Some(cache) = cache() {
            config.cache(Some(cache));
        }
        let engine = Engine::new(&config).map_err(|error| format!("{error:#}"))?;
        let ticked = engine.weak();
        let ticker = thread::Builder::new().name("plugin-deadlines".into()).spawn(move || {
            while let Some(engine) = ticked.upgrade() {
                engine.increment_epoch();
                drop(engine);
                thread::sleep(TICK);
            }
        });
        ticker.map_err(|error| format!("a thread for deadlines cannot be started: {error}"))?;
        Ok(engine)
    });
    made.as_ref().map_err(Clone::clone)
}

/// Compiled code is kept in the user's cache folder; a machine without one
/// compiles each time.
fn cache() -> Option<Cache> {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    let folder = base.join("host").join("compiled-plugins");
    std::fs::create_dir_all(&folder).ok()?;
    let mut config = CacheConfig::new();
    config.with_directory(folder);
    Cache::new(config).ok()
}

/// Refuses memory over the limit, and remembers that it did.
#[derive(Debug)]
pub struct MemoryLimit {
    pub bytes: usize,
    pub refused: bool,
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        self.refused |= desired > self.bytes;
        Ok(desired <= self.bytes)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let bytes = desired.saturating_mul(size_of::<usize>());
        self.refused |= bytes > self.bytes;
        Ok(bytes <= self.bytes)
    }
}
