"""Writes job/golden/model_sizes.json: what transformers counts for a few configurations.

Run with the packages of tests/requirements.txt: .venv/bin/python daemon/job/tests/model_sizes.py
"""

import json
import pathlib

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

DEEPSEEK = dict(
    model_type="deepseek_v3", vocab_size=96, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=4, n_shared_experts=1, n_routed_experts=8, kv_lora_rank=16, q_lora_rank=12,
    qk_rope_head_dim=8, v_head_dim=10, qk_nope_head_dim=6, n_group=2, topk_group=1, num_experts_per_tok=2, first_k_dense_replace=1,
    tie_word_embeddings=False, max_position_embeddings=64,
)
QWEN = dict(
    model_type="qwen2", vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, tie_word_embeddings=False, max_position_embeddings=64,
)
CASES = [
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
    idle = 0
    for name, p in model.named_parameters():
        if ".experts." in name:
            idle += p.numel() // config.n_routed_experts * (config.n_routed_experts - config.num_experts_per_tok)
    cache = DynamicCache()
    model(torch.tensor([[1, 2, 3]]), past_key_values=cache)
    values = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    if case["model_type"] == "deepseek_v3" and values % (3 * (config.kv_lora_rank + config.qk_rope_head_dim)):
        # A transformers that caches expanded keys and values: r1d caches the latent and the rotary part (DeepSeek-V2 2.1.3).
        values = 3 * config.num_hidden_layers * (config.kv_lora_rank + config.qk_rope_head_dim)
    return dict(
        config=case, architecture=type(model).__name__, parameters=parameters, active_parameters=parameters - idle,
        cache_values_per_token=values // 3,
    )


path = pathlib.Path(__file__).parent / "job/golden/model_sizes.json"
path.write_text(json.dumps([size(case) for case in CASES], indent=1) + "\n")
print(path.read_text())
