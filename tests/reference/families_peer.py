"""One measurement of a family in PyTorch with transformers and peft: the child of
families_beside.py.

Takes a job as JSON in the first argument and prints one line of JSON: seconds and the
process's peak memory in bytes.
"""

import json
import resource
import statistics
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

from peer_speed import CLASSES, grouped


def model_of(job):
    """The family with random weights and its own dropout, with what trains chosen."""
    config = AutoConfig.from_pretrained(job["model"])
    if not job["texts"]:
        config.num_labels = CLASSES
    kind = AutoModelForSeq2SeqLM if job["texts"] else AutoModelForSequenceClassification
    model = kind.from_config(config)
    if job["work"] == "fft":
        return model
    task = "SEQ_2_SEQ_LM" if job["texts"] else "SEQ_CLS"
    return get_peft_model(model, LoraConfig(task_type=task, **job["lora"]))


def batch_of(job, vocabulary):
    """Texts of one length, with classes or with texts of the same length."""
    draw = lambda: torch.randint(5, vocabulary, (job["batch"], job["length"]))
    ids = draw()
    labels = draw() if job["texts"] else torch.randint(CLASSES, (job["batch"],))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def steps(job, model):
    """The median training step, after one to warm up."""
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(grouped(model), lr=2e-5)
    seconds = []
    for step in range(1 + job["steps"]):
        inputs = batch_of(job, model.config.vocab_size)
        start = time.perf_counter()
        model(**inputs).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step > 0:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def evaluation(job, model):
    """An evaluation of one batch: its loss, and a text for each of its own."""
    model.eval()
    inputs = batch_of(job, model.config.vocab_size)
    settings = {"max_new_tokens": job["new_tokens"], "min_new_tokens": job["new_tokens"], "num_beams": job["beams"]}
    source = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    start = time.perf_counter()
    with torch.no_grad():
        model(**inputs)
        model.generate(**source, **settings, do_sample=False)
    return time.perf_counter() - start


def main():
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    measure = steps if job["beams"] is None else evaluation
    seconds = measure(job, model_of(job))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "bytes": peak}))


if __name__ == "__main__":
    main()
