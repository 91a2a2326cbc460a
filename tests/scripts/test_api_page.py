"""The page of the Python interface: fresh, and with every public name."""

import runpy
from pathlib import Path

import pytest

import fedloom

pytest.importorskip("griffe")
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text("utf-8")


@pytest.fixture(scope="module")
def script() -> dict[str, object]:
    return runpy.run_path(str(ROOT / "scripts" / "api_page.py"))


def test_the_page_is_fresh(script: dict[str, object]) -> None:
    assert script["page"]() == PAGE, "write it anew: python scripts/api_page.py"


def test_every_public_name_has_an_entry() -> None:
    for name in fedloom.__all__:
        assert name == "__version__" or f"### fl.{name}\n" in PAGE


def test_an_entry_has_signature_meaning_and_parameters() -> None:
    entry = PAGE.partition("### fl.run\n")[2].partition("### ")[0]
    assert "    experiment: Experiment,\n    out: str | Path | None = None,\n    *,\n" in entry
    assert ") -> Result\n```\n\nRun an experiment" in entry
    scope = PAGE.partition("### Scope\n")[2].partition("### ")[0]
    assert "`from fedloom.methods import Scope`" in scope
    assert "| `personal` | `tuple[str, ...]` | Tensors that every client trains and keeps. |" in scope
    assert "- `image`: PIL's picture" in PAGE.partition("### model.ask\n")[2].partition("### ")[0]
