"""Writes a tiny RoBERTa, and what PyTorch makes of it; see bert.py. Prints the
parameters of the published sizes, for counts in tests."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers import RobertaConfig, RobertaForMaskedLM, RobertaForSequenceClassification

import bert

bert.OUT = Path(__file__).parent.parent / "golden" / "roberta"
CONFIG = RobertaConfig(
    vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
    max_position_embeddings=42, type_vocab_size=1, hidden_act="gelu", hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0, num_labels=5, pad_token_id=1, layer_norm_eps=1e-5,
)


def padded(ids, mask):
    """The batch of bert.py with RoBERTa's padding."""
    return torch.where(mask == 1, ids, torch.full_like(ids, CONFIG.pad_token_id))


def masked(state, ids, mask, rows):
    """The masked language model with the tied decoder, at chosen tokens."""
    model = RobertaForMaskedLM(CONFIG).eval()
    bert.randomise(model, 3)
    model.load_state_dict({name: tensor for name, tensor in state.items() if name.startswith("roberta.")}, strict=False)
    model.tie_weights()
    chosen, targets = bert.chosen(rows, ids)
    logits = model(input_ids=ids, attention_mask=mask).logits[chosen]
    losses = torch.nn.functional.cross_entropy(logits, targets[chosen], reduction="none")
    losses.mean().backward()
    heads = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("lm_head.") and "decoder" not in name}
    bert.save("masked", {"logits": logits, "losses": losses, **heads, **bert.gradients(model, "gradient.")})


def main():
    bert.OUT.mkdir(parents=True, exist_ok=True)
    model = RobertaForSequenceClassification(CONFIG).eval()
    bert.randomise(model, 2)
    folder = bert.OUT / "checkpoint"
    folder.mkdir(exist_ok=True)
    CONFIG.save_pretrained(folder)
    state = {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items() if "position_ids" not in name}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    pickled = bert.OUT / "pickled"
    pickled.mkdir(exist_ok=True)
    CONFIG.save_pretrained(pickled)
    torch.save(model.state_dict(), pickled / "pytorch_model.bin")
    rows, ids, mask, labels = bert.batch()
    ids = padded(ids, mask)
    bert.classification(model, ids, mask, labels)
    masked(state, ids, mask, rows)
    for family, vocabulary in [("roberta", 50265), ("xlm-roberta", 250002), ("camembert", 32005)]:
        config = AutoConfig.for_model(family, vocab_size=vocabulary, max_position_embeddings=514, type_vocab_size=1, num_labels=2)
        with torch.device("meta"):
            counted = AutoModelForSequenceClassification.from_config(config)
        print(family, sum(parameter.numel() for parameter in counted.parameters()), next(iter(counted.state_dict())))


if __name__ == "__main__":
    main()
