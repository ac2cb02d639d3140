"""Writes what PyTorch makes of token classification and multiple choice over the
tiny checkpoints of bert.py, electra.py, roberta.py and deberta.py: logits, losses, and
the gradients of all biases and of what is new in the head. The losses of tokens are
their squared logits; those of choices the cross-entropy of two questions with
three choices each. And what peft's LoRA makes of their masked language models at the
queries and at the linears of the head, the decoder among them that is tied to the word
embeddings: logits, losses, the head, the factors, and all gradients."""

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForMultipleChoice, AutoModelForTokenClassification

import bert

GOLDEN = Path(__file__).parent.parent / "golden"
FAMILIES = ["bert", "electra", "roberta", "deberta"]
# The sequences that are the choices of each question, and the right ones.
PIECES, ANSWERS = torch.tensor([[0, 1, 2], [3, 4, 0]]), [1, 2]
CASES = {"tokens": AutoModelForTokenClassification, "choice": AutoModelForMultipleChoice}

# What LoRA changes of a masked language model.
UPDATED = {
    "bert": ["query", "cls.predictions.transform.dense", "cls.predictions.decoder"],
    "electra": ["query", "generator_predictions.dense", "generator_lm_head"],
    "roberta": ["query", "lm_head.dense", "lm_head.decoder"],
    "deberta": ["query_proj", "cls.predictions.transform.dense", "cls.predictions.decoder"],
    "deberta_own": ["query_proj", "lm_predictions.lm_head.dense"],
}


def load(family, kind, ids, mask):
    """The body of the checkpoint under a new head; the ids padded as the family does; the
    tensors of the body."""
    bert.OUT = GOLDEN / family
    folder = bert.OUT / "checkpoint"
    config = AutoConfig.from_pretrained(folder)
    ids = torch.where(mask == 1, ids, torch.full_like(ids, config.pad_token_id))
    model = kind.from_config(config).eval()
    bert.randomise(model, 6)
    stored = load_file(folder / "model.safetensors")
    body = {name: tensor for name, tensor in stored.items() if name.startswith(model.base_model_prefix + ".")}
    model.load_state_dict({name: tensor for name, tensor in body.items() if name in model.state_dict()}, strict=False)
    return model, ids, body


def write(family, case, ids, mask):
    """One case: logits, losses and gradients of a head."""
    model, ids, body = load(family, CASES[case], ids, mask)
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


def updated(family, rows, ids, mask):
    """peft's LoRA, both factors random, bias lora_only, at chosen tokens."""
    model, padded, _ = load(family, AutoModelForMaskedLM, ids, mask)
    model.tie_weights()
    head = {name: parameter for name, parameter in model.named_parameters() if not name.startswith(model.base_model_prefix + ".")}
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=6, target_modules=UPDATED[family], bias="lora_only")).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
    chosen, targets = bert.chosen(rows, ids)
    logits = adapted(input_ids=padded, attention_mask=mask).logits[chosen]
    losses = torch.nn.functional.cross_entropy(logits, targets[chosen], reduction="none")
    losses.mean().backward()
    factors, found = {}, {}
    for name, parameter in adapted.named_parameters():
        short = name.removeprefix("base_model.model.").replace(".base_layer", "").replace(".default.weight", "")
        if "lora_" in name:
            factors[short] = parameter
        if parameter.requires_grad:
            found[f"gradient.{short}"] = parameter.grad
    bert.save("lora_masked", {"logits": logits, "losses": losses, **head, **factors, **found})


def main():
    rows, ids, mask, _ = bert.batch()
    for family in FAMILIES:
        for case in CASES:
            write(family, case, ids, mask)
    for family in UPDATED:
        updated(family, rows, ids, mask)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
