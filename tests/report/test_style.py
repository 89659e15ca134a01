"""Colours, names and files that all figures share."""

import itertools

import matplotlib
import pytest
from PIL import Image

from jaxkd.report import style

THEMES = [style.LIGHT, style.DARK]


@pytest.mark.parametrize("theme", THEMES)
def test_every_student_looks_different(theme):
    names = ["kd", *(f"student{index}" for index in range(22))]
    line_styles = style.line_styles(style.StudentOrder(names, "kd", None), theme)
    assert set(line_styles) == set(names)
    for one, other in itertools.combinations(names, 2):
        assert line_styles[one][:2] != line_styles[other][:2], (one, other)
    assert line_styles["kd"].color == theme.ink


def test_the_plain_student_is_grey():
    line_styles = style.line_styles(
        style.StudentOrder(["ce", "kd"], "kd", "ce"), style.DARK
    )
    assert line_styles["ce"].color == style.DARK.muted
    assert line_styles["kd"].color == style.DARK.ink


def test_a_plain_reference_is_drawn_as_the_reference():
    line_styles = style.line_styles(
        style.StudentOrder(["ce", "kd"], "ce", "ce"), style.LIGHT
    )
    assert line_styles["ce"].color == style.LIGHT.ink


def test_the_plain_student_is_found_by_its_name_or_method():
    kd = {"a": "kd", "b": "dkd"}
    for name, method in (("ce", "kd"), ("mine", "supervised")):
        student_order = style.order_students(kd | {name: method}, "a")
        assert student_order == style.StudentOrder(["a", "b", name], "a", name)
    assert style.order_students(kd, None).plain is None
    assert style.order_students({"ce": "kd"}, None).plain is None


@pytest.mark.parametrize("span", [(1e-3, 1.0), (2.0, 9.0)])
def test_logarithmic_axes_have_plain_numbers(tmp_path, span):
    with style.canvas(tmp_path / "figure.png", (4, 3), style.LIGHT) as figure:
        axes = figure.subplots()
        axes.plot(span, span)
        style.logarithmic(axes, "x")
        figure.canvas.draw()
        labels = [label.get_text() for label in axes.get_xticklabels()]
    numbers = [float(label) for label in labels]
    assert sum(span[0] <= number <= span[1] for number in numbers) >= 2


def luminance(color):
    """Relative luminance of WCAG 2."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", THEMES)
def test_text_can_be_read_and_lines_can_be_seen(theme):
    assert contrast(theme.ink, theme.page) > 7
    assert contrast(theme.muted, theme.page) > 4.5
    assert min(contrast(hue, theme.page) for hue in theme.hues) > 2


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("ΞЩ <&> $x_1$", "ΞЩ <&> $x_1$"),
        ("猫\n", "□□"),
        ("a" * 24, "a" * 24),
        ("a" * 25, "a" * 23 + "…"),
    ],
)
def test_names_are_shown_with_the_characters_that_the_font_has(name, shown):
    assert style.printable(name) == shown


def test_drawing_leaves_the_callers_settings_alone(tmp_path):
    before = dict(matplotlib.rcParams)
    with style.canvas(tmp_path / "a.png", (2, 1), style.DARK) as figure:
        figure.text(0.5, 0.5, "$")
    assert dict(matplotlib.rcParams) == before


def test_dollar_signs_do_not_start_formulas(tmp_path):
    with style.canvas(tmp_path / "a.png", (2, 1), style.LIGHT) as figure:
        # As a formula this raises an error, because it is not a valid one.
        figure.text(0.1, 0.5, "$\\frac$")


def test_files_depend_on_the_data_alone(tmp_path):
    for name in "ab":
        with style.canvas(tmp_path / f"{name}.png", (2, 1), style.LIGHT) as figure:
            figure.text(0.1, 0.5, "Ξ")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (2 * style.DPI, style.DPI)
        assert image.convert("RGB").getpixel((0, 0)) == (0xFC, 0xFC, 0xFB)
