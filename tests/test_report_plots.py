"""Figures are written whole, are legible in size, and show the numbers they were given."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from cutlayer.drawing import curves as drawing
from cutlayer.drawing import plan_plots, plots
from cutlayer.drawing.curves import Curve
from cutlayer.drawing.plots import MethodBytes, Point
from cutlayer.drawing.stay_plot import draw_stays
from cutlayer.world.timeline import STAGES

pytestmark = pytest.mark.usefixtures("figures")


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *args: object, **kwargs: object) -> None:
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def check_png(path: Path) -> None:
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        assert min(image.size) >= 300
        assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1)
        assert len(image.convert("L").getcolors()) > 10
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(("devices", "classes"), [(1, 2), (10, 10), (100, 10), (100, 100)])
def test_label_map_is_drawn_for_few_and_many_devices(tmp_path, drawn, devices, classes):
    counts = np.random.default_rng(0).integers(0, 50, (devices, classes))
    plots.label_map(counts, [f"class {i}" for i in range(classes)], tmp_path / "map.png")
    check_png(tmp_path / "map.png")
    top, main = drawn[0].axes[:2]
    assert [bar.get_height() for bar in top.patches] == counts.sum(axis=1).tolist()
    assert np.array_equal(main.images[0].get_array().filled(0), counts.T)
    written = [text.get_text() for text in main.texts]
    numbers = [str(count) for count in counts.T.ravel() if count]
    assert written == (numbers if devices <= 24 else [])


def test_curves_show_the_mean_of_common_rounds_in_percent(tmp_path, drawn):
    seeds = [
        Curve([1, 2, 3], [0.1, 0.3, 0.5], [10, 20, 30]),
        Curve([1, 3], [0.3, 0.7], [12, 36]),
    ]
    drawing.accuracy_by_round({"sflora": seeds}, tmp_path / "round.png")
    check_png(tmp_path / "round.png")
    line = drawn[0].axes[0].lines[0]
    assert line.get_xdata().tolist() == [1, 3]
    assert line.get_ydata() == pytest.approx([20, 60])
    band = drawn[0].axes[0].collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((10, 70))
    assert "2 seeds" in drawn[0].axes[0].get_title(loc="left")

    drawing.accuracy_by("megabytes", {"sflora": seeds}, tmp_path / "round.png")
    assert drawn[1].axes[0].lines[0].get_xdata().tolist() == [11, 33]


def test_methods_far_apart_get_a_logarithmic_axis_and_silent_ones_a_level_line(tmp_path, drawn):
    curves = {
        "centralized": Curve([1, 2], [0.5, 0.8], [0, 0]),
        "sflora": Curve([0, 1, 2], [0.1, 0.4, 0.7], [0, 500, 1000]),
        "tsflora": Curve([1, 2], [0.4, 0.6], [10, 20]),
    }
    drawing.accuracy_by("megabytes", curves, tmp_path / "mb.png")
    check_png(tmp_path / "mb.png")
    axes = drawn[0].axes[0]
    assert axes.get_xscale() == "log"
    level, sflora, _ = axes.lines
    assert level.get_label() == "centralized (none)"
    assert level.get_ydata() == pytest.approx([80, 80])
    assert sflora.get_xdata().tolist() == [500, 1000]


def test_neighbouring_curves_differ_in_colour_marker_and_line(tmp_path, drawn):
    curves = {f"method {i}": Curve([1, 2], [0.1 * i, 0.2 * i], [1, 2]) for i in range(7)}
    drawing.accuracy_by_round(curves, tmp_path / "round.png")
    lines = drawn[0].axes[0].lines
    assert len({line.get_color() for line in lines}) == 7
    assert len({line.get_marker() for line in lines}) == 7
    assert len({(line.get_linestyle(), line.get_marker()) for line in lines}) == 7


def test_bars_are_megabytes_in_each_direction(tmp_path, drawn):
    rows = [MethodBytes("sflora", 12_300_000, 9_000_000), MethodBytes("local-lora", 0, 0)]
    plots.bytes_by_method(rows, tmp_path / "bytes.png", per="a round")
    check_png(tmp_path / "bytes.png")
    axes = drawn[0].axes[0]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([12.3, 0, 9, 0])
    assert [text.get_text() for text in axes.texts] == ["12.3", "0", "9.00", "0"]
    assert axes.get_xlabel() == "sent a round (MB)"


GRID = [
    Point(f"{tokens} tokens, {bits} bits", 1e6 * tokens * bits, top - 1 / tokens - 0.1 / bits, cut)
    for cut, top in (("cut 2", 0.7), ("cut 6", 0.71))
    for tokens in (49, 24, 12)
    for bits in (8, 4, 2)
]


def test_the_front_holds_the_points_that_no_other_beats():
    best, cheap = Point("best", 9, 0.9), Point("cheap", 1, 0.5)
    beaten = [Point("dear", 10, 0.9), Point("poor", 1, 0.4), Point("worse", 9, 0.8)]
    assert plots.pareto_front([*beaten, best, cheap]) == [cheap, best]


def test_texts_of_a_crowded_pareto_plot_do_not_overlap(tmp_path, drawn):
    points = [*GRID, Point("centralized", 0, 0.72)]
    plots.pareto(points, tmp_path / "pareto.png")
    check_png(tmp_path / "pareto.png")
    axes = drawn[0].axes[0]
    texts = [text for text in axes.texts if text.get_text()]
    assert len(texts) >= 15
    boxes = [text.get_window_extent() for text in texts]
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:index])
    front = {point.label for point in plots.pareto_front(GRID)}
    assert front <= {text.get_text() for text in texts if text.get_fontweight() == "bold"}


def test_points_on_one_spot_share_a_label_and_equal_curves_say_so(tmp_path, drawn):
    plots.pareto([Point(label, 1e6, 0.5) for label in ("sflora", "asfv")], tmp_path / "p.png")
    assert {text.get_text() for text in drawn[-1].axes[0].texts} == {"sflora, asfv"}
    curve, other = Curve([1, 2], [0.1, 0.5], [1, 2]), Curve([1, 2], [0.1, 0.6], [1, 2])
    found = {"sflora": [curve], "auto": [other], "asfv": [curve]}
    drawing.accuracy_by_round(found, tmp_path / "c.png")
    labels = drawn[-1].axes[0].get_legend_handles_labels()[1]
    assert labels == ["sflora", "auto", "asfv (equal to sflora)"]


def test_two_swept_settings_are_a_grid_whose_gaps_stay_empty(tmp_path, drawn):
    rows = [
        {"field": "a, b", "settings": {"a": a, "b": b}, "round_s": a * b, "bits": 4}
        for a in (1, 2)
        for b in (3, 5)
    ]
    rows[-1] = {**rows[-1], "round_s": None}
    plan_plots.sweep(rows, tmp_path / "grid.png")
    check_png(tmp_path / "grid.png")
    axes = [one for one in drawn[-1].axes if one.get_visible()]
    assert [one.get_title(loc="left") for one in axes] == ["round (s)"]
    assert [text.get_text() for text in axes[0].texts] == ["3.00", "5.00", "6.00"]


@pytest.mark.parametrize(
    ("words", "places"),
    [
        (["10 MHz", "20 MHz", "50 MHz"], [1e7, 2e7, 5e7]),
        (["1e6", "2e6", "5e6"], [1e6, 2e6, 5e6]),
        (["10 MHz", "1 GHz", "5e9"], [1e7, 1e9, 5e9]),
        (["many", "more", "most"], [0, 1, 2]),
    ],
)
def test_swept_values_stand_where_their_numbers_are(tmp_path, drawn, words, places):
    field = "world.bandwidth_hz"
    rows = [
        {"field": field, "settings": {field: word}, "value": word, "round_s": s, "sent": s * 1e6}
        for s, word in enumerate(words)
    ]
    plan_plots.sweep(rows, tmp_path / "sweep.png")
    seconds, sent = drawn[-1].axes
    assert seconds.lines[0].get_xdata() == pytest.approx(places)
    assert sent.lines[0].get_ydata() == pytest.approx([0, 1, 2])
    assert sent.get_ylabel() == "up (MB)"
    assert sent.get_xlabel() == field


@dataclass
class OneSpan:
    """A stage of a device, in seconds."""

    stage: str
    start_s: float
    end_s: float


class EveryStage:
    """A round in which every stage takes a second on every device."""

    duration_s = float(len(STAGES))

    def spans(self, device: int) -> list[OneSpan]:
        return [OneSpan(stage, number, number + 1.0) for number, stage in enumerate(STAGES)]


def test_a_timeline_draws_no_two_stages_alike(tmp_path, drawn):
    plan_plots.gantt(EveryStage(), range(3), tmp_path / "round.png")
    check_png(tmp_path / "round.png")
    bars, labels = drawn[-1].axes[0].get_legend_handles_labels()
    assert sorted(labels) == sorted(stage.replace("_", " ") for stage in STAGES)
    looks = {(bar.patches[0].get_facecolor(), bar.patches[0].get_hatch()) for bar in bars}
    assert len(looks) == len(STAGES)
    colours = {bar.patches[0].get_facecolor() for bar in bars}
    assert all(bar.patches[0].get_edgecolor() not in colours for bar in bars)


def test_nothing_to_show_is_still_a_figure(tmp_path):
    plots.pareto([], tmp_path / "a.png")
    (tmp_path / "a.png").unlink()
    drawing.accuracy_by("megabytes", {}, tmp_path / "a.png")
    (tmp_path / "a.png").unlink()
    plots.bytes_by_method([], tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 0


def test_a_figure_that_cannot_be_written_leaves_nothing(tmp_path):
    path = tmp_path / "missing" / "bytes.png"
    with pytest.raises(FileNotFoundError):
        plots.bytes_by_method([MethodBytes("a", 1, 1)], path)


def test_stay_times_are_drawn_with_how_far_the_models_are_off(tmp_path, drawn):
    seen = np.array([1.0, 2.0, 4.0])
    draw_stays(seen, seen + 3, seen, tmp_path / "stays.png")
    check_png(tmp_path / "stays.png")
    labels = drawn[0].axes[0].get_legend_handles_labels()[1]
    assert any("off by 3 s" in label for label in labels)
    assert any("off by 0 s" in label for label in labels)
