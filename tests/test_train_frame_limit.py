"""The largest frame follows from the job, on the server as on a device."""

import pytest
import torch

from cutlayer.errors import FrameError
from cutlayer.train.frame_limit import frame_limit
from cutlayer.train.parts import Parts, load_parts, make_device
from cutlayer.train.upload_checks import read_adapter
from cutlayer.wire.adapter_frames import encode_adapter
from cutlayer.wire.messages import AdapterMessage
from helpers import small_job


@pytest.fixture(scope="module")
def parts() -> Parts:
    return load_parts(small_job())


def test_a_batch_of_whole_activations_and_a_whole_adapter_fit(parts: Parts) -> None:
    spec = parts.model.spec
    for batch in (1, 8, 10**6):
        values = batch * max(spec.tokens_at(cut) * spec.width_at(cut) for cut in range(spec.depth))
        assert frame_limit(parts.model, batch) > 4 * values
    adapter = sum(tensor.numel() for tensor in parts.model.new_adapter(0).values())
    assert frame_limit(parts.model, 1) > 4 * adapter
    assert frame_limit(parts.model, 10**6) > 2**28  # a large job is not cut off


def test_a_frame_beyond_what_the_job_has_use_for_is_refused_unread(parts: Parts) -> None:
    job = small_job()
    large = torch.zeros(frame_limit(parts.model, job.training.batch_size) // 4)
    frame = encode_adapter(AdapterMessage(0, 0, 8, {"large": large}), 32)
    device = make_device(job, parts, 0)
    with pytest.raises(FrameError, match="above max_bytes"):
        device.begin(0, device.decision, frame)
    with pytest.raises(FrameError, match="above max_bytes"):
        read_adapter(frame, 0, 0, {"large": torch.zeros(4)}, torch.device("cpu"))
