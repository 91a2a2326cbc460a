"""The tutorial and the page for method authors, run word by word in a fresh environment."""

import re
from pathlib import Path

import pytest

from tests.run_page import ROOT, fences, run_page, shape

TUTORIAL, METHOD = ROOT / "docs/tutorial.md", ROOT / "docs/your-method.md"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("page", "smaller"),
    [
        # The quickstart's four rows take a minute of two cores; everything else is run as large as the page has it.
        (
            TUTORIAL,
            "--jobs 1 rounds=1 'data.clients={image: 1, audio: 1}' data.train=8 data.test=4 evaluation.samples=1",
        ),
        (METHOD, ""),
    ],
    ids=["tutorial", "your-method"],
)
def test_a_page_runs_word_by_word(page: Path, smaller: str, tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    assert run_page(page, tmp_path, smaller) == []


def test_only_the_installation_is_left_out() -> None:
    (install,) = [f.text for f in fences(TUTORIAL) if f.skipped]
    assert "pip install -e '.[privacy]'" in install
    (fragment,) = [f.text for f in fences(METHOD) if f.skipped]
    assert "class PromptFL" in fragment


def test_an_excerpt_is_compared_by_its_words() -> None:
    assert (
        shape("local only   84.2   0 B  9.9 s")
        == shape("local only  7,1  12 B 10.0 s")
        != shape("FedAvg 84.2")
    )


def test_a_page_whose_excerpt_is_wrong_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    (tmp_path / "run").mkdir()
    page.write_text(
        "Save as `a.txt`:\n\n```text\n3 dogs\n```\n\n```bash\ncat a.txt\n```\n\n```text\n4 dogs\nfive cats\n```\n"
    )
    (missing,) = run_page(page, tmp_path / "run")
    assert re.match(r"'five cats' in\s+3 dogs", missing)
