"""Writes what PyTorch makes of heads for classes over the tiny checkpoints of t5.py and
bart.py: the head's start, logits, losses and every gradient. For classes of sequences
the decoder reads the input once more, shifted by its start token, and the head what it
makes of the input's end. Classes of tokens are told apart without a decoder, and have
their squared logits for losses; what stands over the encoder of a BART, of which
transformers has no class, is the same linear layer."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModelForTokenClassification, BartModel
from transformers.modeling_outputs import TokenClassifierOutput

import conditional

GOLDEN = Path(__file__).parent.parent / "golden"


class BartOfTokens(torch.nn.Module):
    """A linear layer over the encoder's last states of a BART."""

    base_model_prefix = "model"

    def __init__(self, config):
        super().__init__()
        whole = BartModel(config)
        self.model = torch.nn.ModuleDict({"shared": whole.shared, "encoder": whole.encoder})
        self.classifier = torch.nn.Linear(config.d_model, config.num_labels)

    from_config = classmethod(lambda kind, config: kind(config))

    def forward(self, **inputs):
        return TokenClassifierOutput(logits=self.classifier(self.model["encoder"](**inputs).last_hidden_state))


LABELS = torch.tensor([3, 0, 4, 1, 1])
CASES = [
    ("t5", "relu", "classification", AutoModelForSequenceClassification),
    ("bart", "checkpoint", "classification", AutoModelForSequenceClassification),
    ("t5", "gated", "tokens", AutoModelForTokenClassification),
    ("bart", "checkpoint", "tokens", BartOfTokens),
]


def write(family, checkpoint, case, kind):
    """One case: the body of the checkpoint under a new head."""
    folder = GOLDEN / family / checkpoint
    config = AutoConfig.from_pretrained(folder, num_labels=5)
    model = kind.from_config(config).eval()
    conditional.randomise(model, 8, 0.15)
    prefix = f"{model.base_model_prefix}."
    stored = load_file(folder / "model.safetensors")
    body = {prefix + name.removeprefix(prefix): tensor for name, tensor in stored.items()}
    model.load_state_dict({name: tensor for name, tensor in body.items() if name in model.state_dict()}, strict=False)
    _, _, ids, mask, _ = conditional.batch(config)
    logits = model(input_ids=ids, attention_mask=mask).logits
    if case == "tokens":
        logits = logits[mask == 1]
        losses = logits.square()
    else:
        losses = torch.nn.functional.cross_entropy(logits, LABELS, reduction="none")
    losses.mean().backward()
    head = {name: parameter for name, parameter in model.named_parameters() if name not in body}
    assert all(name.startswith("classif") for name in head), list(head)
    found = {"logits": logits, "losses": losses, **head, **conditional.gradients(model)}
    conditional.save(GOLDEN / family / f"{case}.safetensors", found)


def main():
    torch.set_num_threads(1)
    for case in CASES:
        write(*case)


if __name__ == "__main__":
    main()
