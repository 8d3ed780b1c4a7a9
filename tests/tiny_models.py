"""Tiny random checkpoints of every family, and the unsplit models they are compared with."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutlayer.model.bank import Segment
from cutlayer.model.cut import CutModel
from cutlayer.model.families import FAMILIES
from cutlayer.model.lora import Adapter
from cutlayer.model.names import VARIANTS as FAMILY_VARIANTS
from cutlayer.settings.model import Lora, Model

OF_TEACHERS = FAMILY_VARIANTS["DeiTForImageClassificationWithTeacher"]
CLASSES = 5
DEPTH = 3
VISION = {
    "hidden_size": 24,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 3,
    "image_size": 16,
    "patch_size": 4,
    "num_channels": 3,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "vit": {**VISION, "intermediate_size": 40},
    "deit": {**VISION, "intermediate_size": 40},
    "dinov2": {**VISION, "mlp_ratio": 2},
    "dinov2_with_registers": {**VISION, "mlp_ratio": 2, "num_register_tokens": 3},
    "bert": {
        "vocab_size": 60,
        "hidden_size": 24,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "max_position_embeddings": 20,
    },
}
TEXT = CONFIGS["bert"]
CONFIGS |= {
    "roberta": {**TEXT, "pad_token_id": 0},
    "xlm-roberta": {**TEXT, "pad_token_id": 0},
    "electra": {**TEXT, "embedding_size": 16},
    "distilbert": {
        "vocab_size": 60,
        "dim": 24,
        "n_layers": DEPTH,
        "n_heads": 3,
        "hidden_dim": 40,
        "max_position_embeddings": 20,
    },
    "deberta-v2": {
        **TEXT,
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 4,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
    },
    # Blocks 0 and 2 look everywhere, block 1 at one neighbour on each side.
    "modernbert": {
        **TEXT,
        "global_attn_every_n_layers": 2,
        "local_attention": 2,
        "pad_token_id": 0,
        "cls_token_id": 1,
        "sep_token_id": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "dinov3_vit": {**VISION, "intermediate_size": 40, "num_register_tokens": 2},
    "clip": {"vision_config": {**VISION, "intermediate_size": 40}},
    "siglip": {"vision_config": {**VISION, "intermediate_size": 40}},
}
# Four heads of queries share two of keys.
DECODER: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
DECODERS: dict[str, dict[str, Any]] = {
    "llama": DECODER,
    "mistral": {**DECODER, "sliding_window": 4},
    "qwen2": {
        **DECODER, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2,
        "tie_word_embeddings": True,
    },
    "qwen3": {**DECODER, "head_dim": 12},
    "gemma": {**DECODER, "num_key_value_heads": 1, "head_dim": 12},
    "gpt2": {
        "vocab_size": 60, "n_embd": 32, "n_layer": DEPTH, "n_head": 4, "n_positions": 64,
        "bos_token_id": 1, "eos_token_id": 2,
    },
}  # fmt: skip
CONFIGS |= DECODERS
# Checkpoints that differ from others of their family in what is computed: family and settings.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "dinov2-swiglu": ("dinov2", {"mlp_ratio": 2, "use_swiglu_ffn": True}),
    "dinov3-gated": ("dinov3_vit", {"use_gated_mlp": True}),
    "deberta-v2-own-keys": (
        "deberta-v2",
        {"share_att_key": False, "position_biased_input": True, "type_vocab_size": 2},
    ),
    "deberta-v2-conv": (
        "deberta-v2",
        {"conv_kernel_size": 3, "conv_act": "gelu", "pos_att_type": "c2p", "embedding_size": 16},
    ),
    "deberta-v2-plain": ("deberta-v2", {"relative_attention": False, "norm_rel_ebd": "none"}),
    "modernbert-mean": ("modernbert", {"classifier_pooling": "mean", "norm_bias": True}),
    "electra-wide": ("electra", {"embedding_size": 24}),
    "distilled": ("deit", {"teacher": True}),
    # Rotary frequencies stretched for long texts, as Llama 3 has them; wide heads.
    "llama-long": (
        "llama",
        {
            "head_dim": 12,
            "attention_bias": True,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8,
            },
        },
    ),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "gpt2-wide": ("gpt2", {"n_inner": 40}),
}
LANGUAGE = [name for name in (*CONFIGS, *VARIANTS) if VARIANTS.get(name, (name,))[0] in DECODERS]
EVERY = [name for name in (*CONFIGS, *VARIANTS) if name not in LANGUAGE]
"""Classifiers; `LANGUAGE` are language models."""
# All linear layers of the blocks, and of what stands between blocks and head.
ALL_LINEAR = {
    "vit": ("q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"),
    "bert": ("query", "key", "value", "dense"),
    "distilbert": ("q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"),
    "deberta-v2": ("query_proj", "key_proj", "value_proj"),
    "deberta-v2-own-keys": ("query_proj", "pos_key_proj", "pos_query_proj"),
    "modernbert": ("Wqkv", "Wi", "Wo", "head.dense"),
    "clip": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
    "qwen3": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "gpt2": ("c_attn", "c_proj", "c_fc"),
}
# Three stages; images of 16 pixels are maps of 4, 4, 2 and 1 pixels a side at its five cuts.
RESNETS: dict[str, dict[str, Any]] = {
    "basic": {"layer_type": "basic", "hidden_sizes": [6, 8, 10], "depths": [2, 1, 1]},
    "bottleneck": {"layer_type": "bottleneck", "hidden_sizes": [8, 12, 16], "depths": [1, 2, 1]},
    "early": {
        "layer_type": "bottleneck",
        "hidden_sizes": [8, 12, 16],
        "depths": [2, 1, 1],
        "downsample_in_first_stage": True,
        "downsample_in_bottleneck": True,
    },
}
RESNET_DEPTH = 4


def family_of(name: str) -> str:
    """The `model_type` of a checkpoint of `EVERY`."""
    return VARIANTS[name][0] if name in VARIANTS else name


def is_text(name: str) -> bool:
    """Whether a checkpoint of `EVERY` reads texts."""
    return FAMILIES[family_of(name)].modality == "text"


def build(name: str, **overrides: Any) -> nn.Module:
    """A Hugging Face classification model of `EVERY` whose every tensor is random."""
    family, settings = VARIANTS.get(name, (name, {}))
    values = {**CONFIGS.get(family, {}), **settings, **overrides}
    names = OF_TEACHERS if values.pop("teacher", False) else FAMILIES[family]
    package = importlib.import_module(names.module)
    section = names.section
    if section is not None:  # a tower's own settings are given flat
        flat = {key: values.pop(key) for key in list(values) if key != section}
        values[section] = {**values[section], **flat}
    config = getattr(package, names.config)(**values)
    config.num_labels = CLASSES
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = getattr(package, names.architecture)(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape))
            for name, buffer in model.named_buffers():
                if name.endswith(("running_mean", "running_var")):
                    buffer.add_(torch.rand(buffer.shape))
    return model.eval()


def write_resnet(folder: Path, kind: str = "basic", **overrides: Any) -> Path:
    """A checkpoint folder of a tiny ResNet for images of 16 pixels."""
    return write(
        folder, "resnet", **{"embedding_size": 6, "image_size": 16, **RESNETS[kind], **overrides}
    )


def write(folder: Path, name: str, **overrides: Any) -> Path:
    """A checkpoint folder of a tiny model of `EVERY`."""
    build(name, **overrides).save_pretrained(folder)
    return folder


def write_all(root: Path, names: Iterable[str] = EVERY) -> dict[str, Path]:
    """Checkpoint folders of tiny models, by name."""
    return {name: write(root / name, name) for name in names}


def settings(
    path: Path | str, cut: int = 1, lora: dict[str, Any] | None = None, **more: Any
) -> Model:
    """The job's model section for a checkpoint."""
    chosen = Lora(**{"rank": 4, "alpha": 6.0, **(lora or {})})
    return Model(path=str(path), cut=cut, lora=chosen, **{"max_tokens": 12, **more})


