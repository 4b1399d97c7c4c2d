"""Writes job/golden/model_sizes.json: what transformers counts for a few configurations.

Run with the packages of tests/requirements.txt: .venv/bin/python daemon/job/tests/model_sizes.py
"""

import json
import pathlib

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

DEEPSEEK = dict(
    model_type="deepseek_v3",
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    moe_intermediate_size=16,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=4,
    n_shared_experts=1,
    n_routed_experts=8,
    kv_lora_rank=16,
    q_lora_rank=12,
    qk_rope_head_dim=8,
    v_head_dim=10,
    qk_nope_head_dim=6,
    n_group=2,
    topk_group=1,
    num_experts_per_tok=2,
    first_k_dense_replace=1,
    tie_word_embeddings=False,
    max_position_embeddings=64,
)
QWEN = dict(
    model_type="qwen2",
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=False,
    max_position_embeddings=64,
)
V2 = {k: v for k, v in DEEPSEEK.items() if k not in ("n_group", "topk_group")} | dict(
    model_type="deepseek_v2", n_shared_experts=2
)
QWEN3 = QWEN | dict(model_type="qwen3", head_dim=10)
QWEN3_MOE = QWEN | dict(
    model_type="qwen3_moe", num_experts=8, num_experts_per_tok=2, moe_intermediate_size=20
)
LLAMA = QWEN | dict(model_type="llama")
CASES = [
    V2,
    {k: v for k, v in V2.items() if k not in ("first_k_dense_replace", "n_shared_experts")},
    QWEN3,
    {k: v for k, v in QWEN3.items() if k != "head_dim"}
    | dict(attention_bias=True, tie_word_embeddings=True),
    QWEN3_MOE,
    QWEN3_MOE | dict(mlp_only_layers=[1], decoder_sparse_step=1, attention_bias=True),
    QWEN3_MOE | dict(decoder_sparse_step=2),
    LLAMA,
    LLAMA | dict(attention_bias=True, head_dim=12),
    QWEN | dict(model_type="mistral", sliding_window=None),
    DEEPSEEK,
    DEEPSEEK | dict(q_lora_rank=None, tie_word_embeddings=True, n_shared_experts=2),
    DEEPSEEK | dict(attention_bias=True, first_k_dense_replace=0),
    DEEPSEEK | dict(first_k_dense_replace=3),
    QWEN,
    QWEN | dict(tie_word_embeddings=True, num_key_value_heads=4),
]


def size(case):
    config = AutoConfig.for_model(**case)
    model = AutoModelForCausalLM.from_config(config)
    parameters = sum(p.numel() for p in model.parameters())
    # Experts that a token does not meet, counted from the expert tensors' own shapes.
    idle, experts = (
        0,
        getattr(config, "n_routed_experts", None) or getattr(config, "num_experts", None),
    )
    for name, p in model.named_parameters():
        if ".experts." in name:
            idle += p.numel() // experts * (experts - config.num_experts_per_tok)
    cache = DynamicCache()
    model(torch.tensor([[1, 2, 3]]), past_key_values=cache)
    values = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    if case["model_type"].startswith("deepseek") and values % (
        3 * (config.kv_lora_rank + config.qk_rope_head_dim)
    ):
        # A transformers that caches expanded keys and values: r1d caches the latent and the rotary
        # part (DeepSeek-V2 2.1.3).
        values = 3 * config.num_hidden_layers * (config.kv_lora_rank + config.qk_rope_head_dim)
    return dict(
        config=case,
        architecture=type(model).__name__,
        parameters=parameters,
        active_parameters=parameters - idle,
        cache_values_per_token=values // 3,
    )


path = pathlib.Path(__file__).parent / "job/golden/model_sizes.json"
path.write_text(json.dumps([size(case) for case in CASES], indent=1) + "\n")
print(path.read_text())
