"""Writes two tiny DeBERTa-v2, and what PyTorch makes of them; see bert.py. One is
as DeBERTa-v3 is: positions share the projections of the content, their table is
normalised, distances fall in buckets. The other has projections of its own for
positions, absolute positions too, token types, and a row for each distance.
Written is also the row of each distance, for the buckets of published models."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import DebertaV2Config, DebertaV2ForMaskedLM, DebertaV2ForSequenceClassification
from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position

import bert

GOLDEN = Path(__file__).parent.parent / "golden"
SIZES = dict(
    vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
    max_position_embeddings=40, hidden_act="gelu", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    relative_attention=True, num_labels=5,
)
CONFIGS = {
    "deberta": DebertaV2Config(
        **SIZES, type_vocab_size=0, position_biased_input=False, pos_att_type=["p2c", "c2p"], position_buckets=8,
        max_relative_positions=-1, share_att_key=True, norm_rel_ebd="layer_norm",
    ),
    "deberta_own": DebertaV2Config(
        **SIZES, type_vocab_size=2, position_biased_input=True, pos_att_type="c2p|p2c", max_relative_positions=20,
        share_att_key=False, legacy=False,
    ),
}


def masked(config, state, ids, mask, rows):
    """The masked language model with the tied decoder, at chosen tokens."""
    model = DebertaV2ForMaskedLM(config).eval()
    bert.randomise(model, 3)
    model.load_state_dict({name: tensor for name, tensor in state.items() if name.startswith("deberta.")}, strict=False)
    model.tie_weights()
    chosen, targets = bert.chosen(rows, ids)
    logits = model(input_ids=ids, attention_mask=mask).logits[chosen]
    losses = torch.nn.functional.cross_entropy(logits, targets[chosen], reduction="none")
    losses.mean().backward()
    heads = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("deberta.") and "decoder" not in name}
    bert.save("masked", {"logits": logits, "losses": losses, **heads, **bert.gradients(model, "gradient.")})


def rows_by_distance():
    """Rows of a table for a query's place minus a key's, from 0 on."""
    cases = []
    for buckets, most in [(256, 512), (8, 40), (32, 128), (-1, 20)]:
        length = 700
        content = torch.zeros(1, length, 1)
        relative = build_relative_position(content, content, buckets, most)[0, :, 0]
        span = buckets if buckets > 0 else most
        rows = torch.clamp(relative + span, 0, 2 * span - 1)
        cases.append({"buckets": max(buckets, 0), "most": most, "rows": rows.tolist()})
    (GOLDEN / "deberta" / "distances.json").write_text(json.dumps(cases))


def main():
    for family, config in CONFIGS.items():
        bert.OUT = GOLDEN / family
        folder = bert.OUT / "checkpoint"
        folder.mkdir(parents=True, exist_ok=True)
        model = DebertaV2ForSequenceClassification(config).eval()
        bert.randomise(model, 2)
        config.save_pretrained(folder)
        state = {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items() if "position_ids" not in name}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        rows, ids, mask, labels = bert.batch()
        bert.classification(model, ids, mask, labels)
        masked(config, state, ids, mask, rows)
    rows_by_distance()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
