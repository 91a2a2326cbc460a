"""A summary whose experiment file now gives other settings is named, and so is a page that nothing writes."""

import json
from pathlib import Path

import pytest

from tests.experiment.ledger.ledger_folders import EXPERIMENT, ledger, make_study

FILE, SUMMARY = "experiments/small/table1.yaml", "docs/reproduction/runs/table1.json"
OTHER = "table1.yaml now gives other settings ({}), so that the printed command no longer gives these figures"


@pytest.fixture
def root(root: Path) -> Path:
    """The study is added."""
    assert ledger("add", make_study(root)).exit_code == 0
    return root


def change(root: Path, old: str, new: str) -> None:
    assert old in EXPERIMENT
    (root / FILE).write_text(EXPERIMENT.replace(old, new))
    ledger()  # the page shows the description


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("rounds: 1", "rounds: 2", "rounds"),
        ("{method.name: feda2-lora}", "{method.name: feda2-lora, training.lr: 0.5}", "training.lr"),
        ("train: 8", "train: 9", "data.train"),
    ],
)
def test_other_settings_are_named(root: Path, old: str, new: str, name: str) -> None:
    assert ledger("--check").exit_code == 0
    change(root, old, new)
    checked, written = ledger("--check"), ledger()
    assert checked.exit_code == 1
    assert OTHER.format(name) in checked.stderr
    assert written.exit_code == 0
    assert OTHER.format(name) in written.stderr


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Two rows of one client.", "Other words."),
        ("columns: [global/image/exact_match, bytes_up]", "columns: [bytes_up]"),
        ("rounds: 1", "rounds: 1\nseeds: [0, 7]"),
        ("  LoRA: {}", "  LoRA: {}\n  FFA-LoRA: {method.name: ffa-lora}"),
        ("rounds: 1", "rounds: 1\nevaluation: {diagnostics: 1}"),
        ("rounds: 1", "rounds: 1\nsizes: {small: {rounds: 9}}"),
    ],
)
def test_what_changes_no_figure_of_the_summary_is_none(root: Path, old: str, new: str) -> None:
    change(root, old, new)
    result = ledger("--check")
    assert (result.exit_code, result.stderr) == (0, "")


def test_a_setting_that_is_newer_than_the_summary_counts_once_it_is_given(root: Path) -> None:
    summary = json.loads((root / SUMMARY).read_text())
    del summary["settings"]["training.lr"]
    (root / SUMMARY).write_text(json.dumps(summary))
    assert ledger("--check").exit_code == 0
    change(root, "rounds: 1", "rounds: 1\ntraining: {lr: 0.5}")
    assert OTHER.format("training.lr") in ledger("--check").stderr


def test_a_row_that_is_gone_and_a_summary_without_digests_are_named(root: Path) -> None:
    change(root, "  LoRA: {}", "  LoRA, one: {}")
    assert "now gives other settings" in ledger("--check").stderr
    summary = json.loads((root / SUMMARY).read_text())
    (root / SUMMARY).write_text(json.dumps(summary | {"settings": {}}))
    assert "the summary of table1 holds no digest of its settings" in ledger("--check").stderr


def test_a_file_that_cannot_be_run_any_more_is_named(root: Path) -> None:
    change(root, "feda2-lora", "feda3-lora")
    result = ledger("--check")
    assert result.exit_code == 1
    assert "its command does not run any more" in result.stderr


@pytest.mark.parametrize("name", ["old.md", "curves-9-base.svg"])
def test_a_page_that_nothing_writes_is_named(root: Path, name: str) -> None:
    assert ledger("--check").exit_code == 0
    (root / "docs/reproduction" / name).write_text("left\n")
    result = ledger("--check")
    assert result.exit_code == 1
    assert f"{name} is not written by `fedloom ledger` any more: remove it." in result.stderr
