"""Generated data in a run: how much fits beside the round, of which classes, and its training."""

import time
from collections.abc import Sequence

import numpy as np

from cutlayer.allocate.genfv import generated_amount
from cutlayer.data.dataset import Dataset, Indices
from cutlayer.data.generate import Generator, load_generator
from cutlayer.job import Job
from cutlayer.model.lora import Adapter
from cutlayer.planning.virtual_clock import VirtualClock
from cutlayer.record.rows import Row
from cutlayer.seeds import derive
from cutlayer.train.generated import Participants, find_policy, train_generated
from cutlayer.train.label_sharing import SharedLabels
from cutlayer.train.parts import Parts
from cutlayer.train.result import Generated, RoundResult
from cutlayer.train.server import Server


def generated_training_for(
    job: Job, parts: Parts, rows: Sequence[Row]
) -> "GeneratedTraining | None":
    """The run's generated data, None where its method goes without.

    rows: of the rounds done, so that a resumed run goes on with the time measured at its start.
    Raises JobError or DataError.
    """
    if job.generated_in_use is None:
        return None
    generator = load_generator(job.generated_in_use.generator, parts.train, parts.model.compute)
    image_s = job.generated_in_use.seconds_per_image
    if image_s is None and job.world is not None:
        known = [row.generated_image_s for row in rows if row.generated_image_s is not None]
        image_s = known[0] if known else measured(generator, job)
    return GeneratedTraining(job, parts, generator, image_s or 0.0)


class GeneratedTraining:
    """Lets the server generate and train while the devices of a round do.

    With a world it draws only as many images as fit into the server's idle time, from the round's
    start until the last device is done. A simulation knows that time in advance; a real server
    would stop as the last upload comes in. image_s: seconds that one image takes in the world.
    """

    def __init__(self, job: Job, parts: Parts, generator: Generator, image_s: float) -> None:
        assert job.generated_in_use is not None
        self.settings = job.generated_in_use
        self.job = job
        self.parts = parts
        self.generator = generator
        self.image_s = image_s
        self._policy = find_policy(self.settings.weight)

    def join(
        self,
        start: Adapter,
        result: RoundResult,
        server: Server,
        clock: VirtualClock | None,
        labels: SharedLabels,
    ) -> None:
        """Blend a model trained on generated data into the round that `result` tells of.

        start: the adapter that the round began with. Nothing is generated where there is no time
        for it, or where no device's training counts. Raises RunError for a loss that is no number.
        """
        shape = result.shape
        counted = [d for d in shape.trained if d not in result.late and d not in result.lost]
        training_s = clock.generated_training_s(shape) if clock else 0.0
        room_s = clock.idle_s(shape) if clock and counted else np.inf
        most = self.settings.amount if counted else 0
        amount = generated_amount(room_s, self.image_s, training_s, most)
        counts = labels.by_class(result.cohort, self.settings.mix, amount)
        weight, loss = 0.0, None
        if amount:
            began = time.process_time()
            trained, loss = self._trained(start, counts, result, server)
            samples = [
                shape.samples_trained[device] // self.job.training.local_epochs
                for device in counted
            ]
            weight = self._policy(
                Participants(labels.distances(counted), np.array(samples), amount)
            )
            server.blend(trained, weight)
            result.cpu_seconds += time.process_time() - began
        seconds = amount * (self.image_s + training_s)
        result.generated = Generated(tuple(counts.tolist()), weight, seconds, self.image_s, loss)

    def _trained(
        self, start: Adapter, counts: Indices, result: RoundResult, server: Server
    ) -> tuple[Adapter, float]:
        """What the server makes of `start` on `counts` [C] images, and its mean loss."""
        wanted = np.repeat(np.arange(len(counts)), counts)
        seed = derive(self.job.seed, result.round, "generated")
        with result.watch.timed("generate"):
            drawn = self.generator.generate(wanted, seed)
        images = Dataset(drawn, wanted, self.parts.train.classes)
        with result.watch.timed("server"):
            return train_generated(
                server, start, images, result.round, result.decisions, self.parts.preprocess
            )


def measured(generator: Generator, job: Job) -> float:
    """Seconds that one image takes on this machine, from the second batch: the first also loads."""
    assert job.generated_in_use is not None
    labels = np.arange(job.generated_in_use.generator.batch) % len(generator.classes)
    for _ in range(2):
        generator.generate(labels, derive(job.seed, "measure"))
    return generator.seconds_per_image or 0.0
