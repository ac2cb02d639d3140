"""Writes two tiny T5, of version 1.0 and of version 1.1, and what PyTorch makes of
them: logits, losses, gradients, those of peft's LoRA, and generated sequences.
"""

import json
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
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


def lora(model, ids, mask, labels):
    """peft's LoRA with both factors random and its default targets for T5."""
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, task_type="SEQ_2_SEQ_LM")).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    found = conditional.evaluate(adapted, ids, mask, labels)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            short = name.removeprefix("base_model.model.").replace(".default.weight", "")
            found[short] = parameter
            found[f"gradient.{short}"] = parameter.grad
    conditional.save(OUT / "lora.safetensors", found)
    return conditional.generated(adapted, ids, mask, conditional.SETTINGS[4:6])


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
            cases["lora"] = lora(model, ids, mask, labels)
    (OUT / "generated.json").write_text(json.dumps(cases))


if __name__ == "__main__":
    main()
