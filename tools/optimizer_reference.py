#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes engine/run/testdata/optimizers.safetensors: what the optimizers of PyTorch 2.15 make of a
few parameters in ten steps. engine/run/optimizer_reference_test.cpp makes the same steps.

  optimizer_reference.py OUT.safetensors

Needs torch 2.15 and safetensors (bench/pytorch installs the former).
"""
import sys

import torch
from safetensors.torch import save_file

SHAPES = {"wide": (24, 40), "tall": (40, 24), "square": (32, 32), "table": (20, 24),
          "vector": (16,)}
STEPS, LR, DECAY = 10, 0.05, 0.1


def numbers(key: int, count: int) -> torch.Tensor:
    """Numbers in [-1, 1) that fp32 has, of key and place alone."""
    x = torch.arange(count, dtype=torch.int64) * 0x9E3779B1 + key * 0x85EBCA6B & 0xFFFFFFFF
    for shift, factor in (15, 0x2C1B3C6D), (12, 0x297A2D39):
        x = (x ^ x >> shift) * factor & 0xFFFFFFFF
    return ((x ^ x >> 15) >> 8).to(torch.float32) * 2**-23 - 1


def train(make_optimizers) -> dict[str, torch.Tensor]:
    params = {}
    for i, (name, shape) in enumerate(SHAPES.items()):
        values = numbers(i, torch.Size(shape).numel()).reshape(shape) * 0.125
        params[name] = torch.nn.Parameter(values)
    optimizers = make_optimizers(params)
    for step in range(1, STEPS + 1):
        for i, param in enumerate(params.values()):
            target = numbers(100 + i, param.numel()).reshape(param.shape)
            noise = numbers(1000 + 10 * step + i, param.numel()).reshape(param.shape)
            param.grad = (param.detach() - target) * 0.5 + noise * 0.25
        for optimizer in optimizers:
            optimizer.step()
    return {name: param.detach().clone().contiguous() for name, param in params.items()}


def groups(params: dict, decay: float, names=tuple(SHAPES)) -> list[dict]:
    """Vectors do not decay."""
    return [{"params": [p for n, p in params.items() if n in names and (p.ndim > 1) == matrices],
             "weight_decay": decay if matrices else 0} for matrices in (True, False)]


def adamw(params, names=tuple(SHAPES)):
    return [torch.optim.AdamW(groups(params, DECAY, names), lr=LR, betas=(0.9, 0.95), eps=1e-8)]


def muon(params):
    hidden = ("wide", "tall", "square")
    return [torch.optim.Muon([params[n] for n in hidden], lr=LR, weight_decay=DECAY, momentum=0.95,
                             adjust_lr_fn="match_rms_adamw")] + adamw(params, ("table", "vector"))


def main() -> None:
    tensors = {}

    def add(name: str, made: dict) -> None:
        tensors.update({f"{name}/{param}": value for param, value in made.items()})
    add("adamw", train(adamw))
    add("sgd", train(lambda p: [torch.optim.SGD(p.values(), lr=LR, momentum=0.9)]))
    add("adafactor", train(lambda p: [torch.optim.Adafactor(groups(p, DECAY), lr=LR)]))
    add("adafactor_fast", train(lambda p: [torch.optim.Adafactor(groups(p, DECAY), lr=0.5)]))
    add("muon", train(muon))
    # Its products are in bf16 always: here they are made in double.
    to = torch.Tensor.to
    torch.Tensor.to = lambda x, *a, **k: to(x, *a, **k | (
        {"dtype": torch.float64} if k.get("dtype") == torch.bfloat16 else {}))
    add("muon_double", train(muon))
    save_file(tensors, sys.argv[1], {"torch": torch.__version__})


main()
