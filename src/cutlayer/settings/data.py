"""The data section of a job: where samples come from, and who holds which."""

import codecs
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from cutlayer.settings.section import Count, Section

HELD_OUT = "held-out"
"""Of `Data.calibration`: a part of the training data."""


class Partition(Section):
    """How the training samples are divided among the devices: each is on exactly one, unless they
    are drawn.
    """

    kind: Literal["iid", "dirichlet", "labels", "powerlaw", "drawn"] = "dirichlet"
    """iid: equal numbers, classes at random. dirichlet: each class's shares drawn from Dir(alpha).
    labels: a fixed number of classes each. powerlaw: numbers that fall as rank^-exponent. drawn:
    each device draws from all samples, which others may draw too: for fleets larger than the data.
    """

    alpha: Annotated[float, Field(gt=0)] = 0.5
    """Of dirichlet: the smaller, the more unevenly each class is divided."""

    labels_per_device: Count = 2
    """Of labels: how many classes each device holds."""

    exponent: Annotated[float, Field(gt=0)] = 1.5
    """Of powerlaw: the larger, the more unequal the numbers of samples."""

    samples_per_device: Annotated[int, Field(ge=1, le=2**20)] = 32
    """Of drawn: how many samples each device holds; it may draw one twice."""

    min_samples: Count = 1
    """Samples that every device gets at least; not of drawn."""

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

    kind: Literal["auto", "labelled", "passages"] = "auto"
    """labelled: images or texts with a label each. passages: what a language model learns from,
    prompts with completions, conversations or plain texts. auto: passages where the columns are
    prompt and completion, or messages.
    """

    input_column: str | None = None
    """Column of the image, the text or the prompt; null: the first of the usual names that is
    there.
    """

    completion_column: str | None = None
    """Column of what is to be said to a prompt; null: completion."""

    separator: str = "\n"
    """What stands between a prompt and its completion."""

    label_column: str = "label"
    """Column of the label: a text or a whole number. Passages need none: it says by what devices
    may differ.
    """

    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """What stands between the values of a table; null: a comma, in .tsv files a tab."""

    encoding: str | None = None
    """Encoding of a table, as cp1252; null: UTF-8, or UTF-16 where its first bytes say so."""

    quotes: Literal["auto", "doubled", "plain"] = "auto"
    """Quotes of a table: doubled (around values, as CSV has them), plain (characters like others),
    or auto (doubled, but in .tsv files plain where they make sense only so).
    """

    calibration: str | None = None
    """What calibrates: held-out (a tenth of every class of the training data, at most 1,000,
    which no device gets), or a path of data like the source's. null: held-out, from devices only
    where method.allocation.solver is auto or the `fit` of what crosses is calibration.
    """

    train_samples: Count | None = None
    """How many training samples to use, with the same share of every class; null: all."""

    test_samples: Count | None = None
    """How many test samples to use, with the same share of every class; null: all."""

    memory_bytes: Annotated[int, Field(ge=0, le=2**50)] = 2**28
    """Bytes that all training images (and, apart, all test images) may take in memory as the model
    reads them, a byte a value; where they take more, each is decoded whenever it is needed.
    """

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
            raise ValueError(f"{value!r} cannot separate values: take one character, as ; or |")
        return value

    @model_validator(mode="after")
    def _path_where_needed(self) -> Self:
        if self.source != "demo" and not self.path:
            raise ValueError(f"path is missing: source {self.source!r} needs data.path")
        return self
