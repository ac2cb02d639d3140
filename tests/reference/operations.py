"""Writes tests/golden/operations.json and expressions.json: what PyTorch gives for
single operations, forward and backward; first for those that models are made of,
then for those of plugins' expressions.

    python tests/reference/operations.py

Inputs are not written: both sides draw them from the host's generator, by name.
Of each result the file holds the norm, the product with a drawn vector, which
every element enters, and some elements. Needs PyTorch and NumPy.
"""

import json
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F

SAMPLES = 16
MASK = (1 << 64) - 1


def mix(bits):
    """SplitMix64's finaliser, as host_ir::random::mix, on an array."""
    with numpy.errstate(over="ignore"):
        bits = bits + numpy.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        return bits ^ (bits >> numpy.uint64(31))


def drawn(name, *shape):
    """Numbers in [-1, 1) that depend on the name alone, in float32."""
    hashed = 0xCBF29CE484222325
    for byte in name.encode():
        hashed = ((hashed ^ byte) * 0x100000001B3) & MASK
    key = mix(mix(numpy.array([hashed], dtype=numpy.uint64)))
    count = int(numpy.prod(shape))
    places = mix(numpy.arange(1, count + 1, dtype=numpy.uint64))
    unit = (mix(key ^ places) >> numpy.uint64(11)).astype(numpy.float64) / 2.0**53
    return torch.tensor((2.0 * unit - 1.0).astype(numpy.float32)).reshape(shape)


def leaf(name, *shape):
    return drawn(name, *shape).requires_grad_()


def summary(tensor):
    """Norm, product with a drawn vector, and elements at even distances."""
    values = tensor.detach().reshape(-1).double()
    probe = drawn("probe", values.numel()).double()
    step = max(1, values.numel() // SAMPLES)
    return {
        "count": values.numel(),
        "norm": values.norm().item(),
        "probe": (values * probe).sum().item(),
        "elements": values[::step][:SAMPLES].tolist(),
    }


# The order of sums depends on the number of threads.
torch.set_num_threads(1)
CASES = []


def case(operation, sizes, **results):
    CASES.append({"operation": operation, "sizes": sizes, "results": {name: summary(value) for name, value in results.items()}})


for rows in [1, 7, 513]:
    inputs, outputs = 96, 65
    x, weight, bias = leaf("x", rows, inputs), leaf("weight", outputs, inputs), leaf("bias", outputs)
    y = F.linear(x, weight, bias)
    y.backward(drawn("dy", rows, outputs))
    case("linear", [rows, inputs, outputs], y=y, dx=x.grad, dweight=weight.grad, dbias=bias.grad)

FUNCTIONS = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}
for name, function in FUNCTIONS.items():
    for rows in [1, 513]:
        width = 33
        x, bias = leaf("x", rows, width), drawn("bias", width)
        out = function(3.0 * x + bias)
        # The kernel's input is three times the drawn one.
        out.backward(drawn("dy", rows, width))
        case(name, [rows, width], out=out, dx=x.grad / 3.0)

for rows in [1, 7, 513]:
    for width in [65, 96]:
        y, residual, bias = leaf("y", rows, width), leaf("residual", rows, width), leaf("bias", width)
        gain, shift = leaf("gain", width), leaf("shift", width)
        out = F.layer_norm(y + bias + residual, (width,), gain, shift, 1e-12)
        out.backward(drawn("dy", rows, width))
        case("norm", [rows, width], out=out, dy=y.grad, dresidual=residual.grad, dgain=gain.grad, dshift=shift.grad, dbias=bias.grad)

for size in [32, 64, 96]:
    for lengths in [[1], [513], [3, 1, 40]]:
        heads = 2
        qkv = leaf("qkv", sum(lengths), 3 * heads * size)
        outs, start = [], 0
        for length in lengths:
            rows = qkv[start : start + length].reshape(length, 3, heads, size)
            query, key, value = (rows[:, part].transpose(0, 1) for part in range(3))
            out = F.scaled_dot_product_attention(query[None], key[None], value[None])[0]
            outs.append(out.transpose(0, 1).reshape(length, heads * size))
            start += length
        out = torch.cat(outs)
        out.backward(drawn("dy", *out.shape))
        case("attention", [heads, size, *lengths], out=out, dqkv=qkv.grad)

for rows in [1, 513]:
    inputs, outputs, rank, scale = 40, 65, 4, 1.5
    x, a, b = leaf("x", rows, inputs), leaf("a", rank, inputs), leaf("b", outputs, rank)
    y = drawn("y", rows, outputs) + scale * (x @ a.T @ b.T)
    y.backward(drawn("dy", rows, outputs))
    case("low_rank", [rows, inputs, outputs, rank], y=y, dx=x.grad, da=a.grad, db=b.grad)

