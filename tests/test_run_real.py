"""A real pretrained ViT on real images, as a user would train it."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageClassification

from cutlayer import compare, simulate
from cutlayer.job import Job, make_job
from cutlayer.model.bank import Segment
from cutlayer.model.inputs import Preprocessor
from cutlayer.train.parts import load_parts


def dinov2_job(models: Path, data: Path, **sections: dict) -> Job:
    return make_job(
        {
            "model": {"path": str(models / "dinov2-small"), "image_size": 56},
            "data": {
                "source": "parquet",
                "path": str(data / "cifar10"),
                "input_column": "image",
                "train_samples": 48,
                "test_samples": 20,
                "partition": {"kind": "labels", "labels_per_device": 5},
            },
            "devices": {"count": 3},
            "training": {"rounds": 2, "batch_size": 8, "evaluate_every": 2},
            **sections,
        }
    )


def test_methods_train_dinov2_on_cifar10_through_the_cut(
    shared_models: Path, shared_data: Path, tmp_path: Path
) -> None:
    methods = [
        "sflora",
        "fedlora",
        "small = tsflora tokens.keep=8 uplink.bits=4 uplink.levels=gaussian "
        "uplink.rounding=nearest uplink.rotate=true",
    ]
    comparison = compare(
        dinov2_job(shared_models, shared_data), methods=methods, out=tmp_path / "out"
    )
    sflora, fedlora, small = comparison.results
    # The cut is exact: split and whole training see the same losses.
    assert sflora.rows[0].loss == pytest.approx(fedlora.rows[0].loss, rel=1e-5)
    assert small.up_bytes < sflora.up_bytes / 2  # the rest of its bytes are adapters
    for result in comparison.results:
        assert result.rows[1].loss < result.rows[0].loss


def test_the_adapter_of_a_run_gives_the_same_logits_in_peft(
    shared_models: Path, shared_data: Path, tmp_path: Path
) -> None:
    from peft import PeftModel

    job = dinov2_job(shared_models, shared_data)
    result = simulate(job, out=tmp_path / "run")
    parts = load_parts(job)
    images = Preprocessor(parts.model.spec)(parts.test.inputs[:4])
    ours = parts.model.forward(images, [Segment(result.adapter, 4)])
    base = AutoModelForImageClassification.from_pretrained(
        job.model.path, num_labels=10, dtype=torch.float32
    )
    model = PeftModel.from_pretrained(base, result.adapter_folder).eval()
    theirs = model(**images).logits
    assert ours.std() > 0.05
    assert (ours - theirs).abs().max() < 1e-4
