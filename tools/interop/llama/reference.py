#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint says to some prompts, computed by plain PyTorch in float64.

Reads a Hugging Face GPT-2 folder (config.json, model.safetensors, tokenizer.json) and writes JSON
lines, one a prompt: {"prompt": text, "prompt_tokens": [id ...], "tokens": [id ...], "steps":
[[[id, logit] ...] ...]}: the prompt's tokens, those that greedy decoding goes on with, and for each
of these the logits it was chosen by, the largest first.
"""
import argparse
import json
import math
import re
import struct
from pathlib import Path

import torch
from torch.nn import functional as F

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}


def read_safetensors(path: Path) -> dict:
    data = path.read_bytes()
    length, = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + length])
    tensors = {}
    for name, info in header.items():
        if name == "__metadata__":
            continue
        begin, end = info["data_offsets"]
        raw = bytearray(data[8 + length + begin:8 + length + end])
        tensors[name] = torch.frombuffer(raw, dtype=DTYPES[info["dtype"]]).view(info["shape"]).double()
    return tensors


class Model:
    def __init__(self, folder: Path):
        self.config = json.loads((folder / "config.json").read_text())
        self.weights = read_safetensors(folder / "model.safetensors")
        kind = self.config["activation_function"]
        self.gelu = F.gelu if kind == "gelu" else self.gelu_tanh

    @staticmethod
    def gelu_tanh(x):
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))

    def norm(self, x, name):
        w = self.weights
        return F.layer_norm(x, x.shape[-1:], w[name + ".weight"], w[name + ".bias"], 1e-5)

    def linear(self, x, name):
        return x @ self.weights[name + ".weight"] + self.weights[name + ".bias"]

    def logits(self, tokens: list) -> torch.Tensor:
        w, heads = self.weights, self.config["n_head"]
        x = w["transformer.wte.weight"][tokens] + w["transformer.wpe.weight"][:len(tokens)]
        mask = torch.full((len(tokens),) * 2, -math.inf, dtype=torch.float64).triu(1)
        for i in range(self.config["n_layer"]):
            p = f"transformer.h.{i}."
            q, k, v = (part.view(len(tokens), heads, -1).transpose(0, 1) for part in
                       self.linear(self.norm(x, p + "ln_1"), p + "attn.c_attn").chunk(3, -1))
            y = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]) + mask).softmax(-1) @ v
            x = x + self.linear(y.transpose(0, 1).reshape(x.shape), p + "attn.c_proj")
            h = self.gelu(self.linear(self.norm(x, p + "ln_2"), p + "mlp.c_fc"))
            x = x + self.linear(h, p + "mlp.c_proj")
        return self.norm(x[-1], "transformer.ln_f") @ w["transformer.wte.weight"].T


class Tokenizer:
    """A tokenizer.json of characters, or GPT-2's byte-level pairs; ASCII text alone."""
    WORD = re.compile(r"'(?:[sdmt]|ll|ve|re)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")

    def __init__(self, folder: Path):
        root = json.loads((folder / "tokenizer.json").read_text())
        self.vocab = root["model"]["vocab"]
        merges = [m.split(" ") if isinstance(m, str) else m for m in root["model"]["merges"]]
        self.ranks = {tuple(m): i for i, m in enumerate(merges)}
        self.stand_ins = {chr(b): chr(b) if 33 <= b <= 126 else chr(256 + b) for b in range(127)}

    def word(self, word: str) -> list:
        parts = [self.stand_ins[c] for c in word]
        while len(parts) > 1:
            pairs = list(zip(parts, parts[1:]))
            best = min(pairs, key=lambda pair: self.ranks.get(pair, math.inf))
            if best not in self.ranks:
                break
            i = pairs.index(best)
            parts[i:i + 2] = ["".join(best)]
        return [self.vocab[part] for part in parts]

    def encode(self, text: str) -> list:
        if not self.ranks:
            return [self.vocab[c] for c in text]
        return [token for word in self.WORD.findall(text) for token in self.word(word)]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("prompts", type=Path, help="JSON list of texts")
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=64, help="tokens to go on with")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = Model(args.folder), Tokenizer(args.folder)
    with open(args.out, "w") as out:
        for prompt in json.loads(args.prompts.read_text()):
            prompt_tokens = tokenizer.encode(prompt)
            tokens, steps = [], []
            for _ in range(args.count):
                logits, ids = model.logits(prompt_tokens + tokens).sort(descending=True)
                steps.append([[i, round(x, 7)] for i, x in zip(ids.tolist(), logits.tolist())])
                tokens.append(steps[-1][0][0])
            print(json.dumps(dict(prompt=prompt, prompt_tokens=prompt_tokens, tokens=tokens,
                                  steps=steps)), file=out)


if __name__ == "__main__":
    main()