for rows, classes in [(1, 5), (7, 5), (7, 3001)]:
    logits = leaf("logits", rows, classes)
    labels = torch.tensor([(7 * row + 3) % classes for row in range(rows)])
    losses = F.cross_entropy(5.0 * logits, labels, reduction="none")
    losses.backward(drawn("weights", rows))
    case("cross_entropy", [rows, classes], losses=losses, dlogits=logits.grad / 5.0)

for rows in [1, 513]:
    width, words = 65, 50
    tables = {"word": leaf("word", words, width), "position": leaf("position", 513, width), "token_type": leaf("token_type", 2, width)}
    row = torch.arange(rows)
    out = tables["word"][row * row % words] + tables["position"][row] + tables["token_type"][row % 2]
    out.backward(drawn("dy", rows, width))
    case("embedding", [rows, width, words], out=out, **{f"d{name}": table.grad for name, table in tables.items()})

for decay in [0.0, 0.1]:
    parameter = leaf("parameter", 513)
    optimizer = torch.optim.AdamW([parameter], lr=0.01, weight_decay=decay)
    for step in range(3):
        parameter.grad = drawn(f"gradient {step}", 513)
        optimizer.step()
    case("adamw", [513, int(decay * 10)], parameter=parameter)


def shifted(p):
    """In (0.1, 2.1), for functions of positive numbers."""
    return p + 1.1


# Expressions of p and, where it is given, of q; of all results together one number.
EXPRESSIONS = [
    ("exp", None, lambda p, q: p.exp()),
    ("log", None, lambda p, q: shifted(p).log()),
    ("sqrt", None, lambda p, q: shifted(p).sqrt()),
    ("abs", None, lambda p, q: p.abs()),
    ("tanh", None, lambda p, q: p.tanh()),
    ("sigmoid", None, lambda p, q: p.sigmoid()),
    ("relu", None, lambda p, q: p.relu()),
    ("gelu", None, lambda p, q: F.gelu(p)),
    ("silu", None, lambda p, q: F.silu(p)),
    ("affine", None, lambda p, q: 1.5 * p - 0.5),
    ("power", None, lambda p, q: shifted(p) ** 2.5),
    ("add", [7], lambda p, q: p + q),
    ("subtract", [5, 1], lambda p, q: p - q),
    ("multiply", [7], lambda p, q: p * q),
    ("divide", [5, 1], lambda p, q: p / (q + 1.1)),
    ("maximum", [7], lambda p, q: torch.maximum(p, q)),
    ("minimum", [5, 1], lambda p, q: torch.minimum(p, q)),
    ("sum", None, lambda p, q: p.sum(1)),
    ("mean", None, lambda p, q: p.mean(0)),
    ("norm", None, lambda p, q: p.norm(dim=1)),
    ("deviation", None, lambda p, q: p.std(0, correction=0)),
    ("log_sum_exp", None, lambda p, q: p.logsumexp(1)),
    ("softmax", None, lambda p, q: p.softmax(1)),
    ("log_softmax", None, lambda p, q: p.log_softmax(0)),
    ("permute", None, lambda p, q: p.T),
    ("reshape", None, lambda p, q: p.reshape(7, 5)),
    ("slice", None, lambda p, q: p[:, 2:5]),
    ("concat", [2, 7], lambda p, q: torch.cat([p, q], 0)),
    ("matmul", [7, 3], lambda p, q: p @ q),
    ("rows", None, lambda p, q: p[[4, 0, 4]]),
    ("cross_entropy", None, lambda p, q: F.cross_entropy(p, torch.tensor([6, 0, 3, 3, 1]), reduction="none")),
]

written = []
for name, shape, expression in EXPRESSIONS:
    p, q = leaf("p", 5, 7), leaf("q", *shape) if shape else None
    out = expression(p, q)
    loss = (out * drawn("w", *out.shape)).sum()
    loss.backward()
    gradients = {"p": p.grad} | ({"q": q.grad} if shape else {})
    listed = {key: gradient.reshape(-1).tolist() for key, gradient in gradients.items()}
    written.append({"expression": name, "q": shape, "shape": list(out.shape), "loss": loss.item(), "gradients": listed})

folder = Path(__file__).parent.parent / "golden"
(folder / "operations.json").write_text(json.dumps(CASES, separators=(",", ":")) + "\n")
(folder / "expressions.json").write_text(json.dumps(written, separators=(",", ":")) + "\n")
