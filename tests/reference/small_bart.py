"""Makes a small BART without weights for a text-to-text task: its config.json, and a
byte-level tokenizer learned from a file of JSON lines.

    python tests/reference/small_bart.py train.jsonl FOLDER

`host run configs/xsum.toml --set model.path=FOLDER --set model.reinitialise=true` trains it
from scratch.
"""

import json
import sys
from pathlib import Path

from tokenizers import ByteLevelBPETokenizer
from transformers import BartConfig

VOCABULARY = 4000

source, folder = Path(sys.argv[1]), Path(sys.argv[2])
folder.mkdir(parents=True, exist_ok=True)
records = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
tokenizer = ByteLevelBPETokenizer()
tokenizer.train_from_iterator(
    (record[key] for record in records for key in ("document", "summary")),
    vocab_size=VOCABULARY,
    special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
    show_progress=False,
)
tokenizer.save_model(str(folder))
config = BartConfig(
    vocab_size=VOCABULARY,
    d_model=128,
    encoder_layers=2,
    decoder_layers=2,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=512,
    decoder_ffn_dim=512,
    max_position_embeddings=256,
)
config.save_pretrained(folder)
