"""Writes a tiny BERT, and what PyTorch makes of it: logits, losses, gradients.

The model is a BertForSequenceClassification of transformers with weights large
enough that no gradient is tiny, in float32 with dropout off. Written are the
checkpoint in the hub's layout, the same one as older files have it (no prefix,
gamma and beta, float16), and one safetensors file of expected values a case.
"""

import json
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification
from transformers import get_linear_schedule_with_warmup

OUT = Path(__file__).parent.parent / "golden" / "bert"
CONFIG = BertConfig(
    vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
    max_position_embeddings=40, type_vocab_size=2, hidden_act="gelu", hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0, num_labels=5,
)
LENGTHS = [5, 12, 3, 38, 9]
VIRTUAL = 2


def randomise(model, seed):
    """Weights from N(0, 0.15), norms near one, biases that are not zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.15
            parameter.copy_(noise + 1.0 if name.endswith("LayerNorm.weight") else noise)


def batch():
    """Sequences of several lengths, padded; labels; chosen tokens for masking."""
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(5, CONFIG.vocab_size, (length,), generator=generator) for length in LENGTHS]
    for row in rows:
        row[0], row[-1] = 2, 3
    labels = torch.randint(0, CONFIG.num_labels, (len(rows),), generator=generator)
    longest = max(LENGTHS)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
        mask[place, : len(row)] = 1
    return rows, ids, mask, labels


def gradients(model, prefix=""):
    """Gradients of everything that trains."""
    return {prefix + name: parameter.grad.clone().contiguous() for name, parameter in model.named_parameters() if parameter.requires_grad}


def save(name, tensors):
    save_file({key: value.detach().clone().contiguous() for key, value in tensors.items()}, OUT / f"{name}.safetensors")


def write_checkpoint(model):
    folder = OUT / "checkpoint"
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    state = {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items() if "position_ids" not in name}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [f"word{number}" for number in range(5, CONFIG.vocab_size)]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    older = OUT / "older"
    older.mkdir(exist_ok=True)
    model.config.save_pretrained(older)
    (older / "vocab.txt").write_text("\n".join(words) + "\n")
    renamed = {}
    for name, tensor in state.items():
        name = name.removeprefix("bert.").replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        renamed[name] = tensor.to(torch.float16)
    save_file(renamed, older / "model.safetensors", metadata={"format": "pt"})


def classification(model, ids, mask, labels):
    """Full fine-tuning: logits, losses and every gradient."""
    model.zero_grad()
    logits = model(input_ids=ids, attention_mask=mask).logits
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    losses.mean().backward()
    save("classification", {"logits": logits, "losses": losses, **gradients(model, "gradient.")})


def chosen(rows, ids):
    """Which tokens a masked language model should say, and what."""
    places = torch.zeros_like(ids, dtype=torch.bool)
    for place, row in enumerate(rows):
        places[place, 1 : len(row) - 1 : 3] = True
    return places, (ids * 7 + 5) % CONFIG.vocab_size


def masked(state, ids, mask, rows):
    """The masked language model with the tied decoder, at chosen tokens."""
    model = BertForMaskedLM(CONFIG).eval()
    randomise(model, 3)
    model.load_state_dict({name: tensor for name, tensor in state.items() if name.startswith("bert.") and "pooler" not in name}, strict=False)
    model.tie_weights()
    places, targets = chosen(rows, ids)
    logits = model(input_ids=ids, attention_mask=mask).logits[places]
    losses = torch.nn.functional.cross_entropy(logits, targets[places], reduction="none")
    losses.mean().backward()
    heads = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("cls.") and "decoder" not in name}
    save("masked", {"logits": logits, "losses": losses, **heads, **gradients(model, "gradient.")})


def prompt(model, ids, mask, labels):
    """Virtual tokens before the input; the head reads the first real one."""
    generator = torch.Generator().manual_seed(4)
    virtual = torch.nn.Parameter(torch.randn(VIRTUAL, CONFIG.hidden_size, generator=generator) * 0.15)
    model.zero_grad()
    words = model.bert.embeddings.word_embeddings(ids)
    inputs = torch.cat([virtual.expand(len(ids), -1, -1), words], dim=1)
    padded = torch.cat([torch.ones(len(ids), VIRTUAL, dtype=torch.long), mask], dim=1)
    hidden = model.bert(inputs_embeds=inputs, attention_mask=padded).last_hidden_state
    pooled = torch.tanh(model.bert.pooler.dense(hidden[:, VIRTUAL]))
    logits = model.classifier(pooled)
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    losses.mean().backward()
    heads = {f"gradient.{name}": parameter.grad for name, parameter in model.named_parameters() if name.startswith("classifier")}
    save("prompt", {"logits": logits, "losses": losses, "prompt_embeddings": virtual, "gradient.prompt_embeddings": virtual.grad, **heads})


def lora(state, ids, mask, labels):
    """peft's LoRA with both factors random, bias lora_only."""
    base = BertForSequenceClassification(CONFIG).eval()
    base.load_state_dict(state)
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=6, target_modules=["query", "value"], bias="lora_only", modules_to_save=["classifier"])).eval()
    generator = torch.Generator().manual_seed(5)
    factors = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
    logits = model(input_ids=ids, attention_mask=mask).logits
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    losses.mean().backward()
    short = lambda name: name.removeprefix("base_model.model.").replace(".default", "").replace(".base_layer", "").replace("modules_to_save.", "")
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            factors[short(name).removesuffix(".weight")] = parameter
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = short(name)
            found["gradient." + (key.removesuffix(".weight") if "lora_" in key else key)] = parameter.grad
    save("lora", {"logits": logits, "losses": losses, **factors, **found})


def curve(state, rows):
    """Fifty AdamW steps of full fine-tuning, after Trainer's conventions."""
    model = BertForSequenceClassification(CONFIG).eval()
    model.load_state_dict(state)
    plain = [parameter for name, parameter in model.named_parameters() if name.endswith("bias") or "LayerNorm" in name]
    decayed = [parameter for name, parameter in model.named_parameters() if not (name.endswith("bias") or "LayerNorm" in name)]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}], lr=1e-3)
    schedule = get_linear_schedule_with_warmup(optimizer, 5, 50)
    _, ids, mask, labels = batch()
    losses, rates, norms = [], [], []
    for step in range(50):
        chosen = [(step + offset) % len(rows) for offset in range(3)]
        loss = model(input_ids=ids[chosen], attention_mask=mask[chosen], labels=labels[chosen]).loss
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    (OUT / "curve.json").write_text(json.dumps({"losses": losses, "rates": rates, "norms": norms}))


def main():
    torch.manual_seed(0)
    OUT.mkdir(parents=True, exist_ok=True)
    model = BertForSequenceClassification(CONFIG).eval()
    randomise(model, 2)
    write_checkpoint(model)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rows, ids, mask, labels = batch()
    (OUT / "batch.json").write_text(json.dumps({"ids": [row.tolist() for row in rows], "labels": labels.tolist()}))
    classification(model, ids, mask, labels)
    masked(state, ids, mask, rows)
    prompt(model, ids, mask, labels)
    lora(state, ids, mask, labels)
    curve(state, rows)


if __name__ == "__main__":
    main()
