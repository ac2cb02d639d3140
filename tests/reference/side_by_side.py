"""Times `host` beside PyTorch, transformers and peft on this machine, and prints ratios.

    cargo build --release
    python tests/reference/side_by_side.py --host target/release/host --model MODEL --data DATA

MODEL is all-MiniLM-L6-v2 in the hub's layout, DATA a folder with stsa.fine.train
and stsa.fine.dev. Both sides run with two threads, in processes of their own, one
after the other and again; a ratio is that of the medians, below one where `host`
needs less. Needs an idle machine, and about an hour for everything.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
CONFIG = HERE.parent.parent / "configs" / "sst5.toml"
METHODS = ["lora", "prompt-tuning", "bitfit", "fft"]
# By work and method: the most that time and memory may be of the peer's, on
# machines with AVX-512 and on those without.
BOUNDS = {
    ("dropout 0.1", "lora"): (0.75, 0.87, 0.30),
    ("dropout 0.1", "prompt-tuning"): (0.78, 0.90, 0.30),
    ("dropout 0.1", "bitfit"): (0.80, 0.90, 0.35),
    ("dropout 0.1", "fft"): (0.82, 0.95, 0.60),
    ("no dropout", "lora"): (0.93, 1.0, 0.30),
    ("no dropout", "prompt-tuning"): (0.93, 1.0, 0.30),
    ("no dropout", "bitfit"): (0.93, 1.0, 0.35),
    ("no dropout", "fft"): (0.93, 1.0, 0.60),
    ("epoch", "lora"): (0.35, 0.40, 0.30),
    ("epoch", "prompt-tuning"): (0.35, 0.40, 0.30),
    ("epoch", "bitfit"): (0.35, 0.40, 0.30),
    ("epoch", "fft"): (0.40, 0.45, 0.40),
    ("first step", "lora"): (0.10, 0.10, None),
    ("evaluation", "lora"): (0.50, 0.50, 0.30),
}


def bert_base(folder):
    """A checkpoint's folder without weights, in BERT-base's shape."""
    folder.mkdir()
    shape = {
        "model_type": "bert", "architectures": ["BertModel"], "hidden_size": 768, "num_hidden_layers": 12,
        "num_attention_heads": 12, "intermediate_size": 3072, "vocab_size": 30522, "hidden_act": "gelu",
        "max_position_embeddings": 512, "type_vocab_size": 2, "pad_token_id": 0,
        "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
    }
    (folder / "config.json").write_text(json.dumps(shape))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces += [f"w{number}" for number in range(shape["vocab_size"] - len(pieces))]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    return folder


def few_sentences(folder):
    """Data for steps on tokens drawn at random, of which the peer reads none."""
    folder.mkdir()
    for name, count in [("train", 32), ("dev", 8)]:
        lines = [f"{number % 5} w{number} w{number + 1}\n" for number in range(count)]
        (folder / f"stsa.fine.{name}").write_text("".join(lines))
    return folder


class Sides:
    """Both sides of each kind of work."""

    def __init__(self, arguments, folder):
        self.arguments, self.folder = arguments, folder
        self.base = bert_base(folder / "bert-base")
        self.few = few_sentences(folder / "few")
        self.runs = 0

    def host(self, command, method, model, *rest):
        options = ["--method", method, "--threads", "2", "--set", f"data.path={self.arguments.data}"]
        return [self.arguments.host, command, str(CONFIG), "--set", f"model.path={model}", *options, *map(str, rest)]

    def host_run(self, method, *rest):
        self.runs += 1
        out = self.folder / f"run{self.runs}"
        return self.host("run", method, self.arguments.model, "--out", out, *rest), out

    def ours(self, work, method):
        if work in ("dropout 0.1", "no dropout"):
            rate = 0.1 if work == "dropout 0.1" else 0.0
            settings = ["--set", "model.reinitialise=true", "--set", f"training.dropout={rate}"]
            settings += ["--set", f"data.path={self.few}"]
            if method == "lora":
                settings += ["--set", f"methods.lora.lora_dropout={rate}"]
            shape = ["--batch", 16, "--length", 128, "--steps", self.arguments.steps, "--warmup-steps", 1, "--json"]
            (measured,) = json.loads(output(self.host("bench", method, self.base, *settings, *shape)))
            return measured["seconds_per_step"], measured["peak_memory_bytes"]
        if work == "first step":
            command, _ = self.host_run(method, "--set", "training.max_steps=1")
            return seconds_to_line(command, "step 1/1"), None
        # One step is enough before an evaluation.
        length = "max_steps" if work == "evaluation" else "num_train_epochs"
        command, out = self.host_run(method, "--set", f"training.{length}=1")
        output(command)
        (cell,) = out.glob("cells/*/result.json")
        record = json.loads(cell.read_text())
        result = record["result"]
        if work == "evaluation":
            # The evaluation after the step, writing what it gave included.
            memory = peak_of([self.arguments.host, "eval", str(out)])
            return result["evaluation_seconds"], memory
        return result["training_seconds"] + result["evaluation_seconds"], record["peak_memory_bytes"]

    def peer(self, work, method):
        job = {"method": method, "threads": 2, "data": str(self.arguments.data), "folder": str(self.folder / "peer")}
        if work in ("dropout 0.1", "no dropout"):
            rate = 0.1 if work == "dropout 0.1" else 0.0
            job |= {"work": "steps", "model": str(self.base), "dropout": rate}
            job |= {"batch": 16, "length": 128, "warmup": 1, "steps": self.arguments.steps}
        else:
            job |= {"work": work, "model": str(self.arguments.model)}
        if work == "first step":
            job |= {"max_steps": 1}
        command = [sys.executable, str(HERE / "peer_speed.py"), json.dumps(job)]
        if work == "first step":
            return seconds_to_line(command, "first step"), None
        measured = json.loads(output(command).splitlines()[-1])
        return measured["seconds"], measured["bytes"]


def output(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def peak_of(command):
    """Peak memory of a command, in bytes, as its parent's books have it."""
    code = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, capture_output=True); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)"
    return int(output([sys.executable, "-c", code, *command]))


