"""Writes a tiny ELECTRA whose embeddings are smaller than its hidden states, and
what PyTorch makes of it; see bert.py."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import ElectraConfig, ElectraForMaskedLM, ElectraForSequenceClassification

import bert

bert.OUT = Path(__file__).parent.parent / "golden" / "electra"
CONFIG = ElectraConfig(
    vocab_size=96, embedding_size=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
    intermediate_size=48, max_position_embeddings=40, type_vocab_size=2, hidden_act="gelu",
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=5,
)


def masked(state, ids, mask, rows):
    """The generator's head with the tied decoder, at chosen tokens."""
    model = ElectraForMaskedLM(CONFIG).eval()
    bert.randomise(model, 3)
    model.load_state_dict({name: tensor for name, tensor in state.items() if name.startswith("electra.")}, strict=False)
    model.tie_weights()
    chosen, targets = bert.chosen(rows, ids)
    logits = model(input_ids=ids, attention_mask=mask).logits[chosen]
    losses = torch.nn.functional.cross_entropy(logits, targets[chosen], reduction="none")
    losses.mean().backward()
    heads = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("generator_") and name != "generator_lm_head.weight"}
    bert.save("masked", {"logits": logits, "losses": losses, **heads, **bert.gradients(model, "gradient.")})


def main():
    bert.OUT.mkdir(parents=True, exist_ok=True)
    model = ElectraForSequenceClassification(CONFIG).eval()
    bert.randomise(model, 2)
    folder = bert.OUT / "checkpoint"
    folder.mkdir(exist_ok=True)
    CONFIG.save_pretrained(folder)
    state = {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items() if "position_ids" not in name}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    rows, ids, mask, labels = bert.batch()
    (bert.OUT / "batch.json").write_text(json.dumps({"ids": [row.tolist() for row in rows], "labels": labels.tolist()}))
    bert.classification(model, ids, mask, labels)
    masked(state, ids, mask, rows)


if __name__ == "__main__":
    main()
