"""`fedloom ledger`: the pages of docs/reproduction, from committed summaries of runs and the papers' figures."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from fedloom.cli.output import errors, out
from fedloom.core.errors import ExperimentError

app = typer.Typer(
    invoke_without_command=True,
    help="The reproduction ledger: write its pages, check them, or add a finished study.",
    epilog="Example: fedloom ledger add runs/table3 --against LoRA",
)

FOLDER = Path("docs/reproduction")
EXPERIMENTS = Path("experiments")


@app.callback()
def ledger(
    context: typer.Context,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="change nothing; exit code 1 if a page, a summary or a remark is out of date"
        ),
    ] = False,
    folder: Annotated[Path, typer.Option(help="folder of pages, runs/ and papers.yaml")] = FOLDER,
    experiments: Annotated[Path, typer.Option(help="folder of the experiment files")] = EXPERIMENTS,
) -> None:
    """Write the ledger's pages from runs/*.json, papers.yaml and the experiment files."""
    context.obj = (folder, experiments)
    if context.invoked_subcommand is not None:
        if check:
            raise ExperimentError("--check stands alone: fedloom ledger --check")
        return
    from fedloom.cli.counted import counted
    from fedloom.experiment.ledger.pages import PAPERS, pages, read_sources, stale
    from fedloom.experiment.ledger.remarks import uncompared, unread
    from fedloom.experiment.ledger.settings import outdated

    if not check:
        _write(folder, experiments)
    sources = read_sources(folder, experiments, counted)
    faults = [
        *(stale(folder, pages(sources)) if check else ()),
        *outdated(sources.entries, experiments.parent),
        *uncompared(folder / PAPERS, sources.papers, sources.entries),
        *unread(folder / PAPERS, sources.papers, sources.entries),
    ]
    for fault in faults:
        errors.print(Text(f"fedloom: {fault}"), style="red", soft_wrap=True)
    if faults and check:
        raise typer.Exit(1)


@app.command(epilog="Example: fedloom ledger add runs/table3 --against LoRA")
def add(
    context: typer.Context,
    runs: Annotated[list[Path], typer.Argument(help="folder of a finished study, or several with its seeds")],
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="row that the others are compared with; may be repeated; those that papers.yaml names, or the first if none"
        ),
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--with", help="an override of the run's command; may be repeated")
    ] = None,
    commit: Annotated[str | None, typer.Option(help="commit of the runs, if they did not record it")] = None,
) -> None:
    """Turn a finished study into a summary in runs/, and write the pages anew.

    The experiment file, with the overrides, must give the settings of every run.
    """
    from fedloom.experiment.ledger.collect import entry_of
    from fedloom.experiment.ledger.entry import write_entry
    from fedloom.experiment.ledger.experiments import experiment_files
    from fedloom.experiment.ledger.pages import PAPERS, RUNS
    from fedloom.experiment.ledger.papers import read_papers

    folder, experiments = context.obj
    files = experiment_files(experiments)
    entry = entry_of(
        runs,
        files,
        experiments.parent,
        overrides=override or (),
        against=against or (),
        usual=read_papers(folder / PAPERS).compared,
        commit=commit,
    )
    out.print(Text(f"summary  {write_entry(entry, folder / RUNS)}"), soft_wrap=True)
    _write(folder, experiments)


def _write(folder: Path, experiments: Path) -> None:
    from fedloom.cli.counted import counted
    from fedloom.experiment.ledger.pages import pages, read_sources, write_pages

    for path in write_pages(folder, pages(read_sources(folder, experiments, counted))):
        out.print(Text(f"page     {path}"), soft_wrap=True)
