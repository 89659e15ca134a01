"""What the figures show, read back from the drawn objects and files."""

import itertools
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from jaxkd.report import figures
from jaxkd.report.statistics import Curve
from jaxkd.report.style import DARK, LIGHT, StudentOrder, canvas

# A dollar sign would start a formula, and the font has no Chinese characters.
NAMES = ["ce", "kd", "$x_1$", "猫_with_a_name_that_is_far_too_long"]
CAST = StudentOrder(NAMES, "kd", "ce")


@pytest.fixture
def drawn(monkeypatch):
    """The figures drawn so far."""
    found = []

    @contextmanager
    def record(*args, **options):
        with canvas(*args, **options) as figure:
            found.append(figure)
            yield figure

    monkeypatch.setattr(figures, "canvas", record)
    return found


def colors_of(path):
    with Image.open(path) as image:
        return len(image.convert("RGB").getcolors(1 << 24))


def texts(axes):
    return [text.get_text() for text in axes.texts]


def line_of(axes, color):
    """The first line of a colour, which is the curve; its label's comes later."""
    return next(line for line in axes.lines if line.get_color() == color)


def draw_curves(path, data, student_order=CAST, levels=None, number=".1f"):
    figures.curves(
        path,
        LIGHT,
        data=data,
        student_order=student_order,
        levels=levels or {},
        ylabel="y",
        number=number,
        band=True,
    )


def test_curves_are_means_with_a_band_of_one_standard_error(tmp_path, drawn):
    values = np.array([[1.0, 3.0, np.nan], [2.0, 4.0, 9.0], [5.0, 5.0, 5.0]])
    curve = Curve("kd", np.array([10.0, 20.0, 30.0]), values)
    draw_curves(tmp_path / "a.png", [curve], levels={"teacher": 7.0})
    (axes,) = drawn[0].axes
    line = line_of(axes, LIGHT.ink)
    np.testing.assert_allclose(line.get_xdata(), [10, 20, 30])
    np.testing.assert_allclose(line.get_ydata(), [2, 5, 5])
    # Errors: deviations of 1 of two seeds; -3, -1 and 4 of three; none.
    errors = [1.0, np.sqrt(26 / 2 / 3), 0.0]
    corners = axes.collections[0].get_paths()[0].vertices
    for x, mean, error in zip([10, 20, 30], [2, 5, 5], errors, strict=True):
        heights = corners[np.isclose(corners[:, 0], x), 1]
        np.testing.assert_allclose(
            [min(heights), max(heights)], [mean - error, mean + error]
        )
    assert texts(axes) == ["kd 5.0", "teacher 7.0"]
    assert axes.get_xlim() == (10, 30)


def test_long_curves_are_averaged_in_neighbourhoods(tmp_path, drawn):
    steps = np.arange(1.0, 1001.0)
    values = np.stack([steps, steps + 2], 1)
    values[990:] = np.nan
    draw_curves(tmp_path / "a.png", [Curve("kd", steps, values)])
    line = line_of(drawn[0].axes[0], LIGHT.ink)
    x, y = line.get_xdata(), line.get_ydata()
    assert 100 < len(x) <= 120
    # Nine steps of a straight line average to the middle one.
    np.testing.assert_allclose(x[:2], [5, 14])
    np.testing.assert_allclose(y[:110], x[:110] + 1)
    assert np.isnan(y[-1])


@pytest.mark.parametrize(("factor", "scale"), [(20.0, "linear"), (50.0, "log")])
def test_values_of_many_magnitudes_are_drawn_on_a_logarithmic_axis(
    tmp_path, drawn, factor, scale
):
    curve = Curve("kd", np.array([1.0, 2.0]), np.array([[0.1], [0.1 * factor]]))
    draw_curves(tmp_path / "a.png", [curve])
    axes = drawn[0].axes[0]
    assert axes.get_yscale() == scale
    assert not any("$" in label.get_text() for label in axes.get_yticklabels())


