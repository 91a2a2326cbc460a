"""Remarks on figures: shown below their table, and named once the figures are others than they were written for."""

import shutil
from pathlib import Path

import pytest

from fedloom.experiment.ledger.entry import read_entry
from fedloom.experiment.ledger.remarks import figures_digest
from tests.experiment.ledger.ledger_folders import HITS, ledger, make_study

PAPERS, SUMMARY = "docs/reproduction/papers.yaml", "docs/reproduction/runs/table1.json"
ASKED = "papers.yaml: the remarks on Table 1 (table1) were written for other figures"


@pytest.fixture
def root(root: Path) -> Path:
    """The study is added, and its table has a remark."""
    assert ledger("add", make_study(root)).exit_code == 0
    remark(root, "")
    return root


def remark(root: Path, digest: str) -> None:
    path = root / PAPERS
    text = path.read_text().split("      remarks:")[0]
    on = f"      remarks_on: '{digest}'\n" if digest else ""
    path.write_text(f"{text}      remarks: [FedA² is ahead.]\n{on}")
    ledger()


def again(root: Path, commit: str = "a" * 12) -> Path:
    """The study, run once more."""
    shutil.rmtree(root / "runs")
    return make_study(root, commit=commit)


def test_a_remark_names_the_figures_that_it_was_written_for(root: Path) -> None:
    digest = figures_digest(read_entry(root / SUMMARY))
    checked, written = ledger("--check"), ledger()
    assert (checked.exit_code, written.exit_code) == (1, 0)
    for result in (checked, written):
        assert f"{ASKED}: read them beside the page, then set remarks_on: '{digest}'." in result.stderr
    remark(root, digest)
    assert ledger("--check").exit_code == 0
    assert "* FedA² is ahead." in (root / "docs/reproduction/small.md").read_text()


def test_other_figures_ask_for_another_reading(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remark(root, figures_digest(read_entry(root / SUMMARY)))
    monkeypatch.setitem(HITS, "LoRA", 3)
    assert ledger("add", again(root)).exit_code == 0
    checked = ledger("--check")
    assert checked.exit_code == 1
    assert ASKED in checked.stderr


def test_the_same_figures_added_again_do_not(root: Path) -> None:
    remark(root, figures_digest(read_entry(root / SUMMARY)))
    assert ledger("add", again(root, "b" * 12)).exit_code == 0
    assert ledger("--check").exit_code == 0


def test_a_remark_without_a_run_waits_for_one(root: Path) -> None:
    (root / SUMMARY).unlink()
    ledger()
    assert ledger("--check").exit_code == 0
