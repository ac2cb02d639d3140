"""Writes two tiny T5, of version 1.0 and of version 1.1, and what PyTorch makes of
them: logits, losses, gradients, those of peft's LoRA, at the output layer too, and
generated sequences.
"""

import json
from pathlib import Path

import torch
from transformers import T5Config, T5ForConditionalGeneration

import conditional

OUT = Path(__file__).parent.parent / "golden" / "t5"
SIZES = dict(
    vocab_size=conditional.VOCABULARY, d_model=32, d_kv=6, d_ff=40, num_layers=3, num_decoder_layers=2, num_heads=4,
    relative_attention_num_buckets=8, relative_attention_max_distance=12, dropout_rate=0.0, decoder_start_token_id=0,
)
ALIASES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


def model_of(gated):
    """Version 1.1 where it is gated: with an output of its own, unscaled."""
    kind = dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False) if gated else dict(feed_forward_proj="relu")
    model = T5ForConditionalGeneration(T5Config(**SIZES, **kind)).eval()
    if gated:
        # This transformers ties until a checkpoint has the weights apart.
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
        model.config.tie_word_embeddings = False
    conditional.randomise(model, 3)
    with torch.no_grad():
        # Ends of sequences of several lengths.
        model.lm_head.weight[1] *= 1.5 if gated else 2.5
    return model


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    cases = {}
    for name, gated in [("relu", False), ("gated", True)]:
        model = model_of(gated)
        tied = () if gated else ("lm_head.weight",)
        conditional.write_checkpoint(
            OUT / name, model, lambda tensor: tensor not in ALIASES + tied, tie_word_embeddings=not gated,
        )
        sources, targets, ids, mask, labels = conditional.batch(model.config)
        conditional.write_batch(OUT, sources, targets)
        found = conditional.evaluate(model, ids, mask, labels)
        conditional.save(OUT / f"{name}.safetensors", {**found, **conditional.gradients(model)})
        cases[name] = conditional.generated(model, ids, mask, conditional.SETTINGS)
        if not gated:
            cases["lora"] = conditional.lora(model, None, OUT / "lora.safetensors", ids, mask, labels)
        adapted = model_of(gated)
        path = OUT / f"lora_output_{name}.safetensors"
        deviation = 0.1 if gated else 0.3
        cases[f"lora_output_{name}"] = conditional.lora(adapted, ["v", "lm_head"], path, ids, mask, labels, deviation)
    (OUT / "generated.json").write_text(json.dumps(cases))


if __name__ == "__main__":
    main()
