"""What attacks made of what crosses the cut of a run: a table, sentences and the images."""

from __future__ import annotations

import base64

from cutlayer.drawing.tables import column_cells
from cutlayer.planning.leakage.record import Leakage
from cutlayer.planning.leakage.view import columns, rows, sentences
from cutlayer.reports.views.pack import View


def leakage(found: Leakage, sheet: bytes) -> View:
    """The audit of a run. sheet: a PNG of reconstructions; empty for none."""
    table, shown = rows(found), columns(found)
    cells = [column_cells(table, column) for column in shown]
    said = sentences(found)
    picture = base64.b64encode(sheet).decode("ascii")
    return {
        "kind": "leakage",
        "id": "leakage",
        "title": "What a curious server makes of images",
        "text": f"By cutlayer audit: {said[0]}.",
        "data": {
            "columns": [{"title": c.header, "numeric": c.kind != "text"} for c in shown],
            "rows": [list(line) for line in zip(*cells, strict=True)],
            "notes": said[1:],
            "picture": f"data:image/png;base64,{picture}" if picture else None,
        },
    }
