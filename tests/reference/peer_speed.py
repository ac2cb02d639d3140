"""One measurement of the peer, PyTorch with transformers and peft: the child of side_by_side.py.

Takes a job as JSON in the first argument and prints one line of JSON: seconds
and the process's peak memory in bytes.
"""

import json
import resource
import statistics
import sys
import time
from pathlib import Path

import torch
from peft import LoraConfig, PromptTuningConfig, PromptTuningInit, get_peft_model
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

CLASSES = 5
LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.1, "bias": "lora_only", "target_modules": ["query", "value"]}


def with_method(model, method, dropout):
    """The model with what trains chosen, as a user of peft has it."""
    if method == "lora":
        return get_peft_model(model, LoraConfig(task_type="SEQ_CLS", **LORA | {"lora_dropout": dropout}))
    if method == "prompt-tuning":
        settings = {"num_virtual_tokens": 20, "prompt_tuning_init": PromptTuningInit.RANDOM}
        return get_peft_model(model, PromptTuningConfig(task_type="SEQ_CLS", **settings))
    if method == "bitfit":
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name.endswith("bias") or name.startswith("classifier")
    return model


def grouped(model):
    """AdamW's groups: no decay of biases and norms."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    plain = [parameter for name, parameter in trained if name.endswith("bias") or "LayerNorm" in name]
    decayed = [parameter for name, parameter in trained if not (name.endswith("bias") or "LayerNorm" in name)]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def waited(device):
    """Waits for what a GPU still computes."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def steps(job):
    """The median step on batches of one length; on a GPU too, for tests/gpu/peer.py."""
    config = AutoConfig.from_pretrained(job["model"], num_labels=CLASSES)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = job["dropout"]
    model = with_method(AutoModelForSequenceClassification.from_config(config), job["method"], job["dropout"])
    # Held through the steps, as in any program that trains on texts.
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    assert len(tokenizer) == config.vocab_size
    device, autocast = torch.device(job.get("device", "cpu")), job.get("precision") == "bf16"
    torch.backends.cuda.matmul.allow_tf32 = job.get("precision") == "tf32"
    model.to(device).train()
    run = torch.compile(model) if job.get("compile") else model
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(grouped(model), lr=2e-5)
    batch, length, seconds = job["batch"], job["length"], []
    for step in range(job["warmup"] + job["steps"]):
        ids = torch.randint(5, config.vocab_size, (batch, length))
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.randint(CLASSES, (batch,))}
        inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
        waited(device)
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            loss = run(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        waited(device)
        if step >= job["warmup"]:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def read(path):
    """Labels and sentences of a file with a label and a sentence a line."""
    lines = [line.split(" ", 1) for line in Path(path).read_text().splitlines() if line.strip()]
    return [{"label": int(label), "sentence": sentence} for label, sentence in lines]


def trainer_for(job):
    """A Trainer on SST-5, padding each batch to its longest sentence."""
    from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments

    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    tokenizer.backend_tokenizer.no_padding()

    def tokenised(name):
        examples = read(Path(job["data"]) / f"stsa.fine.{name}")
        ids = tokenizer([example["sentence"] for example in examples], truncation=True, max_length=128)["input_ids"]
        return [{"input_ids": row, "labels": example["label"]} for row, example in zip(ids, examples)]

    class FirstStep(TrainerCallback):
        def on_step_end(self, arguments, state, control, **_):
            if state.global_step == 1:
                print("first step", flush=True)

    model = AutoModelForSequenceClassification.from_pretrained(job["model"], num_labels=CLASSES, dtype=torch.float32)
    model = with_method(model, job["method"], 0.1)
    arguments = TrainingArguments(
        output_dir=job["folder"],
        learning_rate=5e-5,
        weight_decay=0.01,
        num_train_epochs=1,
        max_steps=job.get("max_steps", -1),
        per_device_train_batch_size=32,
        per_device_eval_batch_size=64,
        eval_strategy="no" if "max_steps" in job else "epoch",
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    return Trainer(
        model=model,
        args=arguments,
        train_dataset=tokenised("train"),
        eval_dataset=tokenised("dev"),
        data_collator=DataCollatorWithPadding(tokenizer),
        callbacks=[FirstStep()],
    )


def main():
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    if job["work"] == "steps":
        seconds = steps(job)
    else:
        trainer = trainer_for(job)
        start = time.perf_counter()
        trainer.evaluate() if job["work"] == "evaluation" else trainer.train()
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "bytes": peak}))


if __name__ == "__main__":
    main()
