"""Makes a small T5 without weights for a text-to-text task: its config.json, and a
byte-level tokenizer learned from a file of JSON lines.

    python tests/reference/small_t5.py train.jsonl FOLDER

`host run configs/xsum.toml --set model.path=FOLDER --set model.reinitialise=true` trains it
from scratch. A BART of the same size learns the language of the summaries from so few of
them and says the same for every article, in PyTorch too.
"""

import json
import sys
from pathlib import Path

from tokenizers import ByteLevelBPETokenizer
from transformers import T5Config

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
config = T5Config(
    vocab_size=VOCABULARY,
    d_model=128,
    d_kv=32,
    d_ff=512,
    num_layers=2,
    num_heads=4,
    pad_token_id=1,
    eos_token_id=2,
    decoder_start_token_id=1,
)
config.save_pretrained(folder)
