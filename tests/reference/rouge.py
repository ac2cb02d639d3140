"""Writes scores of rouge-score for generated texts, and stems of its stemmer."""

import json
import random
from pathlib import Path

from nltk.stem.porter import PorterStemmer
from rouge_score.rouge_scorer import RougeScorer

OUT = Path(__file__).parent.parent / "golden" / "rouge.json"
TYPES = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
STEMS = """
    activ adopt agre allow analog angular bowdler caress cat ceas commun conflat controll defens depend di dif
    dy effect electric enjo fail fall file fizz fl form formal general good gyroscop happ hesit hiss homolog hop
    hopp infer l log motor oper pl plaster pon predic prob rat ration rel replac reviv roll s sens sh siz sk sp
    spr stud t tan tr tri troubl triplic valu vietnam vil w writ yy yaw 3d 1990 toy syzyg theo geo archae full
""".split()
SUFFIXES = """
    | s | es | ies | sses | ss | ied | eed | ed | ing | y | ly | e | al | ally | alli | ational | tional | enci
    | ancy | izer | bly | ably | ently | ely | ously | ization | ation | ator | alism | iveness | fulness
    | ousness | ality | ivity | bility | fully | logy | logi | icate | ative | alize | icity | ical | ful | ness
    | ance | ence | er | ic | able | ible | ant | ement | ment | ent | ion | sion | tion | ou | ism | ate | iti
    | ous | ive | ize | ll | le | ating | bled | izing | ys | yed | ying
""".split("|")
IRREGULAR = "sky skies dying lying tying news innings outing cannings howe proceed exceed succeed succeeds"
MARKS = [" ", " ", " ", ", ", ". ", "-", "'s ", ".\n", "\n\n", " – ", " £", "İ", "K"]


def text(generator, words):
    """Words with marks between them; sometimes nothing at all."""
    count = generator.choice([0, 1, 3, 8, 20, 40])
    parts = []
    for _ in range(count):
        word = generator.choice(words)
        parts.append(word.capitalize() if generator.random() < 0.2 else word)
        parts.append(generator.choice(MARKS))
    return "".join(parts)


def main():
    generator = random.Random(11)
    endings = [ending.strip() for ending in SUFFIXES]
    words = sorted({stem + generator.choice(endings) for stem in STEMS for _ in range(25)} | set(IRREGULAR.split()))
    stemmer = PorterStemmer()
    scorers = {"nostem": RougeScorer(TYPES), "stem": RougeScorer(TYPES, use_stemmer=True)}
    cases = []
    for number in range(80):
        few = generator.sample(words, 6 + number % 20)
        case = {"target": text(generator, few), "prediction": text(generator, few)}
        for key, scorer in scorers.items():
            scores = scorer.score(case["target"], case["prediction"])
            case[key] = {
                name: [round(value, 9) for value in (score.recall, score.precision, score.fmeasure)]
                for name, score in scores.items()
            }
        cases.append(case)
    golden = {"stems": {word: stemmer.stem(word) for word in words}, "cases": cases}
    OUT.write_text(json.dumps(golden, ensure_ascii=False))


if __name__ == "__main__":
    main()
