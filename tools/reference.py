#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Independent PyTorch reference for the GPT model and its optimizer.

For a few tiny models it computes, in float64 from float32 weights, the logits, the loss, every
gradient and ten optimizer steps, as safetensors files that the C++ tests compare against. The model
is pre-LN GPT-2 with separate q/k/v projections, erf GELU and tied embeddings, in the standard
parametrisation, muP and CompleteP; the optimizer, AdamW with global-norm clipping, is written out by
hand and verified against torch.optim on every run.
"""
import argparse
import json
import math
import struct
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

COMMON = dict(batch_size=2, micro_batch_size=2, learning_rate=1e-2, warmup_steps=3, decay_steps=5,
              weight_decay=0.1, max_gradient_norm=1.0, adam_epsilon=1e-8, beta1=0.9, beta2=0.95,
              num_steps=10)
CASES = {
    "bias": dict(COMMON, depth=2, width=24, heads=3, vocab_size=29, max_position_embeddings=16,
                 sequence_length=13, bias=True, lr_decay="cosine"),
    "nobias": dict(COMMON, depth=2, width=20, heads=4, vocab_size=31, max_position_embeddings=12,
                   sequence_length=7, bias=False, lr_decay="linear"),
    "micro": dict(COMMON, depth=1, width=18, heads=2, vocab_size=23, max_position_embeddings=11,
                  sequence_length=11, batch_size=4, bias=True, lr_decay="cosine"),
    "mup": dict(COMMON, depth=2, width=24, heads=3, vocab_size=29, max_position_embeddings=16,
                sequence_length=13, bias=True, lr_decay="linear", mup_base_width=8,
                embedding_multiplier=10, output_multiplier=1.5),
    # Narrower and deeper than the base, with an epsilon that matters.
    "completep": dict(COMMON, depth=3, width=20, heads=4, vocab_size=31,
                      max_position_embeddings=12, sequence_length=7, bias=True, lr_decay="linear",
                      mup_base_width=50, mup_base_depth=2, embedding_multiplier=4,
                      adam_epsilon=1e-3),
}
LETTERS = {"I64": "q", "F64": "d", "F32": "f"}  # of struct, by safetensors dtype


def ratios(c: dict) -> tuple[float, float]:
    """The width and the depth over those that the numbers are for; 1 without muP, or CompleteP."""
    width, depth = c.get("mup_base_width"), c.get("mup_base_depth")
    return c["width"] / width if width else 1.0, c["depth"] / depth if depth else 1.0


class Block(nn.Module):
    def __init__(self, c: dict):
        super().__init__()
        width, heads, bias = c["width"], c["heads"], c["bias"]
        self.heads = heads
        self.power = -1.0 if c.get("mup_base_width") else -0.5  # of the head size, in scores
        self.branch = 1 / ratios(c)[1]
        self.ln_1 = nn.LayerNorm(width, eps=1e-5)
        self.attn = nn.ModuleDict({f"proj_{name}": nn.Linear(width, width, bias=bias)
                                   for name in ("q", "k", "v", "output")})
        self.ln_2 = nn.LayerNorm(width, eps=1e-5)
        self.ffn = nn.ModuleDict({"fc": nn.Linear(width, 4 * width, bias=bias),
                                  "proj": nn.Linear(4 * width, width, bias=bias)})

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        h = self.ln_1(x)
        q, k, v = (self.attn[f"proj_{name}"](h).view(b, t, self.heads, -1).transpose(1, 2)
                   for name in "qkv")
        mask = torch.full((t, t), -math.inf).triu(1)
        scores = q @ k.transpose(-2, -1) * (c // self.heads) ** self.power
        y = (scores + mask).softmax(-1) @ v
        x = x + self.branch * self.attn["proj_output"](y.transpose(1, 2).reshape(b, t, c))
        return x + self.branch * self.ffn["proj"](F.gelu(self.ffn["fc"](self.ln_2(x))))


class GPT(nn.Module):
    def __init__(self, c: dict):
        super().__init__()
        self.wte = nn.Embedding(c["vocab_size"], c["width"])
        self.wpe = nn.Embedding(c["max_position_embeddings"], c["width"])
        self.embedding = c.get("embedding_multiplier", 1.0)
        self.output = c.get("output_multiplier", 1.0) / ratios(c)[0]
        self.decoder = nn.ModuleList(Block(c) for _ in range(c["depth"]))
        self.ln_f = nn.LayerNorm(c["width"], eps=1e-5)
        draw_weights(self, "ln_")

    def forward(self, tokens: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embedding * (self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1])))
        for block in self.decoder:
            x = block(x)
        logits = self.output * F.linear(self.ln_f(x), self.wte.weight)  # lm_head is tied to wte
        return logits, F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def draw_weights(model: nn.Module, norms: str) -> None:
    """Nothing trivially 0 or 1; drawn in double (float draws vary with the CPU's vector width)."""
    torch.manual_seed(1)
    for name, p in model.named_parameters():
        mean = 1.0 if norms in name and name.endswith("weight") else 0.0
        noise = (0.08 if p.dim() >= 2 else 0.1) * torch.randn(p.shape, dtype=torch.float64)
        p.data = (mean + noise).float().double()


def learning_rate(c: dict, step: int) -> float:
    peak, warmup = c["learning_rate"], c["warmup_steps"]
    if step < warmup:
        return peak * step / warmup
    t = min((step - warmup) / c["decay_steps"], 1.0)
    cosine = 0.1 * peak + 0.45 * peak * (1 + math.cos(math.pi * t))
    return cosine if c["lr_decay"] == "cosine" else peak * (1 - 0.9 * t)


def factors(name: str, p: Tensor, c: dict) -> tuple[float, float, float]:
    """What one parameter takes of the learning rate, of the weight decay and of epsilon."""
    m, n = ratios(c)
    block, matrix, complete = "decoder." in name, p.dim() >= 2, c.get("mup_base_depth")
    rate = 1 / m if block and matrix else 1.0
    decay = (m if complete and block else 1.0) if matrix else 0.0
    epsilon = (1 / (m * n) if block else 1 / m) if complete else 1.0
    return rate, decay, epsilon


@torch.no_grad()
def adamw(params: list[Tensor], parts: list[tuple], moments: list[tuple], c: dict, step: int, lr: float) -> float:
    """Clips, decays the matrices and updates in place; returns the global norm before clipping."""
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in params))
    clip = min(1.0, c["max_gradient_norm"] / norm)
    for p, (rate, decay, epsilon), (m, v) in zip(params, parts, moments):
        g = p.grad * clip
        m.copy_(c["beta1"] * m + (1 - c["beta1"]) * g)
        v.copy_(c["beta2"] * v + (1 - c["beta2"]) * g * g)
        m_hat = m / (1 - c["beta1"] ** (step + 1))
        v_hat = v / (1 - c["beta2"] ** (step + 1))
        p -= lr * rate * c["weight_decay"] * decay * p
        p -= lr * rate * m_hat / (v_hat.sqrt() + c["adam_epsilon"] * epsilon)
    return norm


