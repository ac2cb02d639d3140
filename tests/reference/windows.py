"""Writes tests/golden/windows.json: pairs of texts cut, or read in overlapping
windows, by transformers' tokenizer of the tiny BERT that bert.py writes."""

import json
from pathlib import Path

from transformers import BertTokenizerFast

GOLDEN = Path(__file__).parent.parent / "golden"


def words(first, count):
    return " ".join(f"word{5 + (first + number) % 90}" for number in range(count))


def main():
    vocabulary = GOLDEN / "bert" / "checkpoint" / "vocab.txt"
    pieces = {piece: number for number, piece in enumerate(vocabulary.read_text().split())}
    cases = []
    for question, passage, limit, stride, side in [
        (3, 40, 16, 4, "right"), (3, 40, 16, 0, "right"), (5, 7, 16, 4, "right"), (1, 23, 12, 7, "right"),
        (3, 8, 14, 3, "right"), (3, 9, 14, 3, "right"), (2, 30, 11, None, "right"), (2, 30, 11, None, "left"),
    ]:
        tokenizer = BertTokenizerFast(vocab=pieces, truncation_side=side)
        texts = [words(question, question), words(7 * passage, passage)]
        more = {"return_overflowing_tokens": True, "stride": stride} if stride is not None else {}
        found = tokenizer(*texts, truncation="only_second", max_length=limit, **more)
        ids, types = found["input_ids"], found["token_type_ids"]
        if stride is None:
            ids, types = [ids], [types]
        cases.append({"texts": texts, "limit": limit, "stride": stride, "side": side, "ids": ids, "types": types})
    (GOLDEN / "windows.json").write_text(json.dumps(cases) + "\n")


if __name__ == "__main__":
    main()
