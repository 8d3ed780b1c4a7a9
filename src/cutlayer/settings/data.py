"""The data section of a job: where samples come from, and who holds which."""

import codecs
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from cutlayer.settings.section import Count, Section


class Partition(Section):
    """How the training samples are divided among the devices: each is on exactly one."""

    kind: Literal["iid", "dirichlet", "labels", "powerlaw"] = "dirichlet"
    """iid: equal numbers, classes at random. dirichlet: each class's shares drawn from Dir(alpha).
    labels: a fixed number of classes each. powerlaw: numbers that fall as rank^-exponent.
    """

    alpha: Annotated[float, Field(gt=0)] = 0.5
    """Of dirichlet: the smaller, the more unevenly each class is divided."""

    labels_per_device: Count = 2
    """Of labels: how many classes each device holds."""

    exponent: Annotated[float, Field(gt=0)] = 1.5
    """Of powerlaw: the larger, the more unequal the numbers of samples."""

    min_samples: Count = 1
    """Samples that every device gets at least."""

    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each class of a device's samples that it does not train on but is tested on, to
    measure accuracy device by device. A class keeps one sample to train on. In a simulation only.
    """


class Data(Section):
    """Where samples come from and how they are divided."""

    source: Literal["demo", "hub", "parquet", "folder", "table"] = "demo"
    """demo (bundled Fashion-MNIST), folder (one subfolder of images a class), table (texts or
    paths of images in CSV, TSV or JSON lines), parquet, or hub (a Hugging Face dataset by name
    or folder).
    """

    path: str | None = None
    """The file, folder or hub name that the source reads; demo needs none."""

    test_path: str | None = None
    """Test data of its own: a file or folder, or a split of a hub dataset; null: what is named test
    or val, or else a fifth of every class, held out by the job's seed.
    """

    input_column: str | None = None
    """Column of the image or the text; null: the first of the usual names that is there."""

    label_column: str = "label"
    """Column of the label: a text or a whole number."""

    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """What stands between the values of a table; null: a comma, in .tsv files a tab."""

    encoding: str | None = None
    """Encoding of a table, as cp1252; null: UTF-8, or UTF-16 where its first bytes say so."""

    quotes: Literal["auto", "doubled", "plain"] = "auto"
    """Quotes of a table: doubled (around values, as CSV has them), plain (characters like others),
    or auto (doubled, but in .tsv files plain where they make sense only so).
    """

    train_samples: Count | None = None
    """How many training samples to use, with the same share of every class; null: all."""

    test_samples: Count | None = None
    """How many test samples to use, with the same share of every class; null: all."""

    partition: Partition = Partition()
    """How the training samples are divided among the devices."""

    @field_validator("encoding")
    @classmethod
    def _encoding_exists(cls, value: str | None) -> str | None:
        try:
            if value is not None:
                codecs.lookup(value)
        except (LookupError, ValueError):
            raise ValueError(
                f"{value!r} is no encoding: take one of Python's, as utf-8, utf-16 or cp1252"
            ) from None
        return value

    @field_validator("delimiter")
    @classmethod
    def _delimiter_delimits(cls, value: str | None) -> str | None:
        if value is not None and value in '"\r\n':
            raise ValueError(f"{value!r} cannot stand between values: take one as ; or |")
        return value

    @model_validator(mode="after")
    def _path_where_needed(self) -> Self:
        if self.source != "demo" and not self.path:
            raise ValueError(f"path is missing: source {self.source!r} needs data.path")
        return self
