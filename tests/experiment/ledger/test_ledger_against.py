"""What a summary compares, what papers.yaml has compared, and how the pages show it."""

import json
from pathlib import Path

from fedloom.core.errors import ExperimentError
from fedloom.experiment.ledger.entry import Entry, read_entry
from tests.experiment.ledger.ledger_folders import ledger, make_study

PAGE, SUMMARY = "docs/reproduction/small.md", "docs/reproduction/runs/table1.json"
PAPERS = "docs/reproduction/papers.yaml"


def compare(root: Path, text: str) -> None:
    """Have papers.yaml name what is compared."""
    path = root / PAPERS
    path.write_text(path.read_text() + f"      against: {text}\n")


def part(page: str, base: str) -> str:
    """The table below "Against base"."""
    return page.split(f"Against {base}:\n\n")[1].split("\n\n")[0]


def test_several_rows_to_compare_with_are_kept_and_shown(root: Path) -> None:
    assert ledger("add", make_study(root), "--against", "LoRA", "--against", "FedA²-LoRA").exit_code == 0
    assert read_entry(root / SUMMARY).against == ("LoRA", "FedA²-LoRA")
    page = (root / PAGE).read_text()
    assert "| FedA²-LoRA | +62.5 [" in part(page, "LoRA")
    assert "| LoRA | -62.5 [" in part(page, "FedA²-LoRA")
    assert " behind (p 0.25)" in part(page, "FedA²-LoRA")


def test_without_an_option_the_rows_of_papers_yaml_are_compared_with(root: Path) -> None:
    compare(root, "{FedA²-LoRA: {}}")
    assert ledger("add", make_study(root)).exit_code == 0
    assert read_entry(root / SUMMARY).against == ("FedA²-LoRA",)
    page = (root / PAGE).read_text()
    assert "Against LoRA" not in page
    assert "| LoRA | -62.5 [" in part(page, "FedA²-LoRA")


def test_a_row_that_there_is_not_is_named(root: Path) -> None:
    result = ledger("add", make_study(root), "--against", "LoRA", "--against", "CLIP")
    assert isinstance(result.exception, ExperimentError)
    assert "there is no row 'CLIP'" in str(result.exception)


def test_a_comparison_that_the_summary_lacks_has_no_interval_and_no_verdict(root: Path) -> None:
    assert ledger("add", make_study(root), "--against", "LoRA").exit_code == 0
    compare(root, "{FedA²-LoRA: {}}")
    assert ledger().exit_code == 0
    assert "| LoRA | -62.5 (p 0.25) |" in part((root / PAGE).read_text(), "FedA²-LoRA")
    checked = ledger("--check")
    assert checked.exit_code == 1
    assert (
        "papers.yaml compares table1 with FedA²-LoRA, and its summary was made against LoRA: add the runs again"
        in checked.stderr
    )


def test_a_figure_that_some_seeds_lack_says_of_how_many_it_is(root: Path) -> None:
    assert ledger("add", make_study(root)).exit_code == 0
    summary = json.loads((root / SUMMARY).read_text())
    figure = next(iter(summary["rows"]["LoRA"]["figures"].values()))
    del figure["values"]["2"]
    (root / SUMMARY).write_text(json.dumps(summary))
    assert ledger().exit_code == 0
    lines = (root / PAGE).read_text().splitlines()
    assert "(of 2)" in next(line for line in lines if line.startswith("| LoRA |"))
    assert "(of" not in next(line for line in lines if line.startswith("| FedA²-LoRA |"))


def test_only_the_named_rows_and_columns_are_compared(root: Path) -> None:
    compare(
        root, "{LoRA: {rows: [FedA²-LoRA], columns: [global/image/exact_match]}, FedA²-LoRA: {columns: [hm]}}"
    )
    assert ledger("add", make_study(root)).exit_code == 0
    page = (root / PAGE).read_text()
    assert part(page, "LoRA").splitlines()[0] == "|  | image: exact match % |"
    assert len(part(page, "LoRA").splitlines()) == 3
    assert "Against FedA²-LoRA" not in page


def entry(root: Path, *seeds: float) -> Entry:
    """The summary, with other figures of FedA²-LoRA by seed."""
    assert ledger("add", make_study(root)).exit_code == 0
    summary = json.loads((root / SUMMARY).read_text())
    figure = summary["rows"]["FedA²-LoRA"]["figures"]["global/image/exact_match"]
    figure["values"] = dict(enumerate(seeds))
    (root / SUMMARY).write_text(json.dumps(summary))
    return read_entry(root / SUMMARY)


def test_a_verdict_says_where_the_seeds_disagree(root: Path) -> None:
    found = entry(root, 0.875, 0.875, 0.125).difference("FedA²-LoRA", "LoRA", "global/image/exact_match")
    assert found is not None
    assert found.by_seed == {0: 0.625, 1: 0.625, 2: -0.125}
    assert (found.verdict, found.in_words) == ("ahead", "ahead (seeds disagree)")
    ledger()
    assert "ahead (seeds disagree) (p 0.50)" in part((root / PAGE).read_text(), "LoRA")


def test_a_wide_table_is_cut_between_the_groups_of_its_columns(root: Path) -> None:
    path = root / PAPERS
    names = [f"{kind} {name}" for kind in ("image", "audio") for name in "abcdef"]
    text = path.read_text().replace(
        "{Acc: global/image/exact_match, time: null}", f"{{{': null, '.join(names)}: null}}"
    )
    text = text.replace("[64.5, [1.25, 0.5]]", str([1.0] * 12)).replace("[70.0, null]", str([2.0] * 12))
    path.write_text(text)
    assert ledger().exit_code == 0
    heads = [line for line in (root / PAGE).read_text().splitlines() if line.startswith("|  |")]
    assert [head.count("image") for head in heads] == [6, 0]
    assert [head.count("audio") for head in heads] == [0, 6]


def test_several_figures_of_several_parts_have_a_table_each_and_an_empty_one_none(root: Path) -> None:
    assert ledger("add", make_study(root)).exit_code == 0
    summary = json.loads((root / SUMMARY).read_text())
    keys = ("global/image/exact_match", "global/audio/exact_match", "global/text/exact_match")
    summary["columns"] = [
        {"key": key, "title": f"{name}, {key}", "unit": "percent", "across": name}
        for name in ("noise", "fog")
        for key in keys
    ]
    for row in summary["rows"].values():
        known = row["figures"][keys[0]]
        row["figures"] = {f"{name}: {key}": known for name in ("noise", "fog") for key in keys[:2]}
    (root / SUMMARY).write_text(json.dumps(summary))
    assert ledger().exit_code == 0
    page = (root / PAGE).read_text()
    for title in ("image: exact match %", "audio: exact match %"):
        table = page.split(f"\n\n{title}:\n\n")[1].split("\n\n")[0].splitlines()
        assert table[0] == "|  | noise | fog |"
        assert table[2].startswith("| LoRA | 25.0 ± 0.0")
        gaps = page.split(f"Against LoRA, {title}:\n\n")[1].split("\n\n")[0].splitlines()
        assert gaps[0] == "|  | noise | fog |"
        assert gaps[2].startswith("| FedA²-LoRA | +62.5 [+25.0, +87.5] ahead (p 0.25)")
    assert "text: exact match" not in page
