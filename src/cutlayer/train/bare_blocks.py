"""Which blocks carry no adapter where devices are frozen: all that any device runs.

A frozen device runs its blocks as they were pretrained. A block that one device runs and the server
runs for another would carry an adapter for the second only, and the exported model, which has one
adapter for all, would be what nobody trained. So no block before the latest cut that any device has
had so far carries an adapter: what devices and server train together is what is exported.
"""

from collections.abc import Iterable, Mapping

from cutlayer.allocate.decision import Decision
from cutlayer.job import Job
from cutlayer.model.cut import CutModel
from cutlayer.model.lora import Adapter
from cutlayer.seeds import derive


def bare_blocks(job: Job, rounds: Iterable[Mapping[int, Decision]]) -> int:
    """How many of the first blocks carry no adapter after these rounds; 0 where devices train.

    rounds: the decisions of every round so far, by device.
    """
    if not job.method.split or job.method.device != "frozen":
        return 0
    return max((one.cut for decisions in rounds for one in decisions.values()), default=0)


def with_bare_blocks(job: Job, model: CutModel, adapter: Adapter, blocks: int) -> Adapter:
    """`adapter` with its tensors before block `blocks` as they were before any training.

    A cut that is later than in the rounds before undoes the training of the blocks before it.
    """
    names = [name for name in model.names_before(blocks) if name in adapter]
    if not names:
        return adapter
    untrained = model.new_adapter(derive(job.seed, "adapter"))
    return adapter | {name: untrained[name].to(adapter[name].device) for name in names}
