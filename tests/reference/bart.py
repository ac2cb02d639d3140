"""Writes a tiny BART, and what PyTorch makes of it: logits, losses, gradients and
generated sequences, with peft's LoRA at the output layer too; logits, losses and
gradients as a masked language model; and logits, losses and the gradients of all
embeddings where those of words are scaled.
"""

import json
from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM, BartConfig, BartForConditionalGeneration

import conditional

OUT = Path(__file__).parent.parent / "golden" / "bart"
CONFIG = BartConfig(
    vocab_size=conditional.VOCABULARY, d_model=32, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4,
    decoder_attention_heads=2, encoder_ffn_dim=40, decoder_ffn_dim=36, max_position_embeddings=30,
    activation_function="gelu", dropout=0.0, attention_dropout=0.0, activation_dropout=0.0,
    decoder_start_token_id=2, forced_eos_token_id=None,
)
ALIASES = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")


def scaled(model, ids, mask, labels):
    """The same weights under scale_embedding, with all embeddings trained."""
    config = BartConfig(**{**CONFIG.to_dict(), "scale_embedding": True})
    twin = BartForConditionalGeneration(config).eval()
    twin.load_state_dict(model.state_dict())
    for name, parameter in twin.named_parameters():
        parameter.requires_grad_(name.endswith(("shared.weight", "embed_positions.weight")))
    found = conditional.evaluate(twin, ids, mask, labels)
    conditional.save(OUT / "scaled.safetensors", {**found, **conditional.gradients(twin)})


def masked(model):
    """The same weights under AutoModelForMaskedLM, called with labels as a data collator
    for masked language models makes them."""
    twin = AutoModelForMaskedLM.from_config(CONFIG).eval()
    twin.load_state_dict(model.state_dict())
    found = conditional.evaluate(twin, *conditional.masked(CONFIG))
    conditional.save(OUT / "masked.safetensors", {**found, **conditional.gradients(twin)})


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    model = BartForConditionalGeneration(CONFIG).eval()
    conditional.randomise(model, 4, 0.15)
    with torch.no_grad():
        model.final_logits_bias.normal_(generator=torch.Generator().manual_seed(6)).mul_(0.3)
        # Ends of sequences of several lengths, and no padding.
        model.final_logits_bias[0, 2] += 1.5
        model.final_logits_bias[0, 1] -= 9.0
        for layer in model.model.decoder.layers:
            layer.encoder_attn.out_proj.weight.mul_(4.0)
    conditional.write_checkpoint(OUT / "checkpoint", model, lambda tensor: tensor not in ALIASES)
    sources, targets, ids, mask, labels = conditional.batch(CONFIG)
    conditional.write_batch(OUT, sources, targets)
    found = conditional.evaluate(model, ids, mask, labels)
    conditional.save(OUT / "conditional.safetensors", {**found, **conditional.gradients(model)})
    scaled(model, ids, mask, labels)
    masked(model)
    settings = [{**setting, **({"forced_eos_token_id": 2} if "forced_eos_token_id" in setting else {})} for setting in conditional.SETTINGS]
    cases = {"checkpoint": conditional.generated(model, ids, mask, settings)}
    path = OUT / "lora_output.safetensors"
    cases["lora_output"] = conditional.lora(model, ["lm_head"], path, ids, mask, labels)
    (OUT / "generated.json").write_text(json.dumps(cases))


if __name__ == "__main__":
    main()
