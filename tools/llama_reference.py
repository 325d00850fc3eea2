#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The same fixtures as tools/reference.py's for small models of `model: llama`, of transformers.

LlamaForCausalLM, Qwen2ForCausalLM and Qwen3ForCausalLM compute them in float64. They come from PyPI
with PyTorch, which is large: tools/judges.sh installs them into ~/.cache/gigagpt and runs this.
"""
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

from reference import COMMON, draw_weights, main

LLAMA = dict(COMMON, model="llama", depth=2, width=24, heads=4, kv_heads=2, ffn_width=40,
             vocab_size=29, max_position_embeddings=16, sequence_length=13, lr_decay="cosine")
CASES = {
    "llama": dict(LLAMA, tie_word_embeddings=False, kv_heads=1, norm_epsilon=1e-5),
    "llama3": dict(LLAMA, rope_theta=500.0, rope_factor=4.0, rope_low_frequency_factor=1.0,
                   rope_high_frequency_factor=4.0, rope_original_positions=8),
    "qwen2": dict(LLAMA, qkv_bias=True, norm_epsilon=1e-6),
    "qwen3": dict(LLAMA, qk_norm=True, head_size=10, norm_epsilon=1e-6),
}


class Model(nn.Module):
    """One of transformers' models, called as reference.py does; its names are without a prefix."""

    def __init__(self, c: dict):
        super().__init__()
        kind = "Qwen3" if c.get("qk_norm") else "Qwen2" if c.get("qkv_bias") else "Llama"
        config = getattr(transformers, f"{kind}Config")(
            vocab_size=c["vocab_size"], hidden_size=c["width"], num_hidden_layers=c["depth"],
            num_attention_heads=c["heads"], num_key_value_heads=c["kv_heads"],
            head_dim=c.get("head_size", c["width"] // c["heads"]),
            intermediate_size=c["ffn_width"],
            max_position_embeddings=c["max_position_embeddings"],
            rms_norm_eps=c.get("norm_epsilon", 1e-5),
            tie_word_embeddings=c.get("tie_word_embeddings", True))
        config.rope_parameters = {"rope_type": "default", "rope_theta": c.get("rope_theta", 1e4)}
        if "rope_factor" in c:
            config.rope_parameters |= {
                "rope_type": "llama3", "factor": c["rope_factor"],
                "low_freq_factor": c["rope_low_frequency_factor"],
                "high_freq_factor": c["rope_high_frequency_factor"],
                "original_max_position_embeddings": c["rope_original_positions"]}
        config._attn_implementation = "eager"
        object.__setattr__(self, "inner",
                           getattr(transformers, f"{kind}ForCausalLM")(config).double())
        # Rotary frequencies are a buffer in fp32 otherwise.
        rotary = self.inner.model.rotary_emb
        init = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS.get(
            config.rope_parameters["rope_type"])
        if init is None:
            steps = torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
            rotary.inv_freq = config.rope_parameters["rope_theta"] ** -steps
        else:
            rotary.inv_freq = rotary.inv_freq.double()
        draw_weights(self.inner, "norm")

    def named_parameters(self, *args, **kwargs):
        return self.inner.named_parameters(*args, **kwargs)

    def parameters(self, *args, **kwargs):
        return self.inner.parameters(*args, **kwargs)

    def zero_grad(self, *args, **kwargs):
        self.inner.zero_grad(*args, **kwargs)

    def forward(self, tokens: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.inner(tokens).logits
        return logits, F.cross_entropy(logits.flatten(0, 1), labels.flatten())


if __name__ == "__main__":
    main(__doc__, CASES, Model)