def random_adapter(model: CutModel, seed: int) -> Adapter:
    """An adapter in training: no tensor of it is zero."""
    adapter = model.new_adapter(seed)
    generator = torch.Generator().manual_seed(seed)
    for key, value in adapter.items():
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        adapter[key] = (value + 0.1 * noise).to(value.dtype).requires_grad_(model.trained(key))
    return adapter


def inputs_of(model: CutModel, batch: int, seed: int = 0) -> dict[str, Tensor]:
    """Random images, or random texts of different lengths, padded."""
    spec = model.spec
    generator = torch.Generator().manual_seed(seed)
    if spec.modality == "image":
        shape = (batch, spec.channels, spec.image_size, spec.image_size)
        return {"pixel_values": torch.randn(shape, generator=generator).to(model.dtype)}
    ids = torch.randint(1, spec.vocabulary, (batch, spec.max_tokens), generator=generator)
    lengths = torch.randint(3, spec.max_tokens + 1, (batch,), generator=generator)
    lengths[0] = spec.max_tokens
    mask = (torch.arange(spec.max_tokens)[None] < lengths[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def labels_of(batch: int) -> Tensor:
    """Labels that take every class in turn."""
    return torch.arange(batch) % CLASSES


def targets_of(model: CutModel, inputs: dict[str, Tensor]) -> Tensor:
    """Labels [B]; of a language model the token [B,T] that follows each, -100 where none does."""
    if not model.spec.parts.language:
        return labels_of(len(next(iter(inputs.values()))))
    following = torch.roll(inputs["input_ids"], -1, 1)
    there = torch.roll(inputs["attention_mask"], -1, 1).bool()
    there[:, -1] = False
    return following.masked_fill(~there, -100)


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean cross-entropy of logits [B,C] or [B,T,V]."""
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten())


def hugging_face(model: CutModel) -> nn.Module:
    """The whole classification model by `from_pretrained`, as a user of PEFT has it."""
    names = model.spec.parts
    package = importlib.import_module(names.module)
    architecture = getattr(package, names.architecture)
    return architecture.from_pretrained(
        model.spec.path, num_labels=model.spec.num_classes, dtype=model.dtype
    ).eval()


def with_peft(model: CutModel, adapter: Adapter) -> nn.Module:
    """The unsplit PEFT model that holds the values of `adapter`."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=model.spec.lora.rank,
        lora_alpha=model.spec.lora.alpha,
        target_modules=list(model.spec.targets),
        modules_to_save=list(model.spec.parts.head.trained),
        fan_in_fan_out=model.spec.parts.transposed,
    )
    whole = get_peft_model(hugging_face(model), config)
    named = dict(whole.named_parameters())
    with torch.no_grad():
        for key, value in adapter.items():
            named[peft_name(model, key)].copy_(value)
    return whole.eval()


def peft_name(model: CutModel, key: str) -> str:
    """The parameter in a PeftModel that an adapter's key stands for."""
    first, _, rest = key.partition(".")
    if first in model.spec.parts.head.trained:
        return f"base_model.model.{first}.modules_to_save.default.{rest}"
    path, _, leaf = key.rpartition(".")
    return f"base_model.model.{path}.default.{leaf}"


def with_weights(model: CutModel, adapter: Adapter) -> nn.Module:
    """The unsplit Hugging Face model that holds the values of a fully trained `adapter`."""
    whole = hugging_face(model)
    found = whole.load_state_dict({k: v.detach() for k, v in adapter.items()}, strict=False)
    assert not found.unexpected_keys
    unused = tuple(f"{model.spec.parts.base}.{path}" for path in model.spec.parts.unused)
    assert all(
        k.endswith(("num_batches_tracked", "mask_token")) or k.startswith(unused)
        for k in found.missing_keys
    )
    return whole


def split_step(
    model: CutModel, adapter: Adapter, inputs: dict[str, Tensor], labels: Tensor, cut: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients with nothing but activations and their gradient crossing the cut."""
    device = {name: adapter[name] for name in model.device_names(cut)}
    server = {name: adapter[name] for name in model.server_names(cut)}
    assert device.keys() | server.keys() == adapter.keys()
    sent = model.device_forward(inputs, cut, [Segment(device, len(labels))])
    hidden = sent.hidden.detach()
    if sent.mask is not None:  # padding does not cross the cut, and arrives as zeros
        hidden = hidden * sent.mask[..., None]
    hidden.requires_grad_(True)
    logits = model.server_forward(hidden, sent.mask, cut, [Segment(server, len(labels))])
    loss = loss_of(logits, labels)
    loss.backward()
    if device:
        sent.hidden.backward(hidden.grad)
    return loss.detach(), take_grads(adapter)


def u_shaped_step(
    model: CutModel, adapter: Adapter, inputs: dict[str, Tensor], labels: Tensor, cut: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """As `split_step` with the model's tail on the device: four messages, none of them a label."""
    tail = {name: adapter[name] for name in model.tail_names}
    first = {name: adapter[name] for name in model.names_before(cut)}
    server = {name: adapter[name] for name in model.server_names(cut)}
    assert len(tail) + len(first) + len(server) == len(adapter)
    count = len(labels)
    sent = model.device_forward(inputs, cut, [Segment(first, count)])
    hidden = received(sent.hidden, sent.mask)
    features = model.middle_forward(hidden, sent.mask, cut, [Segment(server, count)])
    returned = received(features, sent.mask)
    loss = loss_of(model.tail_forward(returned, sent.mask, [Segment(tail, count)]), labels)
    loss.backward()
    features.backward(returned.grad)
    if first:
        sent.hidden.backward(hidden.grad)
    return loss.detach(), take_grads(adapter)


def received(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """What crossed, as a leaf: padding does not cross, and arrives as zeros."""
    came = hidden.detach() if mask is None else hidden.detach() * mask[..., None]
    return came.requires_grad_(True)


def take_grads(adapter: Adapter) -> dict[str, Tensor]:
    """The gradients of an adapter's tensors, which then have none."""
    grads = {key: value.grad for key, value in adapter.items() if value.grad is not None}
    for value in adapter.values():
        value.grad = None
    return grads


def assert_same_step(
    ours: tuple[Tensor, dict[str, Tensor]], theirs: tuple[Tensor, dict[str, Tensor]], rel: float
) -> None:
    """Loss and every gradient agree, relative to the norm of each."""
    torch.testing.assert_close(ours[0], theirs[0], rtol=rel, atol=0)
    assert ours[1].keys() == theirs[1].keys()
    for key, expected in theirs[1].items():
        assert expected.norm() > 0, key
        assert (ours[1][key] - expected).norm() <= rel * expected.norm(), key


def unsplit_logits(whole: nn.Module, model: CutModel, inputs: dict[str, Tensor]) -> Tensor:
    """Logits of a whole Hugging Face model, which may need to be told to interpolate."""
    more = {"interpolate_pos_encoding": True} if model.spec.parts.asks_to_interpolate else {}
    return whole(**inputs, **more).logits


CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def write_language(folder: Path, name: str = "llama", **overrides: Any) -> Path:
    """A checkpoint folder of a tiny language model, with a tokenizer of letters that can chat."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = ["<pad>", "<s>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz", *" .,:|-<>/\n"]
    tokenizer = Tokenizer(models.WordLevel({x: i for i, x in enumerate(letters)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.chat_template = CHAT
    write(folder, name, **overrides)
    fast.save_pretrained(folder)
    return folder
