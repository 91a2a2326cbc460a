"""Paths that the documentation names exist: files and folders of the repository, modules of the package, relative links."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
REPOSITORY = re.compile(r"(?<![\w./-])(?:src|tests|experiments|docs|benchmarks|scripts)/[\w./*<>-]*")
MODULE = re.compile(r"(?<![\w./<-])\w+(?:/\w+)*/\w+\.py\b")
PLACEHOLDER = re.compile("<|FILE")
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")


def exists(path: str, *roots: Path) -> bool:
    """Whether a path, or a pattern with stars, names something below one of the roots."""
    return any(any(root.glob(path.rstrip("./"))) for root in roots)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    wrong = [p for p in REPOSITORY.findall(text) if not PLACEHOLDER.search(p) and not exists(p, ROOT)]
    wrong += [p for p in MODULE.findall(text) if not exists(p, ROOT, ROOT / "src" / "fedloom")]
    wrong += [p for p in LINK.findall(text) if not exists(p, page.parent)]
    assert not wrong, f"{page.relative_to(ROOT)} names what does not exist: {', '.join(sorted(set(wrong)))}"


def test_a_wrong_path_is_found() -> None:
    assert REPOSITORY.findall("see `tests/core/test_payload.py`, docs/nowhere.md.")[1] == "docs/nowhere.md."
    assert exists("docs/privacy.md.", ROOT)
    assert exists("experiments/*/main.yaml", ROOT)
    assert not exists("methods/nowhere.py", ROOT, ROOT / "src" / "fedloom")
    assert MODULE.findall("`adapters/attachment.py: Part`") == ["adapters/attachment.py"]
