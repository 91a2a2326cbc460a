"""The repository's own ledger: its pages are current, and the papers' rows and columns are those of the experiment files."""

from pathlib import Path

import pytest

from fedloom.cli.counted import counted
from fedloom.experiment.ledger.experiments import experiment_files
from fedloom.experiment.ledger.pages import pages, read_sources, stale
from fedloom.experiment.ledger.papers import PaperTable, read_papers
from fedloom.experiment.ledger.remarks import uncompared, unread
from fedloom.experiment.ledger.settings import outdated

FOLDER, EXPERIMENTS = Path("docs/reproduction"), Path("experiments")
PAPERS = FOLDER / "papers.yaml"
TABLES = [t for t in read_papers(PAPERS).tables() if t.experiment is not None]


def test_the_pages_are_what_the_command_writes() -> None:
    assert stale(FOLDER, pages(read_sources(FOLDER, EXPERIMENTS, counted))) == []


def test_the_experiment_files_give_the_settings_of_the_committed_runs() -> None:
    assert list(outdated(read_sources(FOLDER, EXPERIMENTS, counted).entries, Path())) == []


def test_the_remarks_were_written_for_these_figures_and_the_comparisons_have_been_made() -> None:
    sources = read_sources(FOLDER, EXPERIMENTS, counted)
    assert list(unread(PAPERS, sources.papers, sources.entries)) == []
    assert list(uncompared(PAPERS, sources.papers, sources.entries)) == []


@pytest.mark.parametrize("table", TABLES, ids=lambda table: f"{table.experiment} {table.place}")
def test_the_papers_rows_and_columns_are_those_of_the_experiment_file(table: PaperTable) -> None:
    file = experiment_files(EXPERIMENTS)[str(table.experiment)]
    assert set(table.rows) <= set(file.rows)
    for name in table.columns.values():
        if name is None:
            continue
        part, _, key = name.rpartition(": ")
        assert key in {column.removeprefix("average/") for column in file.columns}
        assert part in ({*file.parts, "average"} if file.parts else {""})


@pytest.mark.parametrize("table", TABLES, ids=lambda table: f"{table.experiment} {table.place}")
def test_what_is_compared_is_in_the_experiment_file(table: PaperTable) -> None:
    file = experiment_files(EXPERIMENTS)[str(table.experiment)]
    known = {f"{part}: {key}" if part else key for part in file.parts or ("",) for key in file.columns}
    for base, compared in table.against.items():
        assert {base, *compared.rows} <= set(file.rows)
        assert base not in compared.rows
        assert set(compared.columns) <= known


def test_every_experiment_has_one_page() -> None:
    sources = read_sources(FOLDER, EXPERIMENTS, counted)
    texts = pages(sources)
    for file in sources.files.values():
        holders = [
            name for name, text in texts.items() if name != "README.md" and file.path.as_posix() in text
        ]
        assert len(holders) == 1, (file.name, holders)
