"""Flower's simulation on Ray: FedAvg over client apps, in one actor with one core.

The actor keeps the model and the data from one client to the next, which is the fastest that an
app can do. Bytes are the lengths of the serialised arrays in the messages between server and
clients; in a simulation they lie in Ray's shared memory and cross no network.
"""

from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import nn

from work import Told, Work, take, train_device, trained

client = ClientApp()
_HELD: dict[str, tuple[Work, nn.Module]] = {}


def _held(path: str) -> tuple[Work, nn.Module]:
    if path not in _HELD:
        work = Work.read(Path(path))
        _HELD[path] = work, work.make_model()
    return _HELD[path]


@client.train()
def train(message: Message, context: Context) -> Message:
    """One device's part of a round."""
    work, model = _held(str(message.content["config"]["work"]))
    take(model, message.content["arrays"].to_torch_state_dict())
    loss = train_device(work, model, int(context.node_config["partition-id"]))
    tensors = {name: tensor.detach() for name, tensor in trained(model).items()}
    metrics = MetricRecord({"loss": loss, "num-examples": work.samples})
    content = RecordDict({"arrays": ArrayRecord(tensors), "metrics": metrics})
    return Message(content, reply_to=message)


class Counting(FedAvg):
    """FedAvg that counts the bytes of the arrays in its messages."""

    up = down = 0
    loss = 0.0

    def configure_train(self, *given: Any) -> Any:
        """See FedAvg."""
        messages = list(super().configure_train(*given))
        self.down = sum(_size(message) for message in messages)
        return messages

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        """See FedAvg."""
        answers = list(replies)
        for answer in answers:
            if answer.has_error():
                raise SystemExit(f"a client of Flower failed: {answer.error}")
        self.up = sum(_size(answer) for answer in answers)
        losses = [answer.content["metrics"]["loss"] for answer in answers]
        self.loss = sum(losses) / len(losses)
        return super().aggregate_train(server_round, answers)


def _size(message: Message) -> int:
    return sum(len(array.data) for array in message.content["arrays"].values())


def main(path: Path, out: Path) -> None:
    """Do the work."""
    work, told = Work.read(path), Told(out, ("flwr", "ray", "transformers", "peft", "torch"))
    server = ServerApp()

    @server.main()
    def run(grid: Grid, context: Context) -> None:
        torch.set_num_threads(1)
        strategy = Counting(
            fraction_train=1.0,
            fraction_evaluate=0.0,
            min_train_nodes=work.devices,
            min_available_nodes=work.devices,
        )

        def round_done(number: int, arrays: ArrayRecord) -> None:
            if number:
                told.round_done(strategy.loss)

        first = {name: one.detach() for name, one in trained(work.make_model()).items()}
        strategy.start(
            grid,
            ArrayRecord(first),
            num_rounds=work.rounds,
            train_config=ConfigRecord({"work": str(path)}),
            evaluate_fn=round_done,
        )
        told.write(strategy.up, strategy.down)

    run_simulation(
        server_app=server,
        client_app=client,
        num_supernodes=work.devices,
        backend_config={
            "init_args": {"num_cpus": 1, "include_dashboard": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