def test_labels_of_twelve_close_curves_do_not_overlap_or_leave_the_figure(
    tmp_path, drawn
):
    names = [f"student_with_name_{index}" for index in range(12)]
    data = [
        Curve(name, np.array([1.0, 2.0]), np.array([[10.0], [60 + 0.01 * index]]))
        for index, name in enumerate(names)
    ]
    student_order = StudentOrder(names, names[0], None)
    draw_curves(tmp_path / "a.png", data, student_order, {"teacher": 61.0}, ".2f")
    figure = drawn[0]
    assert figure.axes[0].get_ylim()[0] > 5  # the labels do not stretch the axis
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == 13
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    width, height = figure.canvas.get_width_height()
    for box in boxes:
        assert box.x1 < width and box.y0 > 0 and box.y1 < height
    order = sorted(figure.axes[0].texts, key=lambda text: text.get_position()[1])
    assert [text.get_text().split()[1] for text in order] == sorted(
        text.get_text().split()[1] for text in order
    )


def test_a_curve_without_a_finite_value_has_no_label(tmp_path, drawn):
    lost = Curve("kd", np.array([1.0, 2.0]), np.full((2, 3), np.nan))
    fine = Curve("ce", np.array([1.0, 2.0]), np.array([[1.0], [2.0]]))
    draw_curves(tmp_path / "a.png", [lost, fine])
    draw_curves(tmp_path / "b.png", [lost])
    assert texts(drawn[0].axes[0]) == ["ce 2.0"]
    assert texts(drawn[1].axes[0]) == []


def brute_force(places, gap):
    """Least squared moves, by projecting onto the constraints in turn (Dykstra)."""
    n = len(places)
    rows = [np.eye(n)[i + 1] - np.eye(n)[i] for i in range(n - 1)]
    rows += [np.eye(n)[0], -np.eye(n)[-1]]
    limits = [gap] * (n - 1) + [0.0, -1.0]
    moved, memory = np.array(places), np.zeros((len(rows), n))
    for _ in range(20000):
        for k, (row, limit) in enumerate(zip(rows, limits, strict=True)):
            target = moved + memory[k]
            short = max(limit - row @ target, 0.0)
            moved = target + row * short / (row @ row)
            memory[k] = target - moved
    return moved


@pytest.mark.parametrize(
    "places",
    [[0.5, 0.5, 0.51], [0.0, 0.01, 0.9], [0.2, 0.5, 0.8], [0.97, 0.98, 0.99]],
)
def test_spread_moves_labels_as_little_as_possible(places):
    moved = figures.spread(np.array(places), 0.1)
    np.testing.assert_allclose(moved, brute_force(places, 0.1), atol=1e-6)


def test_spread_fills_the_room_when_labels_do_not_fit():
    np.testing.assert_allclose(
        figures.spread(np.full(5, 0.4), 0.5), np.linspace(0, 1, 5), atol=1e-12
    )
    np.testing.assert_allclose(figures.spread(np.array([0.3]), 0.1), [0.3])


def draw_final(path, levels, lost=62.0):
    figures.final_values(
        path,
        LIGHT,
        values={"ce": [60.0, 62.0], "kd": [63.0, 64.0], "$x_1$": [lost, 62.5]},
        errors={"ce": 1.0, "kd": 0.5, "$x_1$": 0.25},
        student_order=StudentOrder(["ce", "kd", "$x_1$"], "kd", "ce"),
        levels=levels,
        xlabel="%",
    )


def test_final_values_are_sorted_with_seeds_errors_and_reference(tmp_path, drawn):
    draw_final(tmp_path / "a.png", {})
    (axes,) = drawn[0].axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["ce", "$x_1$", "kd"]  # from bottom to top
    seeds, bar, mean = [
        line
        for line in axes.lines
        if line.get_color() == LIGHT.muted or line.get_markeredgecolor() == LIGHT.muted
    ]
    np.testing.assert_allclose(seeds.get_xdata(), [60, 62])
    np.testing.assert_allclose(bar.get_xdata(), [60, 62])
    np.testing.assert_allclose(mean.get_xdata(), [61])
    assert any(list(line.get_xdata()) == [63.5, 63.5] for line in axes.lines)


