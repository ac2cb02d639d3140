"""Writes what PyTorch makes of the coreference head over the tiny BERT of bert.py.

The head is that of the task plugin, written here again from the papers: scores
of spans from their starts and ends, pruning, scores of antecedents, and the
marginal log-likelihood of the right ones (Kirstain et al. 2021; Lee et al. 2017),
with a cross-entropy over all spans, gold mentions being 1 (Zhang et al. 2018).
A document of two windows, with its loss, the best antecedents and all gradients.
"""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import BertModel

OUT = Path(__file__).parent.parent / "golden" / "coreference"
CHECKPOINT = OUT.parent / "bert" / "checkpoint"
SIZE, WIDTH, SHARE, MENTION_LOSS = 8, 3, 0.5, 0.5
DISTANCES = [4, 8, 16, 32, 64, 128, 256, 512]
WINDOWS = [15, 11]
# Window and token of each word.
WORDS = [(0, 1), (0, 2), (0, 4), (0, 5), (0, 7), (0, 8), (0, 10), (0, 11), (0, 13), (1, 2), (1, 3), (1, 5), (1, 6), (1, 8), (1, 9)]
SENTENCES = [1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3]
SPEAKERS = [1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 0, 0, 0, 0, 0]
# The document's genre, the second of two.
GENRES, GENRE = 2, 2
# First word, last word, entity.
MENTIONS = [(0, 0, 0), (2, 3, 1), (5, 5, 0), (6, 8, 2), (7, 8, 1), (10, 10, 0), (11, 13, 1), (14, 14, 3)]


def head(hidden, generator):
    """Random parameters of the head, large enough that no gradient is tiny."""
    shapes = {}
    for name in ["mentions.start", "mentions.end", "antecedents.start", "antecedents.end"]:
        shapes |= {f"{name}.weight": (SIZE, hidden), f"{name}.bias": (SIZE,), f"{name}.norm.weight": (SIZE,), f"{name}.norm.bias": (SIZE,)}
    shapes |= {"mentions.pair.weight": (SIZE, SIZE), "mentions.start.score.weight": (SIZE, 1), "mentions.end.score.weight": (SIZE, 1)}
    shapes |= {"antecedents.pair.weight": (2 * SIZE, 2 * SIZE), "antecedents.speaker.weight": (1, 1)}
    shapes |= {"antecedents.distance.weight": (2 * SIZE, len(DISTANCES)), "antecedents.distance.bias": (len(DISTANCES),)}
    shapes |= {"antecedents.genre.weight": (2 * SIZE, GENRES), "antecedents.genre.bias": (GENRES,)}
    parameters = {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}
    return {name: (tensor + 1.0 if name.endswith("norm.weight") else tensor).requires_grad_() for name, tensor in parameters.items()}


def loss(states, p):
    """The loss of a document [words, hidden], with its candidates and their links."""

    def layer(name):
        x = torch.nn.functional.gelu(states @ p[f"{name}.weight"].T + p[f"{name}.bias"])
        x = (x - x.mean(1, keepdim=True)) / (x.std(1, unbiased=False, keepdim=True) + 1e-5)
        return x * p[f"{name}.norm.weight"] + p[f"{name}.norm.bias"]

    words = len(states)
    starts, ends = layer("mentions.start"), layer("mentions.end")
    spans, scores = [], []
    for first in range(words):
        for last in range(first, min(first + WIDTH, words)):
            if SENTENCES[first] == SENTENCES[last]:
                spans.append((first, last))
                pair = starts[first] @ p["mentions.pair.weight"] @ ends[last]
                scores.append(starts[first] @ p["mentions.start.score.weight"][:, 0] + ends[last] @ p["mentions.end.score.weight"][:, 0] + pair)
    scores = torch.stack(scores)
    entity = {(first, last): number for first, last, number in MENTIONS}
    gold = torch.tensor([float(span in entity) for span in spans])
    mention = torch.nn.functional.binary_cross_entropy_with_logits(scores, gold, reduction="sum") / (SHARE * words)
    kept = sorted(scores.topk(math.ceil(SHARE * words)).indices.tolist())
    spans, scores = [spans[place] for place in kept], scores[kept]
    certain = torch.nn.functional.logsigmoid(scores)
    starts, ends = layer("antecedents.start"), layer("antecedents.end")
    vectors = torch.cat([starts[[first for first, _ in spans]], ends[[last for _, last in spans]]], dim=1)
    pairs = vectors @ p["antecedents.pair.weight"] @ vectors.T
    opinions = vectors @ p["antecedents.distance.weight"] + p["antecedents.distance.bias"]
    of_genre = vectors @ p["antecedents.genre.weight"] + p["antecedents.genre.bias"]
    losses, antecedents, best = [], [], []
    for i, (first, last) in enumerate(spans):
        row, right = [torch.zeros(())], []
        for j in range(i):
            score = pairs[i, j] + certain[i] + certain[j] + of_genre[i, GENRE - 1]
            for step, distance in enumerate(DISTANCES):
                if first - spans[j][0] >= distance:
                    score = score + opinions[i, step]
            if SPEAKERS[first] > 0 and SPEAKERS[first] == SPEAKERS[spans[j][0]]:
                score = score + p["antecedents.speaker.weight"][0, 0]
            if (first, last) in entity and entity.get(spans[j]) == entity[(first, last)]:
                right.append(j + 1)
            row.append(score)
        row = torch.stack(row)
        losses.append(torch.logsumexp(row, 0) - torch.logsumexp(row[right or [0]], 0))
        antecedents.append(int(row[1:].argmax()) if i else 0)
        best.append(row[1:].max().item() if i else None)
    links = {"places": [first * WIDTH + last - first for first, last in spans], "antecedents": antecedents, "scores": best}
    return torch.stack(losses).mean() + MENTION_LOSS * mention, links


def main():
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(8)
    model = BertModel.from_pretrained(CHECKPOINT, add_pooling_layer=False).eval()
    windows = [torch.randint(5, model.config.vocab_size, (length,), generator=generator) for length in WINDOWS]
    states = [model(input_ids=ids[None]).last_hidden_state[0] for ids in windows]
    parameters = head(model.config.hidden_size, generator)
    value, links = loss(torch.stack([states[window][token] for window, token in WORDS]), parameters)
    value.backward()
    gradients = {f"gradient.bert.{name}": parameter.grad for name, parameter in model.named_parameters()}
    gradients |= {f"gradient.{name}": parameter.grad for name, parameter in parameters.items()}
    OUT.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in {**parameters, **gradients}.items()}
    save_file(tensors, OUT / "head.safetensors")
    document = {
        "windows": [ids.tolist() for ids in windows], "words": WORDS, "sentence": SENTENCES, "speaker": SPEAKERS, "genre": [GENRE] * len(WORDS),
        "mentions": MENTIONS, "loss": value.item(), **links,
    }
    (OUT / "document.json").write_text(json.dumps(document))


if __name__ == "__main__":
    main()
