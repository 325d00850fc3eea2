#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Small GPT-2s as Hugging Face directories, in the layouts that exist, with their logits.

Each directory holds what a model on the hub would: config.json and weights in safetensors, with or
without the prefix "transformer.", in one file or several, in fp32, fp16 or bf16, with mask buffers
or a stored lm_head. The weights are then read back from those files and the logits computed in
float64, by formulas written out here, into expected.safetensors.
"""
import argparse
import json
import math
import struct
from pathlib import Path

import torch
from torch import Tensor

TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "U8": torch.uint8,
         "I64": torch.int64, "F64": torch.float64}
NAMES = {value: key for key, value in TYPES.items()}
SIZES = dict(n_layer=2, n_head=3, n_embd=24, n_positions=16, vocab_size=37)

# masks: the type of the causal masks, if there are any.
CASES = {
    "gpt2": dict(prefix="", dtype="F32", activation="gelu_new", masks="F32",
                 more=dict(attn_pdrop=0.1, embd_pdrop=0.1, resid_pdrop=0.1, n_ctx=16)),
    "cerebras": dict(prefix="transformer.", dtype="F32", activation="gelu", lm_head=True,
                     more=dict(n_inner=96, scale_attn_weights=True)),
    "half": dict(prefix="transformer.", dtype="F16", activation="gelu_pytorch_tanh", masks="U8"),
    "shards": dict(prefix="", dtype="BF16", activation="gelu_new", shards=3),
    "shards_head": dict(prefix="transformer.", dtype="F16", activation="gelu", shards=2,
                        lm_head=True, masks="F16", more=dict(tie_word_embeddings=False)),
    # GPT-2's own activation where the configuration names none.
    "default": dict(prefix="transformer.", dtype="F32", activation=None),
}


def make_weights(case: dict, seed: int) -> dict[str, Tensor]:
    """By their names in the file, in its order."""
    torch.manual_seed(seed)
    width = SIZES["n_embd"]
    weights = {}

    def add(name: str, *shape: int, mean: float = 0.0) -> None:
        values = mean + 0.12 * torch.randn(shape, dtype=torch.float64)
        weights[case["prefix"] + name] = values.to(TYPES[case["dtype"]])

    add("wte.weight", SIZES["vocab_size"], width)
    add("wpe.weight", SIZES["n_positions"], width)
    for i in range(SIZES["n_layer"]):
        for norm in ("ln_1", "ln_2"):
            add(f"h.{i}.{norm}.weight", width, mean=1.0)
            add(f"h.{i}.{norm}.bias", width)
        for name, ins, outs in (("attn.c_attn", 1, 3), ("attn.c_proj", 1, 1), ("mlp.c_fc", 1, 4),
                                ("mlp.c_proj", 4, 1)):
            add(f"h.{i}.{name}.weight", ins * width, outs * width)
            add(f"h.{i}.{name}.bias", outs * width)
        if case.get("masks"):
            length = SIZES["n_positions"]
            mask = torch.ones(length, length).tril().view(1, 1, length, length)
            weights[f"{case['prefix']}h.{i}.attn.bias"] = mask.to(TYPES[case["masks"]])
            weights[f"{case['prefix']}h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    add("ln_f.weight", width, mean=1.0)
    add("ln_f.bias", width)
    if case.get("lm_head"):
        weights["lm_head.weight"] = weights[case["prefix"] + "wte.weight"].clone()
    return weights


def write_safetensors(path: Path, tensors: dict[str, Tensor]) -> None:
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, t in tensors.items():
        raw = bytes(t.contiguous().view(-1).view(torch.uint8).tolist())
        header[name] = dict(dtype=NAMES[t.dtype], shape=list(t.shape),
                            data_offsets=[len(data), len(data) + len(raw)])
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    blob = path.read_bytes()
    start = 8 + struct.unpack_from("<Q", blob)[0]
    tensors = {}
    for name, entry in json.loads(blob[8:start]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        raw = torch.tensor(list(blob[start + begin:start + end]), dtype=torch.uint8)
        tensors[name] = raw.view(TYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def write_model(folder: Path, case: dict, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config = dict(model_type="gpt2", architectures=["GPT2LMHeadModel"], layer_norm_epsilon=1e-5,
                  **SIZES, **case.get("more", {}))
    if case["activation"]:
        config["activation_function"] = case["activation"]
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    weights, shards = make_weights(case, seed), case.get("shards", 1)
    if shards == 1:
        write_safetensors(folder / "model.safetensors", weights)
        return
    names, places = list(weights), {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = {name: weights[name] for name in names[i * len(names) // shards:
                                                      (i + 1) * len(names) // shards]}
        write_safetensors(folder / file, part)
        places.update(dict.fromkeys(part, file))
    total = sum(t.numel() * t.element_size() for t in weights.values())
    (folder / "model.safetensors.index.json").write_text(
        json.dumps(dict(metadata=dict(total_size=total), weight_map=places), indent=2))


def gelu(x: Tensor, name: str) -> Tensor:
    if name == "gelu":
        return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))


def layer_norm(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return x * w[name + ".weight"] + w[name + ".bias"]


def logits_of(folder: Path, tokens: Tensor) -> Tensor:
    """From the files alone: GPT-2's Conv1D is x W + b with W [in, out]."""
    config = json.loads((folder / "config.json").read_text())
    raw = {}
    for path in sorted(folder.glob("model*.safetensors")):
        raw.update(read_safetensors(path))
    w = {name.removeprefix("transformer."): t.double() for name, t in raw.items()}
    heads, activation = config["n_head"], config.get("activation_function", "gelu_new")

    def conv1d(x: Tensor, name: str) -> Tensor:
        return x @ w[name + ".weight"] + w[name + ".bias"]

    b, t = tokens.shape
    x = w["wte.weight"][tokens] + w["wpe.weight"][:t]
    for i in range(config["n_layer"]):
        h = f"h.{i}."
        qkv = conv1d(layer_norm(x, w, h + "ln_1"), h + "attn.c_attn")
        q, k, v = (part.view(b, t, heads, -1).transpose(1, 2) for part in qkv.chunk(3, -1))
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        scores = scores + torch.full((t, t), -math.inf, dtype=torch.float64).triu(1)
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, -1)
        x = x + conv1d(y, h + "attn.c_proj")
        f = gelu(conv1d(layer_norm(x, w, h + "ln_2"), h + "mlp.c_fc"), activation)
        x = x + conv1d(f, h + "mlp.c_proj")
    head = w["lm_head.weight"] if "lm_head.weight" in w else w["wte.weight"]
    return layer_norm(x, w, "ln_f") @ head.T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="DIR", type=Path, help="where the directories go")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    for seed, (name, case) in enumerate(CASES.items()):
        write_model(out / name, case, seed)
        torch.manual_seed(100 + seed)
        tokens = torch.randint(SIZES["vocab_size"], (2, SIZES["n_positions"]))
        write_safetensors(out / name / "expected.safetensors",
                          dict(tokens=tokens, logits=logits_of(out / name, tokens)))
        print(out / name)


if __name__ == "__main__":
    main()
