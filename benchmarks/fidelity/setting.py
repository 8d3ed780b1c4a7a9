"""The setting all radio claims are measured in: ST-SFLora's, and our numbers where it gives none.

The paper gives no reference loss, K_min, E_max, t_bar, cut or participation rate.
REFERENCE_LOSS_DB is set so that a round carries what the paper's STE values imply, about 3.3
bit/s/Hz; the rest is ours, and swept where a claim depends on it.
"""

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from cutlayer.allocate import equal
from cutlayer.allocate.radio_math import Floats, Ints
from cutlayer.allocate.token_problem import TokenProblem
from cutlayer.model.cost import Cost, device_cost
from cutlayer.model.families import ModelSpec, describe
from cutlayer.seeds import numpy_rng
from cutlayer.settings.model import Lora, Model
from cutlayer.settings.world import WorldSettings
from cutlayer.world.energy import compute_s
from cutlayer.world.world import World

BATCH = 64
CUT = 2
CLIENTS = 100
PARTICIPANTS = 10.0
REFERENCE_LOSS_DB = 53.0
TOKENS_MIN = 16
ENERGY_MAX_J = 1.0
STAY_MAX_S = 60.0
BANDWIDTH_HZ = 50e6
SEEDS = range(20)

VIT = {
    "ViT-S/16": {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536},
    "ViT-B/16": {},
}


@cache
def vit(name: str, side: Literal["both", "server"] = "both") -> ModelSpec:
    """A ViT of the paper, cut after two blocks, LoRA of rank 16; no weights are needed."""
    lora = Lora(rank=16, side=side, targets=("q_proj", "k_proj", "v_proj", "fc1", "fc2"))
    with tempfile.TemporaryDirectory() as folder:
        config = {"model_type": "vit", **VIT[name]}
        (Path(folder) / "config.json").write_text(json.dumps(config))
        return describe(Model(path=folder, cut=CUT, lora=lora), 0)


@cache
def device_part() -> Cost:
    """What a device of ST-SFLora runs: ViT-S/16's embedding and first two blocks, frozen."""
    return device_cost(vit("ViT-S/16", "server"), CUT)


def problem(
    seed: int,
    curves: Floats,
    *,
    members: Ints | None = None,
    clients: int = CLIENTS,
    participants: float = PARTICIPANTS,
    bandwidth_hz: float = BANDWIDTH_HZ,
    energy_max_j: float = ENERGY_MAX_J,
    stay_max_s: float = STAY_MAX_S,
    tokens_min: int = TOKENS_MIN,
    reference_loss_db: float | None = REFERENCE_LOSS_DB,
) -> tuple[TokenProblem, Ints]:
    """P0 of round `seed`, and which of the clients are in it.

    A Poisson number of the clients, each with one of `curves` [., N + 1]. Unless `members` are
    named, whoever would be late with K_min tokens and an equal share is left out; the broadcast
    goes at the worst gain, so the worst is left out first and the others are tested again
    (inferred by us).
    """
    settings = WorldSettings(bandwidth_hz=bandwidth_hz, reference_loss_db=reference_loss_db)
    world = World(settings, clients, seed)
    state = world.state(0, 0.0)
    rng = numpy_rng(seed, "fidelity")
    images = rng.integers(len(curves), size=clients)
    count = min(clients, max(2, int(rng.poisson(participants))))
    cohort = rng.choice(clients, count, replace=False)
    forward_s = compute_s(BATCH * device_part().forward_flops, world.fleet)

    def made(devices: Ints) -> TokenProblem:
        speed = world.radio.broadcast_bps(
            bandwidth_hz, settings.server_power_w, state.gain_down[devices]
        )
        return TokenProblem(
            gain=state.gain_up[devices],
            power_max_w=world.fleet.power_max_w[devices],
            energy_max_j=energy_max_j,
            time_max_s=stay_max_s,
            fixed_time_s=forward_s[devices] + 8 * device_part().parameter_bytes / speed,
            bits_per_token=BATCH * vit("ViT-S/16").width * 32.0,
            importance=curves[images[devices]],
            bandwidth_total_hz=bandwidth_hz,
            noise_w_per_hz=world.radio.noise_w_per_hz,
            tokens_min=tokens_min,
        )

    if members is not None:
        return made(members), members
    devices = cohort[np.argsort(-state.gain_up[cohort], kind="stable")]
    while len(devices) > 1 and not equal.takes_part(made(devices)).all():
        devices = devices[: len(devices) - max(1, len(devices) // 50)]
    return made(devices), devices