def test_a_lost_student_keeps_an_empty_row(tmp_path, drawn):
    draw_final(tmp_path / "a.png", {}, lost=np.nan)
    (axes,) = drawn[0].axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["$x_1$", "ce", "kd"]


def test_a_far_teacher_is_named_and_does_not_squeeze_the_students(tmp_path, drawn):
    for name, levels in [
        ("none", {}),
        ("far", {"teacher": 90.0, "chance": 1.0}),
        ("near", {"teacher": 66.0}),
    ]:
        draw_final(tmp_path / f"{name}.png", levels)
    none, far, near = [figure.axes[0] for figure in drawn]
    assert far.get_xlim() == none.get_xlim()
    assert [text.strip() for text in texts(far)] == ["teacher 90.0 →", "← chance 1.0"]
    assert near.get_xlim()[1] > 66 and texts(near) == ["teacher 66.0"]


def test_classes_are_sorted_and_those_without_examples_left_out(tmp_path, drawn):
    shares = np.array([0.9, np.nan, 0.3, 0.6])
    names = ["a", "$", "<", "猫"]
    figures.class_accuracies(tmp_path / "a.png", LIGHT, accuracies=shares, names=names)
    (axes,) = drawn[0].axes
    assert [bar.get_height() for bar in axes.patches] == [30, 60, 90]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["<", "□", "a"]
    assert "3 classes" in axes.get_xlabel() and "60.0" in axes.get_xlabel()


def test_confusion_rows_are_percent_of_the_class(tmp_path, drawn):
    counts = np.array([[3, 1], [0, 0]])
    figures.confusion(tmp_path / "a.png", LIGHT, counts=counts, names=["$", "Щ"])
    axes = drawn[0].axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), [[75, 25], [0, 0]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["$", "Щ"]


@pytest.mark.parametrize(("classes", "ticks"), [(20, 20), (21, 0)])
def test_more_than_twenty_classes_are_not_named(tmp_path, drawn, classes, ticks):
    names = [f"class {index}" for index in range(classes)]
    counts = np.eye(classes, dtype=np.int64)
    figures.confusion(tmp_path / "a.png", LIGHT, counts=counts, names=names)
    figures.class_accuracies(
        tmp_path / "b.png", LIGHT, accuracies=np.ones(classes), names=names
    )
    assert len(drawn[0].axes[0].get_xticks()) == ticks
    assert len(drawn[0].axes[0].get_yticks()) == ticks
    assert len(drawn[1].axes[0].get_xticks()) == ticks


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_files_are_pictures_on_the_colour_of_the_page(tmp_path, theme):
    rng = np.random.default_rng(0)
    data = [Curve(name, np.arange(5.0), rng.random((5, 3))) for name in NAMES]
    values = {name: list(rng.random(3)) for name in NAMES}
    counts = rng.integers(0, 9, (4, 4))
    common = {"student_order": CAST, "levels": {"teacher": 0.5}}
    figures.curves(
        tmp_path / "a.png",
        theme,
        data=data,
        ylabel="",
        number=".2f",
        band=True,
        **common,
    )
    figures.final_values(
        tmp_path / "b.png",
        theme,
        values=values,
        errors=dict.fromkeys(NAMES),
        xlabel="",
        **common,
    )
    figures.class_accuracies(
        tmp_path / "c.png", theme, accuracies=rng.random(4), names=NAMES
    )
    figures.confusion(tmp_path / "d.png", theme, counts=counts, names=NAMES)
    page = tuple(int(theme.page[i : i + 2], 16) for i in (1, 3, 5))
    for name in "abcd":
        path = tmp_path / f"{name}.png"
        with Image.open(path) as image:
            assert image.convert("RGB").getpixel((1, 1)) == page
        assert colors_of(path) > 50
