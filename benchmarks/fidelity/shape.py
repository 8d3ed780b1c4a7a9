"""STE against the number of tokens: its shape, and where its peak is as attention flattens."""

from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.fidelity import setting
from benchmarks.fidelity.page import Claim, Section, middle, table

from cutlayer.allocate.radio_math import Floats
from cutlayer.allocate.relaxed import least_time
from cutlayer.allocate.token_problem import TokenProblem
from cutlayer.drawing.style import COLOURS, LINES, new_figure

SHARES = (16, 64, 128)


def section(curves: dict[float, Floats], figure: Path) -> Section:
    """The same K for every device, bandwidth and power at their best for it."""
    found = {t: _curves(rows) for t, rows in curves.items()}
    _draw(found, figure)
    rows: list[dict[str, Any]] = []
    for temperature, ste in sorted(found.items()):
        mass = curves[temperature].mean(axis=0) / setting.BATCH
        peak = 1 + ste.argmax(axis=1)
        rows.append(
            {
                "temperature": f"{temperature:g}",
                **{f"mass{k}": mass[k] for k in SHARES},
                "peak": middle(peak, 0),
                "half": middle(ste[:, len(mass) // 2 - 1] / ste.max(axis=1), 2),
                "all": middle(ste[:, -1] / ste.max(axis=1), 2),
            }
        )
    own = found[1.0]
    peaks = {t: int(np.median(1 + ste.argmax(axis=1))) for t, ste in sorted(found.items())}
    rising = all(_one_peak(row) for ste in found.values() for row in ste)
    claims = (
        Claim(
            "STE rises with K, then falls",
            "one peak at a small K",
            f"{'one peak in every draw' if rising else 'more than one peak in some draws'}, "
            f"at K = {middle(1 + own.argmax(axis=1), 0)} of 196",
            "the payload grows with K + 2 and the importance ever more slowly: the peak is where "
            "the next token adds less than the mean of those sent, f'(K) (K + 2) = f(K)",
        ),
        Claim(
            "the peak moves right as attention flattens",
            "stated of shape",
            "peak at K = " + ", ".join(f"{p} (T = {t:g})" for t, p in peaks.items()),
            "with flat attention f(K) / (K + 2) never falls, so the peak goes to N",
        ),
    )
    columns = [
        ("temperature", "temperature T", "text"),
        *((f"mass{k}", f"attention in the best {k}", "percent") for k in SHARES),
        ("peak", "K of the peak", "text"),
        ("half", "STE at K = 98 / peak", "text"),
        ("all", "STE at K = 196 / peak", "text"),
    ]
    return Section(
        "STE against the number of tokens",
        "Every device keeps the same K, and bandwidth and power are the best there are for it "
        "(standing time and energy left aside). Importance is the CLS attention of the second "
        "block on real images; its logits are divided by a temperature T to sharpen (T < 1) or "
        "flatten (T > 1) it. Medians and ranges over the draws.",
        claims,
        table(rows, *columns) + f"\n![STE against K](figures/{figure.name})\n",
    )


def _curves(rows: Floats) -> Floats:
    """[draws, N]: STE with K = 1 ... N tokens from every device."""
    found = []
    for seed in setting.SEEDS:
        problem, _ = setting.problem(seed, rows)
        free = TokenProblem(
            **{**vars(problem), "energy_max_j": np.inf, "time_max_s": np.inf, "tokens_min": 1}
        )
        tokens = np.arange(1, free.tokens_max + 1)[:, None].repeat(free.devices, axis=1)
        found.append(free.value(tokens) / least_time(free, tokens))
    return np.array(found)


def _one_peak(ste: Floats) -> bool:
    """Whether it never falls before its peak nor rises after it."""
    peak = int(ste.argmax())
    slack = 1e-9 * ste.max()
    steps = np.diff(ste)
    return bool((steps[:peak] >= -slack).all() and (steps[peak:] <= slack).all())


def _draw(found: dict[float, Floats], path: Path) -> None:
    with new_figure(path, 8.0, 4.6) as figure:
        axes = figure.add_subplot()
        for index, (temperature, ste) in enumerate(sorted(found.items())):
            mean = (ste / ste.max(axis=1, keepdims=True)).mean(axis=0)
            tokens = np.arange(1, len(mean) + 1)
            name = f"T = {temperature:g}" + (" (as measured)" if temperature == 1 else "")
            colour = COLOURS[index % len(COLOURS)]
            axes.plot(tokens, mean, color=colour, ls=LINES[index % len(LINES)], lw=1.8, label=name)
            axes.plot(tokens[mean.argmax()], mean.max(), "o", color=colour, ms=6)
        axes.set_xscale("log")
        axes.set_xticks(
            [1, 2, 5, 10, 20, 50, 100, 196], ["1", "2", "5", "10", "20", "50", "100", "196"]
        )
        axes.minorticks_off()
        axes.set_xlim(1, 196)
        axes.set_ylim(0, 1.05)
        axes.set_xlabel("tokens kept of 196 (K)")
        axes.set_ylabel("STE, share of each draw's peak")
        axes.legend(title="temperature of attention", loc="lower left")
