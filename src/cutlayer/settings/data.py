"""The data section of a job: where samples come from, and who holds which."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cutlayer.settings.section import Count, Section


class Partition(Section):
    """How the training samples are divided among the devices.

    kind: iid; dirichlet (each class's shares drawn from Dir(alpha)); labels (each device holds
    `labels_per_device` classes); powerlaw (sizes fall as rank^-exponent, classes as in iid).
    """

    kind: Literal["iid", "dirichlet", "labels", "powerlaw"] = "dirichlet"
    alpha: Annotated[float, Field(gt=0)] = 0.5
    labels_per_device: Count = 2
    exponent: Annotated[float, Field(gt=0)] = 1.5
    min_samples: Count = 1


class Data(Section):
    """Where samples come from and how they are divided.

    source: demo (bundled Fashion-MNIST subset), hub (a Hugging Face dataset by name or folder),
    parquet, folder (one subfolder of images a class), table (CSV or JSONL of texts).
    """

    source: Literal["demo", "hub", "parquet", "folder", "table"] = "demo"
    path: str | None = None
    test_path: str | None = None
    input_column: str | None = None
    label_column: str = "label"
    train_samples: Count | None = None
    test_samples: Count | None = None
    partition: Partition = Partition()

    @model_validator(mode="after")
    def _path_where_needed(self) -> Self:
        if self.source != "demo" and not self.path:
            raise ValueError(f"path is missing: source {self.source!r} needs data.path")
        return self
