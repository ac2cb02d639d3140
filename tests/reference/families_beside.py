"""Times every family of models in `host` beside PyTorch, transformers and peft: a
training step by low-rank updates and by full fine-tuning, and, of models that say
texts, an evaluation that generates, greedily and with four beams.

    cargo build --release
    python tests/reference/families_beside.py --host target/release/host

Models have the shapes of published ones and random weights. Both sides run with two
threads, in processes of their own, one after the other and again; a ratio is that of the
medians, below one where `host` needs less. Needs an idle machine and, for all of it,
hours: --family, --work, --batch, --length and --repeats make it less, --tiny tries the
script itself. The other side is families_peer.py.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

from side_by_side import HERE, output, verdict

BERT = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
    "hidden_act": "gelu", "max_position_embeddings": 512, "type_vocab_size": 2, "pad_token_id": 0, "eos_token_id": 2,
    "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
}
DEBERTA = {
    "type_vocab_size": 0, "relative_attention": True, "max_relative_positions": -1, "position_buckets": 256,
    "norm_rel_ebd": "layer_norm", "share_att_key": True, "pos_att_type": "p2c|c2p", "position_biased_input": False,
    "layer_norm_eps": 1e-7, "pooler_hidden_size": 768, "pooler_dropout": 0, "pooler_hidden_act": "gelu",
}
T5 = {
    "model_type": "t5", "vocab_size": 32128, "feed_forward_proj": "relu", "relative_attention_num_buckets": 32,
    "dropout_rate": 0.1, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "is_encoder_decoder": True,
}
# config.json by family, with what makes it small enough to try the script.
SHAPES = {
    "bert-base": BERT | {"model_type": "bert", "vocab_size": 30522},
    "electra-base": BERT | {"model_type": "electra", "vocab_size": 32000, "embedding_size": 768},
    "roberta-base": BERT | {
        "model_type": "roberta", "vocab_size": 50265, "type_vocab_size": 1, "max_position_embeddings": 514,
        "pad_token_id": 1, "layer_norm_eps": 1e-5,
    },
    "deberta-v3-base": BERT | DEBERTA | {"model_type": "deberta-v2", "vocab_size": 128100},
    "t5-small": T5 | {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
    "t5-base": T5 | {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
    "bart-base": {
        "model_type": "bart", "vocab_size": 50265, "d_model": 768, "encoder_layers": 6, "decoder_layers": 6,
        "encoder_attention_heads": 12, "decoder_attention_heads": 12, "encoder_ffn_dim": 3072,
        "decoder_ffn_dim": 3072, "max_position_embeddings": 1024, "activation_function": "gelu", "dropout": 0.1,
        "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2,
        "forced_eos_token_id": None, "is_encoder_decoder": True,
    },
}
TINY = {
    "hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 64, "vocab_size": 300,
    "embedding_size": 48, "pooler_hidden_size": 48, "d_model": 48, "d_kv": 16, "d_ff": 64, "num_layers": 1,
    "num_heads": 3, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 3,
    "decoder_attention_heads": 3, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
}
LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.1}
# The most that time and memory may be of the peer's.
TRAINING = {"lora": (0.80, 0.40), "fft": (0.80, 0.60)}
BEAMS = {"greedy": 1, "beams": 4}
THREADS = 2


def says_texts(shape):
    return bool(shape.get("is_encoder_decoder"))


def write_model(folder, shape):
    """config.json, and a tokenizer whose tokens are words and whose texts end as the
    model's do."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(shape))
    end = shape["eos_token_id"]
    words = {f"w{number}": number for number in range(shape["vocab_size"]) if number != end} | {"</s>": end}
    frame = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}]
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "decoder": None,
        "added_tokens": [{
            "id": end, "content": "</s>", "special": True, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False,
        }],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {
            "type": "TemplateProcessing", "single": frame, "pair": frame + [{"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [end], "tokens": ["</s>"]}},
        },
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "w3"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def write_data(folder, shape, length, examples):
    """As many examples to train and to evaluate, each of so many tokens, its end among
    them."""
    folder.mkdir()
    words = lambda first: " ".join(f"w{5 + (first + 7 * place) % 250}" for place in range(length - 1))
    if says_texts(shape):
        lines = [json.dumps({"document": words(n), "summary": words(3 * n)}) for n in range(examples)]
        names = ["train.jsonl", "validation.jsonl"]
    else:
        lines = [f"{n % 5} {words(n)}" for n in range(examples)]
        names = ["stsa.fine.train", "stsa.fine.dev"]
    for name in names:
        (folder / name).write_text("\n".join(lines) + "\n")


class Side:
    """A family's files, and both sides' measurements with them."""

    def __init__(self, arguments, folder, family):
        self.arguments, self.family = arguments, family
        self.shape = SHAPES[family]
        if arguments.tiny:
            self.shape = self.shape | {key: value for key, value in TINY.items() if key in self.shape}
        self.folder = folder / family
        self.folder.mkdir()
        write_model(self.folder / "model", self.shape)
        write_data(self.folder / "data", self.shape, arguments.length, arguments.batch)
        self.runs = 0

    def config(self, work):
        """The config of a work, which names only what it needs."""
        task = {"name": "xsum" if says_texts(self.shape) else "sst5"}
        if says_texts(self.shape):
            most, length = self.arguments.new_tokens, self.arguments.length
            task |= {"max_source_length": length, "max_target_length": length, "no_repeat_ngram_size": 0}
            task |= {"max_new_tokens": most, "min_new_tokens": most, "num_beams": BEAMS.get(work, 1)}
        method = "fft" if work == "fft" else "lora"
        training = {
            "per_device_train_batch_size": self.arguments.batch, "per_device_eval_batch_size": self.arguments.batch,
            "max_steps": 1, "learning_rate": 2e-5, "weight_decay": 0.01,
        }
        sections = {
            "model": {"path": str(self.folder / "model"), "reinitialise": True},
            "data": {"path": str(self.folder / "data")}, "task": task, "training": training,
            f"methods.{method}": LORA if method == "lora" else {},
        }
        lines = [f"threads = {THREADS}"]
        for name, entries in sections.items():
            lines += [f"[{name}]"] + [f"{key} = {json.dumps(value)}" for key, value in entries.items()]
        path = self.folder / f"{work}.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    def ours(self, work):
        """Seconds and bytes."""
        if work in TRAINING:
            shape = ["--batch", self.arguments.batch, "--length", self.arguments.length, "--warmup-steps", 1]
            command = ["bench", self.config(work), *shape, "--steps", self.arguments.steps, "--json"]
            (measured,) = json.loads(output([self.arguments.host, *map(str, command)]))
            return measured["seconds_per_step"], measured["peak_memory_bytes"]
        self.runs += 1
        out = self.folder / f"run{self.runs}"
        output([self.arguments.host, "run", str(self.config(work)), "--out", str(out)])
        (cell,) = out.glob("cells/*/result.json")
        record = json.loads(cell.read_text())
        return record["result"]["evaluation_seconds"], record["peak_memory_bytes"]

    def peer(self, work):
        """Seconds and bytes."""
        arguments = self.arguments
        job = {
            "model": str(self.folder / "model"), "texts": says_texts(self.shape), "threads": THREADS, "work": work,
            "batch": arguments.batch, "length": arguments.length, "steps": arguments.steps, "lora": LORA,
            "beams": BEAMS.get(work), "new_tokens": arguments.new_tokens,
        }
        found = json.loads(output([sys.executable, str(HERE / "families_peer.py"), json.dumps(job)]).splitlines()[-1])
        return found["seconds"], found["bytes"]


def row(family, work, ours, peers):
    """A line of the table: medians, spread and ratios."""
    columns = [[[run[place] for run in side] for side in (ours, peers)] for place in (0, 1)]
    medians = [[statistics.median(values) for values in sides] for sides in columns]
    seconds = [f"{median:.3g} ({min(values):.3g}–{max(values):.3g})" for median, values in zip(medians[0], columns[0])]
    peaks = [f"{median / 2**20:,.0f} MiB" for median in medians[1]]
    ratios = [ours / peer for ours, peer in medians]
    if work in TRAINING:
        verdicts = [verdict(ratio, bound) for ratio, bound in zip(ratios, TRAINING[work])]
    else:
        # Memory holds one side's training step and not the other's.
        verdicts = [verdict(ratios[0], 1.0), f"{ratios[1]:.2f}"]
    return [family, work, *seconds, verdicts[0], *peaks, verdicts[1]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", required=True, help="the binary")
    parser.add_argument("--family", action="append", choices=SHAPES, help="only this (repeatable)")
    parser.add_argument("--work", action="append", choices=[*TRAINING, *BEAMS], help="only this (repeatable)")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=128, help="tokens of a text, and of what should be said")
    parser.add_argument("--new-tokens", type=int, default=32, help="tokens of a generated text")
    parser.add_argument("--steps", type=int, default=2, help="timed steps of a repeat, after one to warm up")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="small shapes, to try the script")
    arguments = parser.parse_args()
    arguments.host = str(Path(arguments.host).resolve())
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next((line.split(":")[1].strip() for line in flags.splitlines() if line.startswith("model name")), platform.processor())
    wide = "AVX-512" if "avx512f" in flags else "no AVX-512"
    print(f"{time.strftime('%Y-%m-%d')}, {model}, {wide}, {THREADS} threads, {arguments.batch} x {arguments.length} tokens, medians of {arguments.repeats}\n")
    print("| family | work | host, s | peer, s | time | host | peer | memory |\n|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for family in arguments.family or SHAPES:
            side = Side(arguments, Path(folder), family)
            for work in arguments.work or [*TRAINING, *BEAMS]:
                if work in BEAMS and not says_texts(side.shape):
                    continue
                ours, peers = [], []
                for _ in range(arguments.repeats):
                    ours.append(side.ours(work))
                    peers.append(side.peer(work))
                print("| " + " | ".join(row(family, work, ours, peers)) + " |", flush=True)


if __name__ == "__main__":
    main()