def train(model: GPT, c: dict, tokens: Tensor, labels: Tensor, by_hand: bool) -> Tensor:
    """Takes every step; returns a row each of losses, gradient norms and learning rates."""
    params, rows = list(model.parameters()), []
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in params]
    parts = [factors(name, p, c) for name, p in model.named_parameters()]
    theirs = torch.optim.AdamW([dict(params=[p], weight_decay=c["weight_decay"] * decay,
                                     eps=c["adam_epsilon"] * epsilon)
                                for p, (_, decay, epsilon) in zip(params, parts)],
                               betas=(c["beta1"], c["beta2"]))
    for step in range(c["num_steps"]):
        model.zero_grad()
        loss = model(tokens[step], labels[step])[1]
        loss.backward()
        lr = learning_rate(c, step)
        if by_hand:
            norm = adamw(params, parts, moments, c, step, lr)
        else:
            norm = float(nn.utils.clip_grad_norm_(params, c["max_gradient_norm"]))
            for group, (rate, _, _) in zip(theirs.param_groups, parts):
                group["lr"] = lr * rate
            theirs.step()
        rows.append((loss.item(), norm, lr))
    return torch.tensor(rows, dtype=torch.float64).T


def build(c: dict, make=GPT) -> dict[str, Tensor]:
    """Everything that one fixture holds, 8-byte types first so that each tensor is aligned."""
    model, twin = make(c), make(c)
    shape = (c["num_steps"], c["batch_size"], c["sequence_length"])
    tokens, labels = (torch.randint(c["vocab_size"], shape) for _ in range(2))
    weights = {f"weights/{name}": p.detach().float() for name, p in model.named_parameters()}
    logits, loss = model(tokens[0], labels[0])
    loss.backward()
    grads = {f"grads/{name}": p.grad.float() for name, p in model.named_parameters()}
    losses, norms, lrs = train(model, c, tokens, labels, by_hand=True)
    after = {f"after/{name}": p.detach().float() for name, p in model.named_parameters()}
    train(twin, c, tokens, labels, by_hand=False)
    for name, p in twin.named_parameters():  # not bitwise: clip_grad_norm_ divides by norm + 1e-6
        assert torch.allclose(after[f"after/{name}"].double(), p, rtol=0, atol=1e-6), name
    return {"tokens": tokens, "labels": labels, "loss": loss.detach().reshape(1),
            "step_losses": losses, "step_grad_norms": norms, "step_lrs": lrs,
            "logits": logits.detach().float(), **weights, **grads, **after}


