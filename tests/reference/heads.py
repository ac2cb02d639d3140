"""Writes what PyTorch makes of token classification and multiple choice over the
tiny checkpoints of bert.py, electra.py, roberta.py and deberta.py: logits, losses, and
the gradients of all biases and of what is new in the head. The losses of tokens are
their squared logits; those of choices the cross-entropy of two questions with
three choices each."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForMultipleChoice, AutoModelForTokenClassification

import bert

GOLDEN = Path(__file__).parent.parent / "golden"
FAMILIES = ["bert", "electra", "roberta", "deberta"]
# The sequences that are the choices of each question, and the right ones.
PIECES, ANSWERS = torch.tensor([[0, 1, 2], [3, 4, 0]]), [1, 2]
CASES = {"tokens": AutoModelForTokenClassification, "choice": AutoModelForMultipleChoice}


def write(family, case, ids, mask):
    """One case: the body of the checkpoint under a new head."""
    bert.OUT = GOLDEN / family
    folder = bert.OUT / "checkpoint"
    config = AutoConfig.from_pretrained(folder)
    ids = torch.where(mask == 1, ids, torch.full_like(ids, config.pad_token_id))
    model = CASES[case].from_config(config).eval()
    bert.randomise(model, 6)
    stored = load_file(folder / "model.safetensors")
    body = {name: tensor for name, tensor in stored.items() if name.startswith(model.base_model_prefix + ".")}
    model.load_state_dict({name: tensor for name, tensor in body.items() if name in model.state_dict()}, strict=False)
    new = {name: parameter for name, parameter in model.named_parameters() if name not in body}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith("bias") or name in new)
    if case == "choice":
        logits = model(input_ids=ids[PIECES], attention_mask=mask[PIECES]).logits
        losses = torch.nn.functional.cross_entropy(logits, torch.tensor(ANSWERS), reduction="none")
    else:
        logits = model(input_ids=ids, attention_mask=mask).logits[mask == 1]
        losses = logits.square()
    losses.mean().backward()
    bert.save(case, {"logits": logits, "losses": losses, **new, **bert.gradients(model, "gradient.")})


def main():
    _, ids, mask, _ = bert.batch()
    for family in FAMILIES:
        for case in CASES:
            write(family, case, ids, mask)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
