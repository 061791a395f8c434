"""Plots of runs and of diagnoses: what they mark, that texts do not collide, and greyscale."""

import csv
import io
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

import lra
from lra.errors import OptionError, RunError
from lra.figures import Figure as Shown
from lra.lab.runs import diagnose_plots, diagnoses, files, plots
from lra.torch.diagnose import plot

Values = Callable[[int, int], dict[str, float | None]]


def usual(layer: int, step: int) -> dict[str, float | None]:
    return {
        "angle": (37.0 * layer + step) % 130, "feedback_angle": 50.0 + step,
        "error": 10.0 ** -(layer % 9), "moved_relative": 0.1, "saturated": 0.5, "dead": 0.0,
        "update": 0.1, "update_relative": 10.0 ** -(layer % 7),
    }  # fmt: skip


def write(folder: Path, names: list[str], steps: range, values: Values = usual) -> Path:
    with (folder / files.DIAGNOSES).open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, diagnoses.COLUMNS, lineterminator="\n")
        table.writeheader()
        for step, (i, name) in itertools.product(steps, enumerate(names)):
            about = {"epoch": 1, "step": step, "layer": name, "kind": "weights", "type": "Linear"}
            about |= {"calls": 1, "arrival": "usable"}
            table.writerow(dict.fromkeys(diagnoses.COLUMNS) | about | values(i, step))
    return folder


def drawn_texts(figure: Figure, monkeypatch: pytest.MonkeyPatch) -> list[Text]:
    """Draw a figure and return the texts in it."""
    texts: dict[int, Text] = {}
    draw = RendererAgg.draw_text

    def record(self, gc, x, y, s, prop, angle, ismath=False, mtext=None):  # type: ignore[no-untyped-def]
        texts[id(mtext)] = mtext
        draw(self, gc, x, y, s, prop, angle, ismath, mtext)

    for name in ("draw_text", "draw_mathtext"):
        monkeypatch.setattr(RendererAgg, name, record)
    figure.savefig(io.BytesIO(), format="png")
    return [text for text in texts.values() if text is not None]


FIGURES = {
    "heat map": diagnose_plots.heat_map,
    "curves": diagnose_plots.curves,
    "last step": lambda folder: plot.of_updates(diagnoses.read(folder)[-100:], "a title"),
}
NAMES = {
    "one": [""],
    "few": ["0", "2", "4"],
    "many": [f"model.encoder.layers.{i}.attention.projection.out" for i in range(100)],
    "long": [f"{'x' * 79}{i}" for i in range(6)],
    "hostile": ["\x1b[31mred", "a$b$c", "$\\frac$", "<b>", "\\$", "a_b^c{d}"],
}


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("steps", [range(1), range(0, 600, 30)])
def test_no_text_covers_another(tmp_path, monkeypatch, figure, names, steps):
    drawn = FIGURES[figure](write(tmp_path, NAMES[names], steps))
    texts = drawn_texts(drawn, monkeypatch)
    assert len(texts) > 10
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    inside = drawn.bbox.padded(1)
    assert all(inside.contains(*box.min) and inside.contains(*box.max) for _, box in boxes)
    for (a, one), (b, other) in itertools.combinations(boxes, 2):
        if a.strip() and b.strip():
            assert not one.padded(-1).overlaps(other.padded(-1)), (a, b)


@pytest.mark.parametrize("figure", ["heat map", "curves"])
def test_layers_are_named_with_their_type(tmp_path, monkeypatch, figure):
    drawn = FIGURES[figure](write(tmp_path, ["conv", "\x1b[31mred"], range(3)))
    texts = {text.get_text() for text in drawn_texts(drawn, monkeypatch)}
    assert {"conv  Linear", "\\x1b[31mred  Linear"} <= texts


def grey(figure: Figure) -> np.ndarray:
    """Return the luminance of a figure's pixels, 0 to 1."""
    content = io.BytesIO()
    figure.savefig(content, format="raw")
    width, height = figure.canvas.get_width_height(physical=True)
    pixels = np.frombuffer(content.getvalue(), np.uint8).reshape(height, width, 4)
    return pixels[:, :, :3] @ np.array([0.2126, 0.7152, 0.0722]) / 255


def patches(figure: Figure, panel: int, rows: int) -> list[np.ndarray]:
    """Return the middle of each row of a heat map of one step, the bottom row first."""
    image, box = grey(figure), figure.axes[panel].get_window_extent()
    edges = np.linspace(box.y0, box.y1, rows + 1)
    x0, x1 = (int(box.x0 + share * box.width) for share in (0.05, 0.3))
    return [
        image[int(len(image) - b + 4) : int(len(image) - a - 4), x0:x1]
        for a, b in itertools.pairwise(edges)
    ]


