"""What the scripts for models with a decoder share: a batch of sources and targets,
logits, losses and gradients of it, and generated sequences.
"""

import json

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

VOCABULARY = 96
MASK = 4
SOURCES = [5, 12, 3, 27, 9]
TARGETS = [4, 1, 11, 6, 19]


def randomise(model, seed, deviation=0.3):
    """Weights from N(0, deviation), norms near one, biases that are not zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * deviation
            is_norm = name.endswith("norm.weight") or name.endswith("layernorm_embedding.weight")
            parameter.copy_(noise + 1.0 if is_norm else noise)


def rows(lengths, seed, end):
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(5, VOCABULARY, (length,), generator=generator) for length in lengths]
    for row in rows:
        row[-1] = end
    return rows


def padded(rows, padding):
    longest = max(len(row) for row in rows)
    out = torch.full((len(rows), longest), padding, dtype=torch.long)
    for place, row in enumerate(rows):
        out[place, : len(row)] = row
    return out


def batch(config):
    """Sources, their mask, and labels with -100 behind each target's end."""
    sources, targets = rows(SOURCES, 1, config.eos_token_id), rows(TARGETS, 2, config.eos_token_id)
    ids = padded(sources, config.pad_token_id)
    mask = padded([torch.ones_like(row) for row in sources], 0)
    return sources, targets, ids, mask, padded(targets, -100)


def masked(config):
    """Sources of which two tokens of three are masked but the first and the last, their
    mask, and labels that are -100 at the others."""
    sources = rows(SOURCES, 1, config.eos_token_id)
    labels = [torch.full_like(row, -100) for row in sources]
    for source, label in zip(sources, labels):
        for at in range(1, len(source) - 1):
            if at % 3:
                label[at] = (source[at] * 7 + 5) % VOCABULARY
                source[at] = MASK
    mask = padded([torch.ones_like(row) for row in sources], 0)
    return padded(sources, config.pad_token_id), mask, padded(labels, -100)


def write_batch(out, sources, targets):
    content = {"sources": [row.tolist() for row in sources], "targets": [row.tolist() for row in targets]}
    (out / "batch.json").write_text(json.dumps(content))


def write_checkpoint(folder, model, names, **changes):
    """The checkpoint in the hub's layout: tensors of those names, and config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    path = folder / "config.json"
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps(content, indent=2) + "\n")
    state = {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items() if names(name)}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def save(path, tensors):
    save_file({key: value.detach().clone().contiguous() for key, value in tensors.items()}, path)


def evaluate(model, ids, mask, labels):
    """Logits and losses of the target tokens, one example after another; the mean
    loss is propagated."""
    model.zero_grad()
    output = model(input_ids=ids, attention_mask=mask, labels=labels)
    chosen = labels != -100
    logits = output.logits[chosen]
    losses = torch.nn.functional.cross_entropy(logits, labels[chosen], reduction="none")
    assert torch.allclose(losses.mean(), output.loss)
    losses.mean().backward()
    return {"logits": logits, "losses": losses}


def gradients(model):
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return {f"gradient.{name}": parameter.grad for name, parameter in named}


def lora(model, targets, path, ids, mask, labels, deviation=0.3):
    """peft's LoRA at these modules (its default where they are None), both factors random:
    logits, losses, the factors and their gradients; generated sequences."""
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="SEQ_2_SEQ_LM")).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviation)
    found = evaluate(adapted, ids, mask, labels)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            short = name.removeprefix("base_model.model.").replace(".default.weight", "")
            found[short] = parameter
            found[f"gradient.{short}"] = parameter.grad
    save(path, found)
    return generated(adapted, ids, mask, SETTINGS[4:6])


def generated(model, ids, mask, settings):
    """Generated sequences for each list of settings, without the start token and
    what follows the end."""
    cases = []
    config = model.config
    for setting in settings:
        with torch.no_grad():
            out = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, **setting)
        sequences = []
        for row in out[:, 1:].tolist():
            end = row.index(config.eos_token_id) + 1 if config.eos_token_id in row else len(row)
            sequences.append(row[:end])
        cases.append({"settings": setting, "sequences": sequences})
    return cases


SETTINGS = [
    {"max_new_tokens": 12, "num_beams": 1},
    {"max_new_tokens": 12, "num_beams": 1, "no_repeat_ngram_size": 2},
    {"max_new_tokens": 12, "num_beams": 1, "min_new_tokens": 6},
    {"max_new_tokens": 9, "num_beams": 1, "forced_bos_token_id": 7, "forced_eos_token_id": 1},
    {"max_new_tokens": 12, "num_beams": 2},
    {"max_new_tokens": 12, "num_beams": 4},
    {"max_new_tokens": 12, "num_beams": 4, "length_penalty": 2.0},
    {"max_new_tokens": 12, "num_beams": 4, "length_penalty": -1.0},
    {"max_new_tokens": 12, "num_beams": 3, "length_penalty": 0.0, "early_stopping": "never"},
    {"max_new_tokens": 12, "num_beams": 3, "length_penalty": 1.5, "early_stopping": "never"},
    {"max_new_tokens": 12, "num_beams": 4, "early_stopping": True},
    {"max_new_tokens": 12, "num_beams": 3, "no_repeat_ngram_size": 2, "min_new_tokens": 4},
    {"max_length": 8, "num_beams": 3, "min_length": 5, "length_penalty": 0.6},
    {"max_new_tokens": 10, "num_beams": 4, "forced_bos_token_id": 9, "forced_eos_token_id": 1},
    {"max_new_tokens": 10, "num_beams": 4, "no_repeat_ngram_size": 3, "early_stopping": True, "length_penalty": 2.0},
]
