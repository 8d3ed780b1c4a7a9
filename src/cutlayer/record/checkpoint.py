"""The state a run resumes from."""

from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from cutlayer.errors import RunError
from cutlayer.files import write_atomically
from cutlayer.model.lora import Adapter

_GLOBAL = "global"
_MOMENTS = "server-"


@dataclass
class RunState:
    """What a run needs to go on after `rounds` rounds: everything else follows from the seed.

    adapter: the global adapter. kept: adapters of devices that keep their own, by device. moments:
    what the server's optimiser keeps (see train.server_optimizer), by kind; none where it averages.
    """

    rounds: int
    adapter: Adapter
    kept: dict[int, Adapter] = field(default_factory=dict)
    moments: dict[str, Adapter] = field(default_factory=dict)


def save_state(path: Path, state: RunState) -> None:
    """Write a state as one safetensors file, atomically."""
    owners = {_GLOBAL: state.adapter, **{str(k): a for k, a in state.kept.items()}}
    owners |= {_MOMENTS + kind: tensors for kind, tensors in state.moments.items()}
    tensors = {
        f"{owner}/{name}": tensor.detach().cpu().contiguous()
        for owner, adapter in owners.items()
        for name, tensor in adapter.items()
    }
    write_atomically(path, save(tensors, metadata={"rounds": str(state.rounds)}))


def load_state(path: Path) -> RunState:
    """Read a state. Raises RunError when there is none or it is damaged."""
    owners: dict[str, Adapter] = {}
    try:
        with safe_open(path, framework="pt") as file:
            rounds = int(file.metadata()["rounds"])
            for key in file.keys():  # noqa: SIM118 - not a dict
                owner, _, name = key.partition("/")
                owners.setdefault(owner, {})[name] = file.get_tensor(key)
        adapter = owners.pop(_GLOBAL)
        kinds = [owner for owner in owners if owner.startswith(_MOMENTS)]
        moments = {kind.removeprefix(_MOMENTS): owners.pop(kind) for kind in kinds}
        kept = {int(owner): tensors for owner, tensors in owners.items()}
    except FileNotFoundError:
        raise RunError(
            f"--resume: {path.parent} has no finished round to resume from: "
            "start it again without --resume"
        ) from None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"--resume: {path} is damaged ({error}): start the run again in a new folder"
        ) from None
    return RunState(rounds, adapter, kept, moments)
