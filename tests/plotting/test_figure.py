"""What all pictures share."""

import re

import numpy as np
import pytest

from embedscope.plotting.figure import GRAY, MAX_CLASSES, WIDTHS, fitted, palette, series, text_width
from embedscope.plotting.pictures import picture

# Machado et al. 2009, doi:10.1109/TVCG.2009.113: what is left of linear RGB with full protanopia, deuteranopia, tritanopia.
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(colors, blindness):
    """CIELAB (n, 3) of "#rrggbb" as an eye with a blindness sees them."""
    rgb = np.array([[int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)] for color in colors])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(BLINDNESS[blindness]).T, 0, 1)
    xyz = seen @ np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).T
    scaled = xyz / [0.9505, 1.0, 1.089]
    f = np.where(scaled > 0.008856, np.cbrt(scaled), 7.787 * scaled + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_colors_are_told_apart_by_every_eye(blindness):
    """A difference of 2.3 in CIELAB is just noticeable; matplotlib's tab10 comes down to 3.8 and tab20 to 1.5."""
    seen = lab([*series(10), "#ffffff"], blindness)
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=2)[np.triu_indices(11, 1)]
    assert apart.min() > 5


@pytest.mark.parametrize("count", [1, 10, 11, MAX_CLASSES])
def test_a_look_a_class(count):
    made = palette([str(place) for place in range(count)])
    assert len(set(zip(made.colors, made.markers, strict=True))) == count
    assert made.listed == tuple(range(count))
    assert not made.note


def test_of_many_classes_the_worst_have_colors():
    made = palette([str(place) for place in range(45)], worst=[7, 3, *range(10, 45)], why="because")
    assert made.listed[:2] == (7, 3)
    assert len(made.listed) == 8
    assert made.colors.count(GRAY) == 37
    assert len(set(made.colors)) == 9
    assert made.note == "45 classes: because; the other 37 are gray."


def test_a_long_text_loses_its_middle():
    name = "a_rather_long_name_of_a_class_that_differs_at_its_end_17"
    short = fitted(name, 1.0, 8)
    assert text_width(short, 8) <= 1.0 < text_width(name, 8)
    assert re.fullmatch(r"a_rath.*….*_17", short)
    assert fitted("short", 1.0, 8) == "short"
    assert fitted("$x^$", 1.0, 8) == "$x^$"


@pytest.mark.parametrize("width", WIDTHS)
def test_a_picture_is_as_wide_as_its_preset(width, tmp_path):
    from PIL import Image

    preset = WIDTHS[width]
    with picture(tmp_path / "a.png", preset, lambda: palette("ab"), 2) as sheets:
        for sheet in sheets:
            panels = sheet.arrange(["one", "two", "three", "four"], heading="what")
            assert len(panels) == 4
    with Image.open(tmp_path / "a.png") as image:
        assert image.width == pytest.approx(preset.inches * preset.dpi, abs=1)
        assert image.height == pytest.approx(sum(sheet.height for sheet in sheets) * preset.dpi, abs=1)


def test_an_error_leaves_nothing_behind(tmp_path):
    with pytest.raises(RuntimeError, match="on purpose"), picture(tmp_path / "a.png", WIDTHS["page"], lambda: palette("a"), 1):
        raise RuntimeError("on purpose")
    assert not list(tmp_path.iterdir())


def test_style_does_not_leak(tmp_path):
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    with picture(tmp_path / "a.png", WIDTHS["slide"], lambda: palette("a"), 1) as [sheet]:
        sheet.arrange(["one"], heading="what")
    assert dict(mpl.rcParams) == before
