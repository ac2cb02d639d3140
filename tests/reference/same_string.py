"""Links spans of a CoNLL-2012 file that have the same words, in any case, as a trivial
baseline: writes the file with those links, for `host score`.

    same_string.py {any,nouns,gold} FILE > response.conll

any: all spans of at most 12 words within a sentence; nouns: noun phrases and personal
pronouns by the tags of the fifth column (Penn Treebank); gold: the file's mentions.
"""

import re
import sys
from collections import defaultdict

WIDTH = 12


def documents(path):
    """Lines of each document, with the columns of its words and the sentence of each."""
    for text in re.split(r"(?=^#begin document)", open(path).read(), flags=re.M)[1:]:
        lines = text.splitlines()
        words, sentences, sentence = [], [], 0
        for line in lines:
            if not line.strip():
                sentence += 1
            elif not line.startswith("#"):
                words.append(line.split("\t") if "\t" in line else line.split())
                sentences.append(sentence)
        yield lines[0], words, sentences


def any_spans(words, sentences):
    for first in range(len(words)):
        for last in range(first, min(first + WIDTH, len(words))):
            if sentences[first] == sentences[last]:
                yield first, last


def noun_phrases(words, sentences):
    first = 0
    while first < len(words):
        if words[first][4] in ("PRP", "PRP$"):
            yield first, first
            first += 1
            continue
        last, place = None, first
        while place < len(words) and sentences[place] == sentences[first]:
            tag = words[place][4]
            if not (re.match(r"NN|CD|JJ|POS$", tag) or (place == first and tag == "DT")):
                break
            last = place if tag.startswith("NN") else last
            place += 1
        if last is not None:
            yield first, last
        first = first + 1 if last is None else last + 1


def gold_mentions(words, _):
    begun = defaultdict(list)
    for place, columns in enumerate(words):
        for opens, entity, closes in re.findall(r"(\()?(\d+)(\))?", columns[-1]):
            if opens:
                begun[entity].append(place)
            if closes:
                yield begun[entity].pop(), place


def main():
    kind, path = sys.argv[1:]
    spans = {"any": any_spans, "nouns": noun_phrases, "gold": gold_mentions}[kind]
    for begin, words, sentences in documents(path):
        same = defaultdict(list)
        for first, last in spans(words, sentences):
            same[" ".join(columns[3] for columns in words[first : last + 1]).lower()].append((first, last))
        cells = [[[], [], []] for _ in words]
        for number, linked in enumerate(mentions for mentions in same.values() if len(mentions) > 1):
            for first, last in linked:
                if first == last:
                    cells[first][1].append(f"({number})")
                else:
                    cells[first][0].append((last, f"({number}"))
                    cells[last][2].append((first, f"{number})"))
        print(begin)
        for place, (columns, (opened, single, closed)) in enumerate(zip(words, cells)):
            if place and sentences[place] != sentences[place - 1]:
                print()
            brackets = [text for _, text in sorted(opened, reverse=True)] + single
            brackets += [text for _, text in sorted(closed, reverse=True)]
            print("\t".join([*columns[:-1], "|".join(brackets) or "-"]))
        print("#end document")


if __name__ == "__main__":
    main()