@pytest.mark.parametrize(
    ("panel", "column", "shown"),
    [
        (0, "angle", [0.0, 30.0, 60.0, 85.0, 120.0, None, math.nan]),
        (1, "update_relative", [1.0, 1e-2, 1e-4, 1e-6, 0.0, None, math.inf]),
    ],
)
def test_heat_maps_are_read_in_greyscale(tmp_path, panel, column, shown):
    names = [str(i) for i in range(len(shown))]
    write(tmp_path, names, range(1), lambda i, step: usual(i, step) | {column: shown[i]})
    found = patches(diagnose_plots.heat_map(tmp_path), panel, len(shown))
    looks = [(patch.mean(), patch.std()) for patch in found]
    for a, b in itertools.combinations(looks, 2):
        assert max(abs(a[0] - b[0]), abs(a[1] - b[1])) > 0.03, (a, b)
    colours = [mean for mean, _ in looks[:4]]
    assert colours == sorted(colours, reverse=True)  # small angles and large updates are light
    assert all(deviation < 0.01 for _, deviation in looks[:4])


def says(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"dead": 0.0}, ["no dead units"]),
        ({"dead": 0.0, "saturated": 0.0}, ["no saturated units", "no dead units"]),
        ({"feedback_angle": None}, ["no feedback weights\nwith the shape of W", "no dead units"]),
        ({"error": math.nan, "dead": 0.5}, ["no value is finite"]),
        ({"error": 0.0, "dead": 0.5}, ["all errors are zero"]),
    ],
)
def test_empty_panels_say_why(tmp_path, values, said):
    write(tmp_path, ["0"], range(3), lambda *at: usual(*at) | {"angle": 1.0} | values)
    assert says(diagnose_plots.curves(tmp_path)) == said


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"angle": None, "update_relative": 0.0}, ["all undefined", "all zero"]),
        ({"angle": 91.0, "update_relative": math.inf}, ["all more than 90 degrees",
                                                        "all not finite"]),
        ({"angle": 90.0, "update_relative": 1e-30}, []),
    ],
)  # fmt: skip
def test_uniform_heat_maps_say_so(tmp_path, values, said):
    write(tmp_path, ["0", "1"], range(3), lambda *at: usual(*at) | values)
    assert says(diagnose_plots.heat_map(tmp_path)) == said


def test_runs_without_weight_layers_or_rows(tmp_path):
    write(tmp_path, ["0"], range(2), lambda *at: usual(*at) | {"kind": "activation"})
    assert says(diagnose_plots.heat_map(tmp_path)) == ["no weight layers"]
    write(tmp_path, [], range(2))
    for figure in (diagnose_plots.heat_map, diagnose_plots.curves):
        with pytest.raises(RunError, match="no diagnosis yet"):
            figure(tmp_path)


def test_values_that_are_not_finite_are_counted(tmp_path):
    write(tmp_path, ["0"], range(5), lambda i, s: usual(i, s) | {"error": math.inf if s > 2 else 1})
    figure = diagnose_plots.curves(tmp_path)
    assert figure.axes[2].get_xlabel() == "step (2 values not finite)"
    assert list(figure.axes[2].lines[0].get_xdata()) == [0, 1, 2]


# the plot of a run

RESULT = {"best_epoch": 2, "test_loss": 0.625, "test_accuracy": 81.25}


def metrics(epochs: int) -> list[dict[str, float]]:
    row = {"loss": 1.0, "validation_loss": 1.5, "train_accuracy": 50, "validation_accuracy": 40}
    return [{"epoch": epoch + 1, **row} for epoch in range(epochs)]


@pytest.mark.parametrize(("text", "panels"), [(False, 2), (True, 1)])
def test_a_run_marks_its_best_epoch_and_the_test_value(text, panels):
    figure = plots.curves(metrics(3), "title", text=text, result=RESULT)
    assert len(figure.axes) == panels
    for axes, value, shown in zip(figure.axes, (0.625, 81.25), ("0.6250", "81.25"), strict=False):
        lines = {str(line.get_label()): line for line in axes.lines}
        assert list(lines["best epoch: 2"].get_xdata()) == [2, 2]
        star = lines[f"test, weights of epoch 2: {shown}"]
        assert (list(star.get_xdata()), list(star.get_ydata())) == ([2], [value])


def test_a_run_without_a_test_set_or_result_is_plotted():
    without = dict.fromkeys(RESULT) | {"best_epoch": 2}
    labels = [
        [line.get_label() for line in plots.curves(metrics(3), result=result).axes[0].lines]
        for result in (without, None)
    ]
    assert labels == [["training", "validation", "best epoch: 2"], ["training", "validation"]]


# figures


@pytest.mark.parametrize(
    ("name", "start"), [("a.png", b"\x89PNG"), ("a.PDF", b"%PDF"), ("b/a.svg", b"<?xml")]
)
def test_the_name_of_the_file_decides_its_format(tmp_path, name, start):
    plots.save(Shown(2, 2), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)


def test_figures_that_cannot_be_written(tmp_path):
    for name in ("a.docx", "a"):
        with pytest.raises(OptionError, match=r"must end with one of .*pdf"):
            plots.save(Shown(2, 2), tmp_path / name)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write"):
        plots.save(Shown(2, 2), tmp_path / "file" / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_names_without_glyphs_cause_no_warning(tmp_path):
    figure = Shown(2, 2)
    figure.suptitle("層")
    plots.save(figure, tmp_path / "a.png")


def test_notebooks_show_figures():
    assert Shown(2, 2)._repr_png_().startswith(b"\x89PNG")
    assert isinstance(plots.curves(metrics(2)), Shown)
    assert isinstance(lra.lab.data.sample_figure(lra.lab.data.load("digits")), Shown)
