"""`fedloom ledger`: a study becomes a summary, summaries become pages, and a page that is anything else is found."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedloom.core.errors import ExperimentError
from fedloom.core.seals import write_sealed
from fedloom.experiment.ledger.entry import read_entry
from fedloom.experiment.settings import load_rows
from fedloom.federation.calibration import with_multiplier
from fedloom.federation.run_folder import RunFolder
from tests.experiment.ledger.ledger_folders import EXPERIMENT, ledger, make_study

PAGE = "docs/reproduction/small.md"
SUMMARY = "docs/reproduction/runs/table1.json"


def refused(*args: object) -> str:
    result = ledger(*args)
    assert isinstance(result.exception, ExperimentError), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


def added(root: Path, *args: str) -> None:
    result = ledger("add", make_study(root), *args)
    assert result.exit_code == 0, (result.output, result.exception)


def line_of(page: str, row: str, number: int = 0) -> list[str]:
    lines = [line for line in page.splitlines() if line.startswith(f"| {row} |")]
    return [field.strip() for field in lines[number].strip("|").split("|")]


def test_without_a_run_our_cells_are_empty(root: Path) -> None:
    assert ledger().exit_code == 0
    page = (root / PAGE).read_text()
    assert line_of(page, "LoRA") == ["LoRA", "64.50", "", "1.25 ± 0.50"]
    assert line_of(page, "FedA²-LoRA") == ["FedA²-LoRA", "70.00", "", ""]
    assert "Not run yet: `fedloom run experiments/small/table1.yaml --out runs/table1`." in page
    assert (
        "0 of 1 experiment files have a committed run" in (root / "docs/reproduction/README.md").read_text()
    )
    assert ledger("--check").exit_code == 0


def test_a_noise_multiplier_is_the_one_that_the_file_is_calibrated_to(root: Path) -> None:
    """A run records the number, and the file says `calibrated`."""
    noise = "privacy: {dp: {clip: 0.3, noise_multiplier: calibrated, epsilon: 4, seeded: true}}"
    (root / "experiments/small/table1.yaml").write_text(f"{EXPERIMENT}{noise}\n")
    study, file = make_study(root), root / "experiments/small/table1.yaml"
    z = {e.row: with_multiplier(e).privacy.dp.multiplier for e in load_rows(file)}
    assert z["FedA²-LoRA"] > z["LoRA"], "two noisy sums a round need more noise"
    for more in (0.0, 0.1):
        for record in study.rglob("experiment.yaml"):
            text = yaml.safe_load(record.read_text())
            text["privacy"]["dp"]["noise_multiplier"] = z[text["row"]] + more
            record.write_text(yaml.safe_dump(text))
        if not more:
            assert ledger("add", study).exit_code == 0
    assert "was run with privacy.dp.noise_multiplier=" in refused("add", study)


def test_the_columns_are_those_of_the_file_as_it_is_now(root: Path) -> None:
    study, file = make_study(root), root / "experiments/small/table1.yaml"
    file.write_text(EXPERIMENT.replace("exact_match, bytes_up", "exact_match, rounds"))
    assert ledger("add", study).exit_code == 0
    assert [column.key for column in read_entry(root / SUMMARY).columns] == [
        "global/image/exact_match",
        "rounds",
    ]
    assert ledger("--check").exit_code == 0


def test_a_file_that_knows_sizes_has_its_size_shown(root: Path) -> None:
    (root / "experiments/small/table1.yaml").write_text(f"{EXPERIMENT}sizes: {{small: {{rounds: 9}}}}\n")
    added(root)
    assert "runs/table1`: size tiny, 3 seeds" in (root / PAGE).read_text()
    assert "| 2 | tiny | 6 |" in (root / "docs/reproduction/README.md").read_text()


def test_an_added_study_stands_beside_the_paper(root: Path) -> None:
    added(root)
    page = (root / PAGE).read_text()
    assert line_of(page, "LoRA")[2].startswith("25.0 ± 0.0 [")  # 2 of 8
    assert line_of(page, "FedA²-LoRA")[1:3][0] == "70.00"
    assert line_of(page, "FedA²-LoRA")[2].startswith("87.5 ± 0.0 [")
    assert line_of(page, "FedA²-LoRA")[4] == "1.00 kB"
    gap = line_of(page, "FedA²-LoRA", 1)[1]
    assert gap.startswith("+62.5 [")
    assert gap.endswith("ahead (p 0.25)")
    command = "`fedloom run experiments/small/table1.yaml 'seeds=[0,1,2]' --out runs/table1`"
    assert f"{command}: 3 seeds (0, 1, 2), 6 runs in 3.0 min; fedloom 0.1.0" in page
    assert f"commit `{'a' * 12}`" in page
    index = (root / "docs/reproduction/README.md").read_text()
    assert "1 of 1 experiment files have a committed run" in index
    assert "| [Table 1](small.md) | 2 | its own | 6 | 0, 1, 2 | 3.0 | 0.1.0 |" in index
    assert ledger("--check").exit_code == 0


def test_the_same_study_makes_the_same_bytes(root: Path) -> None:
    added(root)
    before = {path: path.read_bytes() for path in root.glob("docs/**/*") if path.is_file()}
    assert ledger("add", root / "runs/table1").exit_code == 0
    assert ledger().exit_code == 0
    assert {path: path.read_bytes() for path in root.glob("docs/**/*") if path.is_file()} == before


def test_a_changed_figure_makes_the_check_fail(root: Path) -> None:
    added(root)
    summary = json.loads((root / SUMMARY).read_text())
    summary["rows"]["LoRA"]["figures"]["global/image/exact_match"]["values"]["0"] = 0.5
    (root / SUMMARY).write_text(json.dumps(summary))
    before = (root / PAGE).read_bytes()
    result = ledger("--check")
    assert result.exit_code == 1
    assert (root / PAGE).read_bytes() == before
    assert result.stderr.splitlines() == [
        f"fedloom: {PAGE} is not what `fedloom ledger` writes from the committed summaries: write it anew."
    ]


@pytest.mark.parametrize("page", [PAGE, "docs/reproduction/README.md"])
def test_an_edited_page_and_a_missing_one_make_the_check_fail(root: Path, page: str) -> None:
    added(root)
    path = root / page
    path.write_text(path.read_text().replace("25.0", "26.0").replace("3.0", "4.0"))
    assert [page in line for line in ledger("--check").stderr.splitlines()] == [True]
    path.unlink()
    missing = ledger("--check")
    assert missing.exit_code == 1
    assert missing.stderr == f"fedloom: {page} is missing: write it with `fedloom ledger`.\n"


def at(summary: dict[str, Any], *path: str) -> Any:
    for name in path:
        summary = summary[name]
    return summary


FIGURE = ("rows", "LoRA", "figures", "global/image/exact_match")


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ((*FIGURE, "values", "0"), 1.5, "1.5 lies outside 0 to 1"),
        ((*FIGURE, "values", "0"), "0.5", "valid number"),
        ((*FIGURE, "values", "0"), True, "valid number"),
        ((*FIGURE, "values"), {}, "at least 1"),
        ((*FIGURE, "values", "-1"), 0.5, "greater than or equal to 0"),
        ((*FIGURE, "interval", "low"), 2.0, "low 2.0 lies above high"),
        ((*FIGURE, "best"), 1, "Extra inputs"),
        (("rows", "LoRA", "figures", "hm"), {"values": {"0": 0.5}}, "'hm', which is no column"),
        (("minutes",), -1.0, "greater than or equal to 0"),
        (("commit",), "main", "pattern"),
        (("against",), ["CLIP"], "against names 'CLIP'"),
        (("against",), [], "a difference from 'LoRA', which against does not name"),
        (("experiment",), "table2", "'table2', not 'table1'"),
        (("format",), 2, "Input should be 1"),
    ],
)
def test_a_malformed_summary_is_one_sentence(
    root: Path, path: tuple[str, ...], value: Any, says: str
) -> None:
    added(root)
    summary = json.loads((root / SUMMARY).read_text())
    at(summary, *path[:-1])[path[-1]] = value
    (root / SUMMARY).write_text(json.dumps(summary))
    said = refused("--check")
    assert said.startswith(SUMMARY)
    assert says in said


@pytest.mark.parametrize("text", ["", "{", "[]", '{"minutes": NaN}', "\ufeff{}"])
def test_a_torn_summary_is_one_sentence(root: Path, text: str) -> None:
    file = root / SUMMARY
    file.parent.mkdir()
    file.write_text(text)
    assert f"{SUMMARY} is no summary of a study" in refused()


def test_a_run_with_other_settings_than_its_file_needs_its_overrides(root: Path) -> None:
    folder = make_study(root, "training.lr=0.25")
    said = refused("add", folder)
    assert "training.lr=0.25" in said
    assert "--with" in said
    assert not (root / SUMMARY).exists()
    assert ledger("add", folder, "--with", "training.lr=0.25").exit_code == 0
    assert "table1.yaml training.lr=0.25 'seeds=[0,1,2]'" in read_entry(root / SUMMARY).command
    assert "leave the override seed=1 out" in refused("add", folder, "--with", "seed=1")


def test_settings_that_change_no_last_figure_need_not_be_the_files(root: Path) -> None:
    folder = make_study(root, "evaluation.diagnostics=1", "engine.workers=2", "engine.threads=1")
    assert ledger("add", folder).exit_code == 0


def test_a_path_from_the_directory_of_the_runs_is_the_files(root: Path) -> None:
    file, line = root / "experiments/small/table1.yaml", "model: {projector_from: runs/first}\n"
    file.write_text(EXPERIMENT + line)
    folder, begun = make_study(root), root / "elsewhere"
    for record in folder.glob("*/seed-*/experiment.yaml"):
        record.write_text(record.read_text().replace("runs/first", f"{begun}/runs/first"))
        (record.parent / "state").mkdir()
        write_sealed(
            RunFolder(record.parent).provenance,
            {"directory": str(begun), "threads": 1, "device": "CPU with AVX2"},
        )
    assert ledger("add", folder).exit_code == 0
    assert "threads: 1, CPU with AVX2; fedloom" in (root / PAGE).read_text()
    file.write_text(EXPERIMENT + line.replace("first", "second"))
    assert "runs/second" in refused("add", folder)


def test_a_file_that_changed_after_the_run_is_found(root: Path) -> None:
    folder = make_study(root)
    (root / "experiments/small/table1.yaml").write_text(EXPERIMENT.replace("train: 8", "train: 9"))
    assert "data.train=8, and experiments/small/table1.yaml gives 9" in refused("add", folder)


def test_a_part_of_the_rows_is_named_in_the_command_and_the_others_stay_empty(root: Path) -> None:
    folder = make_study(root, seeds=(0,))
    entries = [e for e in json.loads((folder / "rows.json").read_text()) if e["row"] == "LoRA"]
    (folder / "rows.json").write_text(json.dumps(entries))
    assert ledger("add", folder).exit_code == 0
    page = (root / PAGE).read_text()
    assert "`fedloom run experiments/small/table1.yaml --row LoRA --out runs/table1`" in page
    assert "1 seed (0), too few for a test over seeds" in page
    assert line_of(page, "FedA²-LoRA")[2] == ""


def test_seeds_of_several_folders_are_one_study(root: Path) -> None:
    make_study(root, seeds=(0, 1)).rename(root / "runs/first")
    make_study(root, seeds=(2,)).rename(root / "runs/second")
    assert ledger("add", root / "runs/first", root / "runs/second").exit_code == 0
    entry = read_entry(root / SUMMARY)
    assert (entry.seeds, entry.runs) == ([0, 1, 2], 6)
    assert "'seeds=[0,1,2]'" in entry.command


def test_a_file_of_one_run_has_no_row_to_be_compared_with(root: Path) -> None:
    file = root / "experiments/small/table1.yaml"
    file.write_text(EXPERIMENT.partition("rows:")[0])
    papers = root / "docs/reproduction/papers.yaml"
    papers.write_text(papers.read_text().partition("      columns:")[0])
    folder = make_study(root, seeds=(0,))
    result = ledger("add", folder / "lora/seed-0")
    assert result.exit_code == 0, (result.output, result.exception)
    entry = read_entry(root / SUMMARY)
    assert (entry.against, list(entry.rows)) == ((), ["LoRA"])
    assert entry.command == "fedloom run experiments/small/table1.yaml --out runs/table1"
    assert "Against" not in (root / PAGE).read_text()


def test_runs_of_two_commits_need_one_named(root: Path) -> None:
    folder = make_study(root)
    file = folder / "lora/seed-0/experiment.yaml"
    file.write_text(file.read_text().replace("a" * 12, "b" * 12))
    assert "the runs were made at 2 commits" in refused("add", folder)
    assert ledger("add", folder, "--commit", "c" * 12).exit_code == 0
    assert read_entry(root / SUMMARY).commit == "c" * 12


def test_a_study_without_an_experiment_file_has_no_place(root: Path) -> None:
    folder = make_study(root)
    (root / "experiments/small/table1.yaml").write_text(EXPERIMENT.replace("name: table1", "name: table9"))
    assert "no experiment file is named 'table1'" in refused("add", folder)


def test_a_summary_whose_experiment_file_is_gone_is_named(root: Path) -> None:
    added(root)
    (root / "experiments/small/table1.yaml").write_text(EXPERIMENT.replace("name: table1", "name: table9"))
    assert "runs/table1.json is of an experiment that no file" in refused("--check")


def test_papers_with_a_wrong_number_of_values_are_one_sentence(root: Path) -> None:
    file = root / "docs/reproduction/papers.yaml"
    file.write_text(file.read_text().replace("[70.0, null]", "[70.0]"))
    assert "row 'FedA²-LoRA' has 1 values for 2 columns" in refused()
