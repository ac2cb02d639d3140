"""Writes tests/golden/tokenizer_bert.json and tokenizer_roberta: what transformers' tokenizers make of texts,
and the texts that they make of that again.

    python tests/reference/tokenizer.py [folder of all-MiniLM-L6-v2]

The file holds a small vocabulary with the ids that transformers gives for it,
and, with a model's folder, the ids for that model. Needs transformers.
"""

import json
import sys
import tempfile
from pathlib import Path

from transformers import BertTokenizerFast

VOCABULARY = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] the a film is not good bad un ##believ ##able ##ly ##s ##ed "
    ", . ! ' - cafe na ##ive resume 日 本 1 ##2 ##3 The Film É ##té é t ##he"
).split()

TEXTS = [
    "The film is not good, but not bad!",
    "Unbelievably   good\tfilms.\r\n",
    "café naïve résumé Été",
    "日本 is 123",
    "[MASK] the film [SEP]",
    "zero\u0000width\u200bjoin \ufffd soft\u00adhyphen",
    "it 's the film -- 'good'",
    "x" * 120,
    "",
    "the 🎬 film",
    "Življenje v Ljubljani: žganci, čevapčiči",
    "&quot;it&#39;s&quot; &amp; the film",
]

PAIRS = [
    ("The film is good.", "It is not bad!"),
    ("the film is not good , not bad , not a film", "the film"),
    ("the film", "the film is not good , not bad , not a film"),
    ("a film is not the film is not good , not bad", "the film is not good , not bad , not a film"),
]

LIMITS = [512, 9, 8, 5]


def cases(tokenizer, texts=None):
    tokenizer.backend_tokenizer.no_padding()
    found = []
    for segments in texts or [(text,) for text in TEXTS] + PAIRS:
        for at_most in LIMITS:
            encoding = tokenizer(
                *segments, truncation="longest_first", max_length=at_most, return_special_tokens_mask=True
            )
            uncut = tokenizer(*segments, truncation=False, verbose=False)["input_ids"]
            found.append(
                {
                    "segments": segments,
                    "at_most": at_most,
                    "ids": encoding["input_ids"],
                    "token_types": encoding.get("token_type_ids", [0] * len(encoding["input_ids"])),
                    "special": encoding["special_tokens_mask"],
                    "cut": len(uncut) > at_most,
                    "text": tokenizer.decode(encoding["input_ids"], skip_special_tokens=True, clean_up_tokenization_spaces=False),
                }
            )
    return found


def small(**options):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
        (Path(folder) / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "BertTokenizer", **options})
        )
        return {"options": options, "cases": cases(BertTokenizerFast.from_pretrained(folder))}


golden = {
    "vocabulary": VOCABULARY,
    "small": [
        small(do_lower_case=True),
        small(do_lower_case=False),
        small(do_lower_case=True, strip_accents=False, tokenize_chinese_chars=False),
    ],
}
if len(sys.argv) > 1:
    golden["model"] = cases(BertTokenizerFast.from_pretrained(sys.argv[1]))
path = Path(__file__).parent.parent / "golden" / "tokenizer_bert.json"
path.write_text(json.dumps(golden, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def byte_level():
    """RoBERTa's tokenizer over a small vocabulary that is trained here."""
    import tokenizers
    from transformers import RobertaTokenizerFast

    folder = Path(__file__).parent.parent / "golden" / "tokenizer_roberta"
    folder.mkdir(exist_ok=True)
    trained = tokenizers.ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(TEXTS + [text for pair in PAIRS for text in pair], vocab_size=330, min_frequency=1, special_tokens=special)
    trained.save_model(str(folder))
    texts = [text.replace("[MASK]", "<mask>").replace("[SEP]", "</s>") for text in TEXTS]
    goldens = []
    for options in [{}, {"add_prefix_space": True}]:
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer", **options}))
        tokenizer = RobertaTokenizerFast.from_pretrained(folder)
        goldens.append({"options": options, "cases": cases(tokenizer, [(text,) for text in texts] + PAIRS)})
    (folder / "tokenizer_config.json").unlink()
    (folder / "cases.json").write_text(json.dumps(goldens, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


byte_level()
