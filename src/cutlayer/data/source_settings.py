"""The settings that readers of files need: a job's data section, or a light device's copy of it."""

from typing import Literal, Protocol


class SourceSettings(Protocol):
    """The fields of `settings.data.Data` that say how files are read; see there."""

    @property
    def path(self) -> str | None:
        """See Data."""

    @property
    def test_path(self) -> str | None:
        """See Data."""

    @property
    def kind(self) -> Literal["auto", "labelled", "passages"]:
        """See Data."""

    @property
    def input_column(self) -> str | None:
        """See Data."""

    @property
    def completion_column(self) -> str | None:
        """See Data."""

    @property
    def separator(self) -> str:
        """See Data."""

    @property
    def label_column(self) -> str:
        """See Data."""

    @property
    def delimiter(self) -> str | None:
        """See Data."""

    @property
    def encoding(self) -> str | None:
        """See Data."""

    @property
    def quotes(self) -> Literal["auto", "doubled", "plain"]:
        """See Data."""
