"""What differs between families of models that can be cut: names, kinds and defaults, no code.

To add a family, add an entry to families_image.py, families_text.py or families_language.py; a new
kind of extra input for the blocks also needs a function in block_inputs.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Modality = Literal["image", "text"]
Pool = Literal["cls", "cls+mean", "cls+distillation", "mean", "pooler", "map", "every"]
Activation = Literal["tanh", "gelu", "relu"]
BlockInputs = Literal["mask", "relative", "local-global", "patch-rotary", "causal"]
Windows = Literal["none", "every", "by-block"]
# A setting: a constant, or the key of config.json that holds it and its value if the key is absent.
Flag = bool | tuple[str, bool]


@dataclass(frozen=True, kw_only=True)
class Head:
    """The layers that give logits, as paths in the model; training starts with new ones.

    outputs: linear layers that give logits; if there are several, each reads its own pooled vector
    and their mean is taken. hidden: a linear layer before them, followed by `activation`, which the
    setting `activation_key` of config.json may name. own: the head is the checkpoint's own, as in
    language models: it is read with the other weights and stays frozen.
    """

    outputs: tuple[str, ...] = ("classifier",)
    hidden: str | None = None
    activation: Activation = "tanh"
    activation_key: str | None = None
    own: bool = False

    @property
    def linears(self) -> tuple[str, ...]:
        """All linear layers of the head, in the order they are computed."""
        return self.outputs if self.hidden is None else (self.hidden, *self.outputs)

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules directly below the whole model that hold these layers."""
        return tuple(dict.fromkeys(path.split(".")[0] for path in self.linears))

    @property
    def trained(self) -> tuple[str, ...]:
        """The modules that are trained and that PEFT saves: all; none if the head is `own`."""
        return () if self.own else self.modules


# There is one object for each family; families are compared and hashed by identity.
@dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """How Hugging Face names and builds the parts of one `model_type`.

    module, architecture, config: where the classification class and its config class are.
    base: attribute of the classification model that holds all but the head. Paths below it:
    `embeddings` (all modules that come before the blocks), `blocks`, `norm` (None: nothing
    normalises the last block's output), `unused` (modules that classification never runs),
    `shared` (modules that every part with blocks needs) and `after_first` (what is computed with
    the first block).
    neck: path, in the classification model, of frozen layers between pooling and head;
    neck_linear: the linear layer in it. head: the layers trained anew.
    pool: what the head reads ("every": each token by itself). block_inputs: what a block takes
    besides the hidden state. windows: which causal blocks look no further back than the config's
    sliding_window (by-block: those that its layer_types name).
    query ... down: linear layers of a block, as paths below it; fused: one layer gives queries,
    keys and values; gated: the MLP is gated, with the layers `gated_up` and `gated_down`.
    transposed: their weights are [inputs, outputs] (transformers' Conv1D). head_norms: queries and
    keys are normalised head by head. tied: the head is the embedding's table.
    post_norm: norms come after the sums of a block, not before. norm_bias: norms have a bias.
    prefix: tokens before the patches, registers not counted. positions: the embedding has a
    position table; its first `positions_from_pad` + pad rows are never used by a token.
    position_table: the table as a module of its own, beside the one of tokens.
    one_adapter_a_pass: a block computes something once for all samples with layers that may carry
    adapters, so that samples of different adapters go through one after the other.
    section: the key of config.json that holds the tower's own settings. keys: names of settings
    in config.json that differ from the usual ones. defaults: of settings that are not in it.
    """

    module: str
    architecture: str
    config: str
    modality: Modality
    base: str
    blocks: str
    norm: str | None
    pool: Pool
    embeddings: tuple[str, ...] = ("embeddings",)
    unused: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    after_first: tuple[str, ...] = ()
    neck: str | None = None
    neck_linear: str | None = None
    neck_bias: Flag = True
    neck_norm: bool = False
    head: Head = field(default_factory=Head)
    block_inputs: BlockInputs = "mask"
    windows: Windows = "none"
    query: str = "attention.q_proj"
    key: str = "attention.k_proj"
    value: str = "attention.v_proj"
    output: str = "attention.o_proj"
    fused: str | None = None
    up: str = "mlp.fc1"
    down: str = "mlp.fc2"
    gated: Flag = False
    gated_up: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    gated_down: str = "mlp.down_proj"
    query_bias: Flag = True
    key_bias: Flag = True
    value_bias: Flag = True
    output_bias: Flag = True
    mlp_bias: Flag = True
    mlp_by_ratio: bool = False
    transposed: bool = False
    head_norms: bool = False
    tied: Flag = False
    post_norm: bool = False
    norm_bias: Flag = True
    first_norm: bool = True
    layer_scale: bool = False
    prefix: int = 1
    registers: bool = False
    positions: Flag = True
    positions_from_pad: bool = False
    position_table: str | None = None
    patch_bias: bool = True
    embedding_norm: bool = False
    asks_to_interpolate: bool = False
    one_adapter_a_pass: bool = False
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    section: str | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, int | str] = field(default_factory=dict)

    @property
    def places_in_blocks(self) -> bool:
        """Whether blocks need to know the position of each token in its sample."""
        return self.block_inputs != "mask"

    @property
    def language(self) -> bool:
        """Whether it is a language model, which predicts after each token the next one."""
        return self.pool == "every"

    @property
    def rotates(self) -> bool:
        """Whether blocks of a text model rotate queries and keys by their token's position."""
        return "rotary_emb" in self.shared