def serialize(config: dict, tensors: dict[str, Tensor]) -> bytes:
    header, data = {"__metadata__": {"config": json.dumps(config)}}, b""
    for name, t in tensors.items():
        code = {torch.int64: "I64", torch.float64: "F64", torch.float32: "F32"}[t.dtype]
        begin = len(data)
        data += struct.pack(f"<{t.numel()}{LETTERS[code]}", *t.flatten().tolist())
        header[name] = dict(dtype=code, shape=list(t.shape), data_offsets=[begin, len(data)])
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def compare(found: bytes, wanted: bytes) -> None:
    """Raises ValueError naming what differs; other CPUs may round the last bits differently."""
    blobs = [(blob, 8 + struct.unpack_from("<Q", blob)[0]) for blob in (found, wanted)]
    have, want = (json.loads(blob[8:start]) for blob, start in blobs)
    for name in {**want, **have}:
        if have.get(name) != want.get(name):
            raise ValueError(f"{name}: header has {have.get(name)}, expected {want.get(name)}")
    del want["__metadata__"]
    for name, entry in want.items():
        (begin, end), letter = entry["data_offsets"], LETTERS[entry["dtype"]]
        layout = f"<{math.prod(entry['shape'])}{letter}"
        a, b = (struct.unpack(layout, blob[start + begin:start + end]) for blob, start in blobs)
        for i, (x, y) in enumerate(zip(a, b)):
            if not abs(x - y) <= (0 if letter == "q" else 1e-7 + 1e-5 * abs(y)):
                raise ValueError(f"{name}: element {i} is {x}, expected {y}")


def main(doc=__doc__, cases=CASES, make=GPT) -> None:
    parser = argparse.ArgumentParser(
        description=doc, epilog="example: %(prog)s --check gpt/testdata",
        formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--out", metavar="DIR", type=Path, help="write the files into DIR")
    mode.add_argument("--check", metavar="DIR", type=Path,
                      help="recompute and compare: floats to rtol 1e-5, atol 1e-7; exits 1 if not")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for case, config in cases.items():
        path = (args.out or args.check) / f"reference_{case}.safetensors"
        blob = serialize(config, build(config, make))
        try:
            if args.out:
                path.write_bytes(blob)
            else:
                compare(path.read_bytes(), blob)
            print(f"{path}: {'written' if args.out else 'matches'}")
        except (OSError, ValueError, struct.error) as error:
            sys.exit(f"{path}: {error}")


if __name__ == "__main__":
    main()
