//! The plugins that the binary carries.

include!(concat!(env!("OUT_DIR"), "/embedded_plugins.rs"));

#[cfg(test)]
mod tests {
    use host_plugin::{Limits, Plugin};

    use super::*;

    /// A download that broke off, and a disk that rots.
    #[test]
    fn a_plugin_that_was_cut_or_changed_is_a_sentence() {
        let load = |bytes: &[u8]| Plugin::load(bytes, "x.wasm", Limits::default());
        for (name, bytes) in EMBEDDED.iter().filter(|(name, _)| ["bitfit", "sst5"].contains(name)) {
            for end in (0..bytes.len()).step_by(997).chain([bytes.len() - 1]) {
                assert!(load(&bytes[..end]).is_err(), "{name} cut to {end} bytes is a plugin");
            }
            // Its world, which no validation of WebAssembly reads; then everything.
            let world = bytes.windows(14).position(|part| part == b"component-type").unwrap();
            for place in (world..bytes.len()).step_by(61).chain((0..bytes.len()).step_by(1999)) {
                let mut changed = bytes.to_vec();
                changed[place] ^= 0x81;
                if let Err(error) = load(&changed) {
                    assert!(error.to_string().starts_with("x.wasm"), "{error}");
                }
            }
        }
    }
}
