"""PyTorch with transformers and peft on a GPU, beside `host bench`: examples a second and peak memory of its arrays.

    peer.py MODEL DEVICE BATCH STEPS LENGTHS PRECISIONS

MODEL is a folder with config.json and vocab.txt. Methods are measured eager, and at the end LoRA in the first precision
with torch.compile, too: compiling takes a minute each time.
"""

import gc
import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parent.parent / "reference"))
import peer_speed  # noqa: E402

METHODS = ["fft", "lora", "bitfit", "prompt-tuning"]


def measured(job):
    """Examples a second and bytes of memory, the latter only where a GPU counts them."""
    on_gpu = job["device"].startswith("cuda")
    gc.collect()
    torch._dynamo.reset()
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds = peer_speed.steps(job)
    return job["batch"] / seconds, torch.cuda.max_memory_allocated() if on_gpu else None


def main():
    model, device, batch, steps, lengths, precisions = sys.argv[1:]
    lengths, precisions = [int(length) for length in lengths.split()], precisions.split()
    torch.manual_seed(0)
    jobs = [(precision, length, method, False) for precision in precisions for length in lengths for method in METHODS]
    jobs += [(precisions[0], length, "lora", True) for length in lengths]
    row = "{:<9} {:>6} {:<14} {:<9} {:>12} {:>10}"
    print(row.format("precision", "length", "method", "", "examples/s", "peak"))
    for precision, length, method, compiled in jobs:
        job = {"model": model, "device": device, "method": method, "dropout": 0.1, "batch": int(batch)}
        job |= {"length": length, "warmup": 3, "steps": int(steps), "precision": precision, "compile": compiled}
        try:
            speed, peak = measured(job)
            numbers = [f"{speed:.1f}", "unknown" if peak is None else f"{peak / 2**20:.0f} MiB"]
        except torch.OutOfMemoryError:
            numbers = ["no memory", ""]
        print(row.format(precision, length, method, "compiled" if compiled else "eager", *numbers), flush=True)


if __name__ == "__main__":
    main()
