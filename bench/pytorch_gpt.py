#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Trains a GPT in eager PyTorch, written the way one would in plain Python, and times its steps.

The model is the one in gpt/: GPT-2 with pre-layer-norm, erf GELU and a tied head, trained by AdamW
with clipping. Prints a line of JSON; bench/pytorch runs it beside our own trainer.
"""
import argparse
import json
import math
import resource
import statistics
import sys
import time
from array import array
from pathlib import Path

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F
except ImportError:
    sys.exit(f"{sys.executable} has no torch: tools/install.sh packages-bench.txt")


class Block(nn.Module):
    def __init__(self, width: int, heads: int, length: int):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc, self.proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        # Not a parameter, and made once: what a position may not see.
        self.register_buffer("future", torch.ones(length, length).triu(1).bool(), persistent=False)

    def attention(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = (z.view(b, t, self.heads, -1).transpose(1, 2) for z in self.qkv(x).chunk(3, -1))
        scores = q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5
        y = scores.masked_fill(self.future[:t, :t], -math.inf).softmax(-1) @ v
        return self.output(y.transpose(1, 2).reshape(b, t, c))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.ln_1(x))
        return x + self.proj(F.gelu(self.fc(self.ln_2(x))))


class GPT(nn.Module):
    def __init__(self, vocab: int, length: int, width: int, depth: int, heads: int):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads, length) for _ in range(depth))
        self.ln_f = nn.LayerNorm(width)
        for name, p in self.named_parameters():
            if p.dim() >= 2:
                residual = name.endswith(("output.weight", "proj.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * depth) if residual else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)  # the head is tied to wte
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def blas_library() -> str:
    """What multiplies fp32 matrices: Debian's reference BLAS is tens of times too slow."""
    if torch.backends.mkl.is_available():
        return "MKL"
    files = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()
             if "blas" in line.lower()}
    names = sorted(Path(f).name for f in files)
    openblas = [name for name in names if "openblas" in name]  # comes with a thin libblas.so.3
    return " ".join(openblas or names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("width", "depth", "heads", "sequence_length", "vocab_size", "batch_size",
                 "threads", "steps", "warmup"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--precision", choices=["fp32", "bf16"], required=True)
    parser.add_argument("--data", required=True, help="train.bin: token ids, two bytes each")
    a = parser.parse_args()

    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    model = GPT(a.vocab_size, a.sequence_length, a.width, a.depth, a.heads)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", file=sys.stderr)
    decay = [p for p in model.parameters() if p.dim() >= 2]
    rest = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1},
                                   {"params": rest, "weight_decay": 0.0}],
                                  lr=6e-4, betas=(0.9, 0.95), eps=1e-8)
    tokens = torch.tensor(array("H", Path(a.data).read_bytes()))
    offsets = torch.arange(a.sequence_length + 1)

    losses, step_ms = [], []
    for _ in range(a.warmup + a.steps):
        start = time.perf_counter()
        first = torch.randint(len(tokens) - a.sequence_length, (a.batch_size, 1))
        batch = tokens[first + offsets]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=a.precision == "bf16"):
            loss = model(batch[:, :-1], batch[:, 1:])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        step_ms.append((time.perf_counter() - start) * 1e3)
    step_ms = step_ms[a.warmup:]
    step_tokens = a.batch_size * a.sequence_length
    print(json.dumps({
        "step_ms": step_ms, "tokens_per_s": step_tokens / statistics.median(step_ms) * 1e3,
        "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "loss_first": losses[0], "loss_last": losses[-1], "blas": blas_library()}))


if __name__ == "__main__":
    main()
