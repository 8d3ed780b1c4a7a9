"""Families of causal language models, by the `model_type` of their config.json."""

from dataclasses import replace
from typing import Any

from cutlayer.model.family import Family, Flag, Head


def _classes(kind: str, name: str) -> dict[str, Any]:
    """The module and class names of a decoder, which transformers forms by one rule."""
    return {
        "module": f"transformers.models.{kind}.modeling_{kind}",
        "architecture": f"{name}ForCausalLM",
        "config": f"{name}Config",
    }


def _attention_bias(flag: Flag) -> dict[str, Any]:
    """One rule for the bias of all four layers of attention."""
    return dict.fromkeys(("query_bias", "key_bias", "value_bias", "output_bias"), flag)


_LLAMA = Family(
    **_classes("llama", "Llama"),
    **_attention_bias(("attention_bias", False)),
    modality="text",
    base="model",
    embeddings=("embed_tokens",),
    blocks="layers",
    norm="norm",
    shared=("rotary_emb",),
    pool="every",
    head=Head(outputs=("lm_head",), own=True),
    tied=("tie_word_embeddings", False),
    block_inputs="causal",
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    output="self_attn.o_proj",
    gated=True,
    mlp_bias=("mlp_bias", False),
    norm_bias=False,
    positions=False,
    prefix=0,
    defaults={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
    },
)
_QWEN2 = replace(
    _LLAMA,
    **_classes("qwen2", "Qwen2"),
    windows="by-block",
    **(_attention_bias(True) | {"output_bias": False}),
    mlp_bias=False,
    defaults={
        **_LLAMA.defaults,
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "max_position_embeddings": 32768,
        "num_key_value_heads": 32,
    },
)

FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    "mistral": replace(
        _LLAMA,
        **_classes("mistral", "Mistral"),
        windows="every",
        **_attention_bias(False),
        mlp_bias=False,
        defaults={
            **_LLAMA.defaults,
            "intermediate_size": 14336,
            "max_position_embeddings": 131072,
            "num_key_value_heads": 8,
        },
    ),
    "qwen2": _QWEN2,
    "qwen3": replace(
        _QWEN2,
        **_classes("qwen3", "Qwen3"),
        head_norms=True,
        **_attention_bias(("attention_bias", False)),
        defaults={**_QWEN2.defaults, "head_dim": 128},
    ),
    "gemma": replace(
        _LLAMA,
        **_classes("gemma", "Gemma"),
        tied=("tie_word_embeddings", True),
        mlp_bias=False,
        defaults={
            "vocab_size": 256000,
            "hidden_size": 3072,
            "intermediate_size": 24576,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "head_dim": 256,
            "max_position_embeddings": 8192,
        },
    ),
    "gpt2": Family(
        module="transformers.models.gpt2.modeling_gpt2",
        architecture="GPT2LMHeadModel",
        config="GPT2Config",
        modality="text",
        base="transformer",
        embeddings=("wte", "wpe"),
        position_table="wpe",
        blocks="h",
        norm="ln_f",
        pool="every",
        head=Head(outputs=("lm_head",), own=True),
        tied=("tie_word_embeddings", True),
        block_inputs="causal",
        transposed=True,
        fused="attn.c_attn",
        output="attn.c_proj",
        up="mlp.c_fc",
        down="mlp.c_proj",
        mlp_by_ratio=True,
        prefix=0,
        targets=("c_attn",),
        keys={
            "hidden_size": "n_embd",
            "num_hidden_layers": "n_layer",
            "num_attention_heads": "n_head",
            "intermediate_size": "n_inner",
            "max_position_embeddings": "n_positions",
            "hidden_act": "activation_function",
        },
        defaults={
            "vocab_size": 50257,
            "max_position_embeddings": 1024,
            "hidden_act": "gelu_new",
        },
    ),
}
