"""The state a run resumes from."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from cutlayer.errors import RunError
from cutlayer.files import open_plain, write_atomically
from cutlayer.model.lora import Adapter
from cutlayer.record.folder import STATE_FILE, STATES_FOLDER

_GLOBAL = "global"
_MOMENTS = "server-"
_CODING = "coding"


@dataclass
class RunState:
    """What a run needs to go on after `rounds` rounds: everything else follows from the seed.

    adapter: the global adapter. kept: adapters of devices that keep their own, by device. moments:
    what the server's optimiser keeps (see train.server_optimizer), by kind; none where it averages.
    coding: of uplinks whose codec is fitted, the basis and who has it (see train.server_coding).
    """

    rounds: int
    adapter: Adapter
    kept: dict[int, Adapter] = field(default_factory=dict)
    moments: dict[str, Adapter] = field(default_factory=dict)
    coding: dict[str, torch.Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> "RunState":
        """The state with its tensors on `device`; those of the codec's basis stay on the CPU."""

        def moved(adapter: Adapter) -> Adapter:
            return {name: tensor.to(device) for name, tensor in adapter.items()}

        return RunState(
            self.rounds,
            moved(self.adapter),
            {number: moved(adapter) for number, adapter in self.kept.items()},
            {kind: moved(tensors) for kind, tensors in self.moments.items()},
            self.coding,
        )


def save_state(path: Path, state: RunState) -> None:
    """Write a state as one safetensors file, atomically.

    Raises RunError for a state that is not finite, which is not written.
    """
    owners = {_GLOBAL: state.adapter, **{str(k): a for k, a in state.kept.items()}}
    owners |= {_MOMENTS + kind: tensors for kind, tensors in state.moments.items()}
    owners[_CODING] = state.coding
    for owner, adapter in owners.items():
        if not is_finite(adapter):
            raise RunError(
                f"training: what is kept of {owner} is not finite after round {state.rounds}: "
                f"lower training.lr; the last good state, of round {state.rounds - 1}, is kept"
            )
    tensors = {
        f"{owner}/{name}": tensor.detach().cpu().contiguous()
        for owner, adapter in owners.items()
        for name, tensor in adapter.items()
    }
    write_atomically(path, save(tensors, metadata={"rounds": str(state.rounds)}))


def commit_state(folder: Path, state: RunState, keep: int) -> None:
    """Save `state` as the latest of the run in `folder`, beside the states of earlier rounds.

    keep: of how many rounds, the last one included. Raises as `save_state`.
    """
    save_state(folder / STATE_FILE, state)
    kept = folder / STATES_FOLDER
    kept.mkdir(exist_ok=True)
    save_state(kept / f"round-{state.rounds:06d}.safetensors", state)
    for path in _kept_states(folder)[keep:]:
        path.unlink()


def states_of(folder: Path, say: Callable[[str], object]) -> Iterator[RunState]:
    """The states of the run in `folder` that can be read, the latest first.

    say: told of each that cannot.
    """
    for path in (folder / STATE_FILE, *_kept_states(folder)):
        try:
            yield load_state(path)
        except RunError as error:
            say(str(error))


def _kept_states(folder: Path) -> list[Path]:
    return sorted((folder / STATES_FOLDER).glob("round-*.safetensors"), reverse=True)


def is_finite(adapter: Adapter) -> bool:
    """Whether an adapter holds neither NaN nor infinity."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in adapter.values())


def load_state(path: Path) -> RunState:
    """Read a state, onto the CPU. Raises RunError when there is none or it is damaged."""
    owners: dict[str, Adapter] = {}
    try:
        open_plain(path).close()  # a pipe would hang, and a device never end
        with safe_open(path, framework="pt") as file:
            rounds = int(file.metadata()["rounds"])
            for key in file.keys():  # noqa: SIM118 - not a dict
                owner, _, name = key.partition("/")
                owners.setdefault(owner, {})[name] = file.get_tensor(key)
        adapter, coding = owners.pop(_GLOBAL), owners.pop(_CODING, {})
        if rounds < 1 or not all(map(is_finite, (adapter, *owners.values()))):
            raise ValueError("its values are not finite, or its round is none")
        kinds = [owner for owner in owners if owner.startswith(_MOMENTS)]
        moments = {kind.removeprefix(_MOMENTS): owners.pop(kind) for kind in kinds}
        kept = {int(owner): tensors for owner, tensors in owners.items()}
    except FileNotFoundError:
        raise RunError(
            f"--resume: {path.parent} has no finished round to resume from: "
            "start it again without --resume"
        ) from None
    except (
        OSError, SafetensorError, LookupError, TypeError, ValueError, RuntimeError, MemoryError,
    ) as error:  # fmt: skip
        raise RunError(
            f"--resume: {path} is damaged ({error}): start the run again in a new folder"
        ) from None
    return RunState(rounds, adapter, kept, moments, coding)
