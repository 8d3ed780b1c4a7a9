"""Runs of a benchmark, each a line of a file in benchmarks/reports, so that none is made twice."""

import json
from pathlib import Path
from typing import Any

Line = dict[str, Any]


class RunLines:
    """The runs of one size that there are. scale: the settings that they share."""

    def __init__(self, scale: Line, file: Path) -> None:
        self.scale, self.file = scale, file
        texts = file.read_text().splitlines() if file.exists() else []
        every = [json.loads(text) for text in texts]
        self.all: list[Line] = [line for line in every if scale.items() <= line.items()]

    def append(self, line: Line) -> None:
        """Add a run, to the file too."""
        self.all.append({**line, **self.scale})
        with self.file.open("a") as file:
            file.write(json.dumps(self.all[-1]) + "\n")

    def latest(self, **known: Any) -> Line | None:
        """The last run of which all this is true; None where there is none yet."""
        return next((line for line in reversed(self.all) if known.items() <= line.items()), None)
