"""Trains the peer of a cell: transformers and peft, after Trainer's conventions.

With --start (an adapter.safetensors of `host`, trained for one step at a
learning rate of 0) it starts where the cell started; its order of examples is
the cell's, drawn by the same generator. With --predictions (a cell's
predictions-dev.jsonl) it says on how many dev sentences both agree.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from sklearn.metrics import f1_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_linear_schedule_with_warmup

MASK = (1 << 64) - 1


def mix(bits):
    """SplitMix64's finaliser, as host_ir::random::mix."""
    bits = (bits + 0x9E3779B97F4A7C15) & MASK
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & MASK
    return bits ^ (bits >> 31)


def order(seed, epoch, count):
    """The order of an epoch's examples, as host's sampler draws it."""
    name = 0xCBF29CE484222325
    for byte in f"order of epoch {epoch}".encode():
        name = ((name ^ byte) * 0x100000001B3) & MASK
    key, items = mix(seed ^ mix(name)), list(range(count))
    for place, end in enumerate(range(count - 1, 0, -1), start=1):
        other = (mix(key ^ mix(place)) * (end + 1)) >> 64
        items[end], items[other] = items[other], items[end]
    return items


def read(path):
    """Labels and sentences of a file with a label and a sentence a line."""
    lines = [line.split(" ", 1) for line in Path(path).read_text().splitlines() if line.strip()]
    return [int(label) for label, _ in lines], [sentence for _, sentence in lines]


def build(arguments):
    """The model with its method, in float32."""
    model = AutoModelForSequenceClassification.from_pretrained(arguments.model, num_labels=5, dtype=torch.float32)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = arguments.dropout
    if arguments.method == "lora":
        config = LoraConfig(task_type="SEQ_CLS", r=16, lora_alpha=32, lora_dropout=arguments.dropout, bias="lora_only", target_modules=["query", "value"])
        model = get_peft_model(model, config)
    elif arguments.method == "bitfit":
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name.endswith("bias") or name.startswith("classifier")
    return model


def start_from(model, path):
    """Puts a cell's start in the place of the model's."""
    names = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            short = name.removeprefix("base_model.model.").replace(".default", "").replace(".base_layer", "").replace("modules_to_save.", "")
            names[short.removesuffix(".weight") if "lora_" in short else short] = parameter
    tensors = load_file(path)
    assert set(names) == set(tensors), sorted(set(names) ^ set(tensors))
    with torch.no_grad():
        for name, tensor in tensors.items():
            names[name].copy_(tensor)


def optimizer_for(model, arguments):
    """AdamW without decay of biases and norms."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    plain = [parameter for name, parameter in trained if name.endswith("bias") or "LayerNorm" in name]
    decayed = [parameter for name, parameter in trained if not (name.endswith("bias") or "LayerNorm" in name)]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=arguments.learning_rate), sum(parameter.numel() for _, parameter in trained)


def evaluate(model, tokenizer, sentences):
    """Predicted labels, longest sentences first so that batches are even."""
    model.eval()
    predicted = [0] * len(sentences)
    by_length = sorted(range(len(sentences)), key=lambda place: -len(sentences[place]))
    with torch.no_grad():
        for start in range(0, len(by_length), 64):
            chosen = by_length[start : start + 64]
            inputs = tokenizer([sentences[place] for place in chosen], padding=True, truncation=True, max_length=128, return_tensors="pt")
            for place, label in zip(chosen, model(**inputs).logits.argmax(-1).tolist()):
                predicted[place] = label
    return predicted


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--method", default="lora", choices=["lora", "fft", "bitfit"])
    parser.add_argument("--start")
    parser.add_argument("--predictions", type=Path)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--steps", type=int, help="stop after so many steps, for timing")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(2)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = build(arguments)
    if arguments.start:
        start_from(model, arguments.start)
    labels, sentences = read(arguments.data / "stsa.fine.train")
    dev_labels, dev_sentences = read(arguments.data / "stsa.fine.dev")
    optimizer, trained = optimizer_for(model, arguments)
    per_epoch = -(-len(sentences) // 32)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, per_epoch * arguments.epochs)
    result = {"method": arguments.method, "trained": trained, "epochs": []}
    seconds, step = 0.0, 0
    for epoch in range(arguments.epochs):
        model.train()
        drawn = order(arguments.seed, epoch, len(sentences))
        began = time.monotonic()
        for start in range(0, len(drawn), 32):
            chosen = drawn[start : start + 32]
            inputs = tokenizer([sentences[place] for place in chosen], padding=True, truncation=True, max_length=128, return_tensors="pt")
            loss = model(**inputs, labels=torch.tensor([labels[place] for place in chosen])).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_([parameter for parameter in model.parameters() if parameter.requires_grad], 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            step += 1
            if step == arguments.steps:
                break
        seconds += time.monotonic() - began
        if step == arguments.steps:
            break
        predicted = evaluate(model, tokenizer, dev_sentences)
        right = sum(a == b for a, b in zip(predicted, dev_labels)) / len(dev_labels)
        result["epochs"].append({"accuracy": right, "f1_macro": f1_score(dev_labels, predicted, average="macro")})
    result |= {"seconds_per_step": seconds / step, "training_seconds": seconds}
    result["peak_mebibytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if arguments.predictions:
        ours = [json.loads(line)["label"] for line in arguments.predictions.read_text().splitlines()]
        result["agreement"] = sum(a == b for a, b in zip(ours, predicted)) / len(predicted)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
