"""Which blocks carry no adapter if devices are frozen: all blocks that any device runs.

A frozen device runs its blocks as they were pretrained. Suppose one device runs a block itself, and
the server runs it for another: the block would have an adapter only for the second, and the
exported model, which has one adapter for all, would be a model that was never trained. So no block
before the latest cut of any device so far carries an adapter, and the exported model is the one
that devices and server trained together.
"""

from collections.abc import Iterable, Mapping

from cutlayer.allocate.decision import Decision
from cutlayer.job import Job
from cutlayer.model.cut import CutModel
from cutlayer.model.lora import Adapter
from cutlayer.seeds import derive


def bare_blocks(job: Job, rounds: Iterable[Mapping[int, Decision]]) -> int:
    """How many of the first blocks carry no adapter after these rounds; 0 if devices train.

    rounds: the decisions of every round so far, by device.
    """
    if not job.method.split or job.method.device != "frozen":
        return 0
    return max((one.cut for decisions in rounds for one in decisions.values()), default=0)


def trained_before(model: CutModel, adapter: Adapter, cut: int) -> str | None:
    """A LoRA tensor before block `cut` that training has changed; None if there is none."""
    if model.train != "lora":
        return None
    for name in model.names_before(cut):
        if name.endswith(".lora_B.weight") and name in adapter and bool(adapter[name].any()):
            return name
    return None


def with_bare_blocks(job: Job, model: CutModel, adapter: Adapter, blocks: int) -> Adapter:
    """`adapter` with the tensors before block `blocks` reset to those before any training.

    So a cut that is later than in earlier rounds undoes the training of the blocks before it.
    """
    names = [name for name in model.names_before(blocks) if name in adapter]
    if not names:
        return adapter
    untrained = model.new_adapter(derive(job.seed, "adapter"))
    return adapter | {name: untrained[name].to(adapter[name].device) for name in names}
