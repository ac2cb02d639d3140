"""Writes tests/golden/tokenizer_sentencepiece: small SentencePiece models, and the
ids that transformers' converters make their fast tokenizers give for texts, and the texts
that they make of those again.

    python tests/reference/sentencepiece_models.py

Needs sentencepiece and transformers. Where a text holds no special token, the ids
are held here against SentencePiece's own.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import sentencepiece
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast, convert_slow_tokenizer
from transformers.tokenization_utils_base import generate_merges

OUT = Path(__file__).parent.parent / "golden" / "tokenizer_sentencepiece"

SENTENCES = [
    "The film is not good, but it is not bad either.",
    "A café in Ljubljana: čevapčiči, žganci in štruklji.",
    "Življenje je lepo, če ga živiš počasi.",
    "Šolarji so šli čez cesto, učitelj pa je čakal.",
    "Naïve résumé, über straße, łódź, ďakujem, čeština.",
    "Can you tell me whether the answer is true or false?",
    "Is the Slovene translation of the question the same as the English one?",
    "&quot;Yes&quot;, he said, &amp; left.",
    "1 2 3 4 5 6 7 8 9 0 1998 2024",
    "Dober dan, kako ste? Hvala, dobro sem.",
    "Ali je voda mokra? Da, voda je mokra.",
    "The question was whether they knew what they were doing.",
]

TEXTS = [
    "The film is not good, but not bad!",
    "Življenje   v\tLjubljani\r\nje lepo. ",
    "  čeština, žluťoučký kůň; Đorđe, ćevapi",
    "café naïve résumé ﬁne ½ ①②③ ｆｕｌｌ",
    "cafe\u0301 c\u030ce\u0301",
    "日本語 is 123",
    "zero\u0000width\u200bjoin \ufffd soft\u00adhyphen",
    "&quot;it&#39;s&quot; &amp; the film",
    "x" * 150 + " " + "čšž" * 40,
    "",
    "   ",
    "the 🎬 film 👩\u200d👩\u200d👧 🇸🇮",
    "▁the▁film",
]

SPECIAL = ["before {mask} after", "a {end} b", "{start} the film {end}"]

PAIRS = [
    ("The film is good.", "It is not bad!"),
    ("Ali je voda mokra, če dežuje?", "Da."),
    ("the film", "the film is not good , not bad , not a film"),
]

LIMITS = [512, 9, 6]


def train(name, **options):
    """A model over the sentences, and its bytes."""
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{name}.model"
    with open(path, "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(SENTENCES * 4), model_writer=file, character_coverage=1.0, minloglevel=2,
            hard_vocab_limit=False, **options,
        )
    return path


class Pairs:
    """What the converters ask an extractor for, where the model is one of pairs."""

    def __init__(self, _):
        pass

    def extract(self, scores):
        vocabulary = {piece: place for place, (piece, _) in enumerate(scores)}
        return vocabulary, generate_merges(vocabulary, scores)


def fast(layout, path, options):
    """transformers' fast tokenizer, made by the family's converter."""
    roles, base = LAYOUTS[layout]
    converter = getattr(convert_slow_tokenizer, base)
    names = {**roles, **{key: value for key, value in options.items() if key.endswith("_token")}}
    slow = SimpleNamespace(vocab_file=str(path), do_lower_case=options.get("do_lower_case", False), split_by_punct=options.get("split_by_punct", False), add_prefix_space=options.get("add_prefix_space", True), legacy=options.get("legacy", True), _extra_ids=options.get("extra_ids", 100))
    made = converter(slow)
    made.SpmExtractor = Pairs
    pieces = {piece: place for place, (piece, _) in enumerate(made.vocab(made.proto))}
    for name in names.values():
        pieces.setdefault(name, len(pieces))
    slow.convert_tokens_to_ids = pieces.get
    mask = names.get("mask_token")
    if mask and layout != "deberta":
        names["mask_token"] = AddedToken(mask, lstrip=True, special=True)
    extra = [f"<extra_id_{number}>" for number in range(slow._extra_ids)] if layout == "t5" else []
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made.converted(), **names, additional_special_tokens=extra, extra_special_tokens=extra)
    return tokenizer, made


FAIRSEQ = {"cls_token": "<s>", "sep_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>"}
LAYOUTS = {
    "deberta": ({"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]", "mask_token": "[MASK]"}, "DebertaV2Converter"),
    "xlm_roberta": (FAIRSEQ, "XLMRobertaConverter"),
    "camembert": (FAIRSEQ, "CamembertConverter"),
    "t5": ({"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}, "T5Converter"),
}


def cases(tokenizer, layout):
    names = LAYOUTS[layout][0]
    end = names.get("sep_token") or names["eos_token"]
    special = [text.format(mask=names.get("mask_token", "<extra_id_0>"), end=end, start=names.get("cls_token", "<extra_id_1>")) for text in SPECIAL]
    found = []
    for segments in [(text,) for text in TEXTS + special] + PAIRS:
        for at_most in LIMITS:
            encoding = tokenizer(*segments, truncation="longest_first", max_length=at_most, return_special_tokens_mask=True, return_token_type_ids=True)
            uncut = tokenizer(*segments, truncation=False, verbose=False)["input_ids"]
            found.append({"segments": segments, "at_most": at_most, "ids": encoding["input_ids"], "token_types": encoding["token_type_ids"], "special": encoding["special_tokens_mask"], "cut": len(uncut) > at_most, "text": tokenizer.decode(encoding["input_ids"], skip_special_tokens=True, clean_up_tokenization_spaces=False)})
    return found


def agree(tokenizer, path, layout):
    """How many texts SentencePiece itself cuts into the same pieces."""
    own = sentencepiece.SentencePieceProcessor(model_file=str(path))
    same = 0
    for text in TEXTS:
        pieces = [piece if own.piece_to_id(piece) != own.unk_id() else "?" for piece in own.encode(text, out_type=str)]
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        theirs = ["?" if number == tokenizer.unk_token_id else tokenizer.convert_ids_to_tokens(number) for number in ids]
        same += pieces == theirs
        if pieces != theirs:
            print(layout, path.name, repr(text[:40]), pieces[:12], theirs[:12])
    return same


def write(name, layout, path, **options):
    tokenizer, _ = fast(layout, path, options)
    print(name, agree(tokenizer, path, layout), "of", len(TEXTS), "as SentencePiece cuts them")
    golden = {"layout": layout, "model": path.name, "options": options, "size": len(tokenizer), "cases": cases(tokenizer, layout)}
    (OUT / f"{name}.json").write_text(json.dumps(golden, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def main():
    deberta = train("deberta", vocab_size=160, model_type="unigram", pad_id=0, bos_id=1, eos_id=2, unk_id=3, pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]", unk_piece="[UNK]")
    fairseq = train("fairseq", vocab_size=160, model_type="unigram")
    # Without a table of characters: it is 240 kB, and the two above have it.
    plain = {"vocab_size": 160, "normalization_rule_name": "identity"}
    pairs = train("pairs", **plain, model_type="bpe")
    t5 = train("t5", **plain, model_type="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1, user_defined_symbols=["<x>"])
    write("deberta", "deberta", deberta)
    write("deberta_lower", "deberta", deberta, do_lower_case=True, split_by_punct=True)
    write("xlm_roberta", "xlm_roberta", fairseq)
    write("camembert", "camembert", fairseq)
    write("camembert_pairs", "camembert", pairs)
    write("t5", "t5", t5)
    write("t5_newer", "t5", t5, legacy=False, extra_ids=2)


if __name__ == "__main__":
    main()
