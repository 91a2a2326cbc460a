"""The style sheet: two schemes with enough contrast, a choice between them, paper, rows that stand out."""

import re
from importlib import resources

import pytest

from fedloom.experiment.report.row_css import row_css
from fedloom.experiment.report.svg import SERIES

SHEET = (resources.files("fedloom.experiment.report") / "templates" / "report.css").read_text("utf-8")
COLOURS = {
    name: (light, dark)
    for name, light, dark in re.findall(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)", SHEET)
}


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_every_colour_of_the_page_has_both_schemes() -> None:
    used = set(re.findall(r"var\(--([\w-]+)\)", SHEET)) | {f"series-{i}" for i in range(SERIES)}
    assert used == set(COLOURS)
    assert not re.search(r"#[0-9a-f]{3,6}\b", re.sub(r"light-dark\([^)]*\)|#scheme-\w+", "", SHEET))


@pytest.mark.parametrize("scheme", [0, 1])
def test_text_and_lines_have_enough_contrast(scheme: int) -> None:
    at = {name: pair[scheme] for name, pair in COLOURS.items()}
    for ground in ("page", "card"):
        for ink in ("ink", "soft", "link", "good", "bad"):
            assert contrast(at[ink], at[ground]) >= 4.5, (ink, ground)
    assert contrast(at["bad"], at["loud"]) >= 4.5
    assert contrast(at["good"], at["calm"]) >= 4.5
    for i in range(SERIES):
        assert contrast(at[f"series-{i}"], at["page"]) >= 3, i


def test_the_page_follows_the_system_the_reader_and_paper() -> None:
    assert re.search(r":root \{\s*color-scheme: light dark;", SHEET)
    assert ":root:has(#scheme-dark:checked) { color-scheme: dark; }" in SHEET
    paper = SHEET[SHEET.index("@media print") :]
    assert ":root { color-scheme: light !important; }" in paper
    assert "details::details-content { content-visibility: visible;" in paper
    assert ".scroll, pre { overflow: visible; }" in paper


def test_every_row_has_a_rule_and_one_row_needs_none() -> None:
    rules = row_css(11)
    assert all(f":is(.row-{i}, .band-{i})" in rules for i in range(11))
    assert ".row-11" not in rules
    assert row_css(1) == ""
