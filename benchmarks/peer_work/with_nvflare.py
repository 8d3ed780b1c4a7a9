"""NVFLARE's Collab: split learning, a process for each device, all started by its simulator.

As in NVFLARE's own example of split learning, each step calls `forward` on the devices, trains the
server's blocks, and calls `backward` with the gradient. The server has one adapter for all devices,
as cutlayer's `method.server_adapter: shared`; the devices' adapters are averaged at a round's end.
Bytes are those of the tensors that calls and answers carry, without NVFLARE's own headers.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from nvflare.collab import CollabRecipe, collab
from nvflare.recipe import SimEnv
from torch import Tensor, nn

from work import Told, Work, size_of, take, trained

WAIT_S = 120.0
"""Seconds that a call waits for its answer."""


class _ReachedError(Exception):
    """Ends a pass at the cut."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


class Half(nn.Module):
    """The model's blocks before its cut, or those after it; only their tensors are trained."""

    def __init__(self, work: Work, of_device: bool) -> None:
        super().__init__()
        self.model = work.make_model()
        lists = [one for one in self.model.modules() if isinstance(one, nn.ModuleList)]
        blocks = max(lists, key=len)
        before = {id(one) for block in blocks[: work.cut] for one in block.parameters()}
        for one in self.model.parameters():
            if one.requires_grad and (id(one) in before) != of_device:
                one.requires_grad_(False)
        self._given: Tensor | None = None
        blocks[work.cut].register_forward_pre_hook(self._stop if of_device else self._swap)
        if not of_device:
            for number in range(work.cut):
                blocks[number] = _Same()

    def _stop(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        raise _ReachedError(given[0])

    def _swap(self, module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._given, *given[1:])

    def hidden(self, pixels: Tensor) -> Tensor:
        """Activations at the cut [B, T, D]."""
        try:
            self.model(pixel_values=pixels)
        except _ReachedError as reached:
            return reached.hidden
        raise RuntimeError("the model never reached its cut")

    def logits(self, hidden: Tensor, pixels: Tensor) -> Tensor:
        """[B, classes] from activations at the cut; pixels: any, of the right shape."""
        self._given = hidden
        found: Tensor = self.model(pixel_values=pixels).logits
        return found


class _Same(nn.Module):
    """Stands in for a block of the other side."""

    def forward(self, hidden: Tensor, *given: Any, **named: Any) -> Tensor:
        return hidden


class Device:
    """One device: its images and the blocks before the cut."""

    @collab.publish
    def begin(self, given: dict[str, Tensor] | None) -> dict[str, Tensor] | None:
        """Start a round from the average; the first call loads everything and tells its tensors."""
        if given is None:
            self.work = Work.read(Path(os.environ["PEER_WORK"]))
            self.half = Half(self.work, of_device=True)
            number = int(collab.site_name.rsplit("-", 1)[1]) - 1
            self.pixels, self.labels = self.work.device(number)
        else:
            take(self.half, given)
        self.optimizer = self.work.optimizer(list(trained(self.half).values()))
        return None if given else self.end()

    @collab.publish
    def forward(self, step: int) -> tuple[Tensor, Tensor]:
        """A batch's activations and labels."""
        part = slice(step * self.work.batch, (step + 1) * self.work.batch)
        self.hidden = self.half.hidden(self.pixels[part])
        return self.hidden.detach(), self.labels[part]

    @collab.publish
    def backward(self, gradient: Tensor) -> None:
        """Move the adapter by the gradient of the activations."""
        self.optimizer.zero_grad()
        self.hidden.backward(gradient)
        self.optimizer.step()

    @collab.publish
    def end(self) -> dict[str, Tensor]:
        """The device's adapter."""
        return {name: tensor.detach() for name, tensor in trained(self.half).items()}


class Server:
    """The blocks after the cut."""

    @collab.main
    def run(self) -> None:
        """All rounds."""
        work = Work.read(Path(os.environ["PEER_WORK"]))
        told = Told(Path(os.environ["PEER_OUT"]), ("nvflare", "transformers", "peft", "torch"))
        half = Half(work, of_device=False)
        pixels = torch.zeros_like(work.device(0)[0])
        everyone = collab.clients(timeout=WAIT_S)
        shared = _answers(everyone.begin(None), work)[0]
        one = size_of(shared)
        for _ in range(work.rounds):
            everyone.begin(shared)
            optimizer = work.optimizer(list(trained(half).values()))
            up = down = one * work.devices
            losses = []
            for step in range(-(-work.samples // work.batch)):
                sent = _answers(everyone.forward(step), work)
                hidden = torch.cat([each for each, _ in sent]).requires_grad_()
                labels = torch.cat([each for _, each in sent])
                optimizer.zero_grad()
                logits = half.logits(hidden, pixels[:1].expand(len(hidden), *pixels.shape[1:]))
                # A device's loss is the mean over its own batch.
                loss = nn.functional.cross_entropy(logits, labels, reduction="sum") / len(
                    sent[0][1]
                )
                loss.backward()
                optimizer.step()
                assert hidden.grad is not None
                gradients = hidden.grad.split([len(each) for _, each in sent])
                for client, gradient in zip(collab.clients, gradients, strict=True):
                    client(timeout=WAIT_S).backward(gradient.clone())
                up += size_of({"": hidden}) + size_of({"": labels})
                down += size_of({"": hidden.grad})
                losses.append(loss.item() / work.devices)
            adapters = _answers(everyone.end(), work)
            shared = {
                name: torch.stack([each[name] for each in adapters]).mean(0) for name in shared
            }
            told.round_done(sum(losses) / len(losses))
        told.write(up, down)


def _answers(results: Any, work: Work) -> list[Any]:
    """The devices' answers, in the order of the clients."""
    found = dict(results)
    if len(found) != work.devices:
        raise RuntimeError(f"{work.devices - len(found)} clients failed: {results.failures}")
    return [found[client.name] for client in collab.clients]


def main(path: Path, out: Path) -> None:
    """Do the work."""
    work = Work.read(path)
    os.environ |= {"PEER_WORK": str(path.resolve()), "PEER_OUT": str(out.resolve())}
    with tempfile.TemporaryDirectory() as folder:
        recipe = CollabRecipe(
            job_name="work",
            server=Server(),
            client=Device(),
            min_clients=work.devices,
            sync_task_timeout=WAIT_S,
        )
        recipe.execute(SimEnv(num_clients=work.devices, workspace_root=folder))
