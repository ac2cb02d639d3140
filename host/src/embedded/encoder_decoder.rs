//! A small BART for trying tasks that say texts: its sizes and a tokenizer whose tokens
//! are bytes, in the hub's layout. It has no weights; `model.reinitialise` gives it random
//! ones, so that what it says means nothing, and every step is made as with a large one.

use serde_json::{Map, json};

/// The special tokens of BART, in their order; bytes come next, and the mask last.
const SPECIAL: [&str; 4] = ["<s>", "<pad>", "</s>", "<unk>"];

/// The names and contents of its files.
pub fn files() -> [(&'static str, String); 3] {
    [
        ("config.json", config().to_string()),
        ("vocab.json", vocabulary().to_string()),
        ("merges.txt", "#version: 0.2\n".into()),
    ]
}

fn config() -> serde_json::Value {
    json!({
        "architectures": ["BartForConditionalGeneration"],
        "model_type": "bart",
        "is_encoder_decoder": true,
        "vocab_size": tokens().len(),
        "max_position_embeddings": 1024,
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "activation_function": "gelu",
        "dropout": 0.1,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "init_std": 0.02,
        "scale_embedding": false,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": 2,
    })
}

fn vocabulary() -> serde_json::Value {
    tokens().into_iter().zip(0..).map(|(token, id)| (token, json!(id))).collect::<Map<_, _>>().into()
}

fn tokens() -> Vec<String> {
    let special = SPECIAL.map(String::from).into_iter();
    special.chain((0..=255).map(|byte| letter(byte).to_string())).chain(["<mask>".into()]).collect()
}

/// The letter that stands for a byte in a byte-level vocabulary (Radford et al. 2019): its
/// own where it is printed and no space, else one of those from 256 on, in their order.
fn letter(byte: u8) -> char {
    let is_printed = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match is_printed(&byte) {
        true => char::from(byte),
        false => {
            let before = (0..byte).filter(|byte| !is_printed(byte)).count() as u32;
            char::from_u32(256 + before).unwrap_or(char::REPLACEMENT_CHARACTER)
        }
    }
}

#[cfg(test)]
mod tests {
    use host_engine::models;
    use host_engine::text::Tokenizer;

    use super::*;

    #[test]
    fn any_text_is_its_bytes_and_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files() {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        let tokenizer = Tokenizer::open(folder.path()).unwrap();
        let text = "Čez 2 dni, at \u{a0}noon:\n\"ÿ\u{1f642}\" ~\u{ad}";
        let encoded = tokenizer.encode(&[text], 1024).unwrap();
        assert_eq!(encoded.ids.len(), text.len() + 2);
        assert_eq!((encoded.ids[0], *encoded.ids.last().unwrap()), (0, 2));
        assert_eq!(tokenizer.decode(&encoded.ids).unwrap(), text);
        let config = models::read(config().as_object().unwrap()).unwrap();
        assert_eq!((config.vocabulary(), config.positions()), (tokenizer.vocabulary_size(), Some(1024)));
        assert!(config.decoder().is_some());
    }
}