def seconds_to_line(command, text):
    """Seconds until a command has printed a line with this text."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seconds, lines = None, []
    for line in process.stdout:
        lines.append(line)
        if seconds is None and text in line:
            seconds = time.perf_counter() - start
    process.wait()
    if seconds is None:
        raise SystemExit(f"{' '.join(command)}\nprinted no line with \"{text}\":\n{''.join(lines)}")
    return seconds


def row(work, method, ours, peers, avx512):
    """A line of the table: medians, spread, ratios and their bounds."""
    wide, narrow, memory = BOUNDS[work, method]
    bound = wide if avx512 else narrow
    seconds = [statistics.median(value for value, _ in side) for side in (ours, peers)]
    ratio = seconds[0] / seconds[1]
    spread = [f"{low:.3g}–{high:.3g}" for low, high in ((min(v for v, _ in s), max(v for v, _ in s)) for s in (ours, peers))]
    cells = [work, method, f"{seconds[0]:.3g} ({spread[0]})", f"{seconds[1]:.3g} ({spread[1]})", verdict(ratio, bound)]
    if memory is None:
        return cells + ["", "", ""]
    peaks = [statistics.median(value for _, value in side) for side in (ours, peers)]
    return cells + [f"{peak / 2**20:,.0f} MiB" for peak in peaks] + [verdict(peaks[0] / peaks[1], memory)]


def verdict(ratio, bound):
    return f"{ratio:.2f} (at most {bound:.2f}{'' if ratio <= bound else ', MISSED'})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", required=True, help="the binary")
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a repeat, after one to warm up")
    parser.add_argument("--work", action="append", choices=sorted({work for work, _ in BOUNDS}), help="only this (repeatable)")
    parser.add_argument("--method", action="append", choices=METHODS, help="only this (repeatable)")
    arguments = parser.parse_args()
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next((line.split(":")[1].strip() for line in flags.splitlines() if line.startswith("model name")), platform.processor())
    avx512 = "avx512f" in flags
    print(f"{time.strftime('%Y-%m-%d')}, {model}, {'AVX-512' if avx512 else 'no AVX-512'}, two threads, medians of {arguments.repeats}\n")
    print("| work | method | host, s | peer, s | time | host | peer | memory |\n|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        sides = Sides(arguments, Path(folder))
        for work, method in BOUNDS:
            if (arguments.work and work not in arguments.work) or (arguments.method and method not in arguments.method):
                continue
            ours, peers = [], []
            for _ in range(arguments.repeats):
                ours.append(sides.ours(work, method))
                peers.append(sides.peer(work, method))
            print("| " + " | ".join(row(work, method, ours, peers, avx512)) + " |", flush=True)


if __name__ == "__main__":
    main()
