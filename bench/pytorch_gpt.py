#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains a GPT in PyTorch as its users would, and times the steps.

The model is the one in gpt/: GPT-2 with pre-layer-norm, erf GELU and a tied head, trained by AdamW
with clipping. Attention is PyTorch's flash attention and the optimizer its fused AdamW; the flags
choose how the head, the products and the whole model are computed. Prints a line of JSON;
bench/pytorch runs it beside our own trainer.
"""
import argparse
import json
import math
import resource
import time
from array import array
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.attn_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.c_fc, self.mlp_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def attention(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = (z.view(b, t, self.heads, -1).transpose(1, 2) for z in self.c_attn(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.attn_proj(y.transpose(1, 2).reshape(b, t, c))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.ln_1(x))
        return x + self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x))))


class GPT(nn.Module):
    def __init__(self, vocab: int, length: int, width: int, depth: int, heads: int, head: str):
        super().__init__()
        self.head = head
        self.wte, self.wpe = nn.Embedding(vocab, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.ln_f = nn.LayerNorm(width)
        for name, p in self.named_parameters():
            if p.dim() >= 2:
                residual = name.endswith("proj.weight")
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * depth) if residual else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        x = self.ln_f(x).flatten(0, 1)  # the head is tied to wte
        if self.head == "chunked":
            return F.linear_cross_entropy(x, self.wte.weight, labels.flatten(),
                                          options=nn.LinearCrossEntropyOptions())
        return F.cross_entropy(F.linear(x, self.wte.weight), labels.flatten())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("width", "depth", "heads", "sequence_length", "vocab_size", "batch_size",
                 "threads", "steps", "warmup"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--products", choices=["fp32", "autocast", "bf16"], required=True,
                        help="bf16: fp32 tensors, rounded by oneDNN when they are multiplied")
    parser.add_argument("--head", choices=["plain", "chunked"], required=True)
    parser.add_argument("--mode", choices=["eager", "compiled"], required=True)
    parser.add_argument("--data", required=True, help="train.bin: token ids, two bytes each")
    a = parser.parse_args()

    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    if a.products == "bf16":
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    model = GPT(a.vocab_size, a.sequence_length, a.width, a.depth, a.heads, a.head)
    decay = [p for p in model.parameters() if p.dim() >= 2]
    rest = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1},
                                   {"params": rest, "weight_decay": 0.0}],
                                  lr=6e-4, betas=(0.9, 0.95), eps=1e-8, fused=True)
    loss_of = torch.compile(model) if a.mode == "compiled" else model
    tokens = torch.tensor(array("H", Path(a.data).read_bytes()))
    offsets = torch.arange(a.sequence_length + 1)

    losses, step_ms = [], []
    for _ in range(a.warmup + a.steps):
        start = time.perf_counter()
        first = torch.randint(len(tokens) - a.sequence_length, (a.batch_size, 1))
        batch = tokens[first + offsets]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=a.products == "autocast"):
            loss = loss_of(batch[:, :-1], batch[:, 1:])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        step_ms.append((time.perf_counter() - start) * 1e3)
    print(json.dumps({
        "step_ms": step_ms[a.warmup:], "loss_first": losses[0], "loss_last": losses[-1],
        "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}))


if __name__ == "__main__":
    main()
