"""The ledger's Markdown pages: an index, and a page per paper with its figures beside ours."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedloom.core.errors import ExperimentError
from fedloom.experiment.ledger import tables, traces
from fedloom.experiment.ledger.entry import Entry, read_entries
from fedloom.experiment.ledger.experiments import ExperimentFile, experiment_files
from fedloom.experiment.ledger.papers import Paper, Papers, PaperTable, read_papers
from fedloom.experiment.report.differences import FEWEST_SEEDS, SAMPLES_NOTE, SEEDS_NOTE
from fedloom.experiment.report.table import markdown_table

RUNS, PAPERS, INDEX, OTHERS = "runs", "papers.yaml", "README.md", "others"

WRITTEN = "<!-- Written by `fedloom ledger` from runs/*.json, papers.yaml and the experiment files. Do not edit. -->\n"
HOW_TO_READ = f"""\
**paper**: the figure printed in the paper. **ours**: mean ± sample standard deviation over the seeds, last round; in brackets
the 95 % bootstrap interval over the test samples, where a run keeps samples that give the figure; FID has none. "(of n)": n
seeds have the figure, the others have none. An empty cell has no run yet, or the paper has no such figure. **against**: the
paired difference from one row. "ahead" and "behind" stand only where its interval excludes zero, else "within"; without an
interval there is no verdict. "seeds disagree": the difference has the other sign in at least one seed. p in brackets is that of
the seeds. What a column measures: [figures](../metrics.md).

* {SAMPLES_NOTE}.
* {SEEDS_NOTE}.
"""
OWN = Paper(
    title="Experiments that answer no table of a paper",
    intro="They are run and read like the others; there is nothing to stand beside them.",
    tables=(),
)


Counted = Callable[[str], Mapping[str, Mapping[str, float]]]
"""The counts that a command of a table makes, by row and column."""


@dataclass(frozen=True)
class Sources:
    """All that the pages are made from."""

    papers: Papers
    entries: Mapping[str, Entry]
    files: Mapping[str, ExperimentFile]
    counted: Counted


def read_sources(folder: Path, experiments: Path, counted: Counted) -> Sources:
    """The papers, the summaries and the experiment files; `counted` makes a command's counts. Raises ExperimentError."""
    files, entries = experiment_files(experiments), read_entries(folder / RUNS)
    for name in entries:
        if name not in files:
            raise ExperimentError(
                f"{folder / RUNS / name}.json is of an experiment that no file in {experiments} has as its name; remove it, "
                "or put the file back"
            )
    return Sources(read_papers(folder / PAPERS), entries, files, counted)


def pages(sources: Sources) -> dict[str, str]:
    """Every page and every plot by its file name."""
    named = {f"{name}.md": paper for name, paper in all_pages(sources).items()}
    texts = {name: _paper_page(paper, sources) for name, paper in named.items()}
    return {INDEX: _index(sources), **texts, **traces.plots(sources.entries)}


def all_pages(sources: Sources) -> dict[str, Paper]:
    """The papers, and the page of the experiments that stand in none."""
    placed = {table.experiment for table in sources.papers.tables()}
    left = [
        PaperTable(place=file.name, title=f"`{file.path.as_posix()}`", experiment=file.name)
        for file in sources.files.values()
        if file.name not in placed
    ]
    own = {OTHERS: OWN.model_copy(update={"tables": tuple(left)})} if left else {}
    return {**sources.papers.pages, **own}


def stale(folder: Path, wanted: Mapping[str, str]) -> list[str]:
    """One sentence for every page and plot that is not what the command writes, or that it does not write."""
    faults = []
    for name, text in wanted.items():
        path = folder / name
        if not path.is_file():
            faults.append(f"{path} is missing: write it with `fedloom ledger`.")
        elif path.read_text(encoding="utf-8") != text:
            faults.append(
                f"{path} is not what `fedloom ledger` writes from the committed summaries: write it anew."
            )
    found = sorted(path for kind in ("*.md", "*.svg") for path in folder.glob(kind))
    left = [path for path in found if path.name not in wanted]
    return [*faults, *(f"{path} is not written by `fedloom ledger` any more: remove it." for path in left)]


def _index(sources: Sources) -> str:
    of: dict[str | None, list[str]] = {}
    for name, page in all_pages(sources).items():
        for table in page.tables:
            of.setdefault(table.experiment, []).append(f"[{table.place}]({name}.md)")
    lines = []
    for file in sources.files.values():
        entry = sources.entries.get(file.name)
        made = _made(entry, file) if entry is not None else [""] * 6
        lines.append([f"`{file.path.as_posix()}`", ", ".join(of[file.name]), _rows(file), *made])
    header = ["file", "page", "rows", "size", "runs", "seeds", "minutes", "fedloom", "commit"]
    run = [file for file in sources.files.values() if file.name in sources.entries]
    links = "\n".join(f"* [{page.title}]({name}.md)" for name, page in all_pages(sources).items())
    return f"""\
{WRITTEN}
# Reproduction ledger

What was run, by which command, and what came out; losing results stay. Every table here is written by `fedloom ledger` from
the committed summaries in `runs/` and the papers' figures in [papers.yaml](papers.yaml); a test fails where a page is anything
else. The papers' own sizes need their models and data (size `paper`). FedMMKT's files need the extra `fedloom[generate]`, private
rows `fedloom[privacy]`; a run without them says so before it begins.

```bash
fedloom run experiments/uniflow/FILE.yaml --out runs/FILE
fedloom ledger add runs/FILE        # writes runs/<experiment>.json here, and the pages
fedloom ledger --check              # exit code 1 where a page is stale, or a file gives other settings than its runs had
```

A command gives its figures again to the last digit with the same versions on the same kind of processor; below a table stand
its vector instructions, where the runs recorded them. On another kind sums are rounded otherwise, and training amplifies it, most
where models teach each other (FedMMKT). An interval over samples does not cover that.

{links}

## Experiment files

{len(run)} of {len(sources.files)} experiment files have a committed run. Rows × parts: tasks, data sets, or cells
of a grid. A file without sizes is run as it is written. Minutes are those of all runs, added up.

{markdown_table(header, lines)}
"""


def _rows(file: ExperimentFile) -> str:
    """The number of rows, and of parts where there are several."""
    rows, parts = max(1, len(file.rows)), len(file.parts)
    return f"{rows} × {parts}" if parts > 1 else str(rows)


def _made(entry: Entry, file: ExperimentFile) -> list[str]:
    seeds = ", ".join(map(str, entry.seeds))
    return [
        entry.size if file.sized else "its own",
        str(entry.runs),
        seeds,
        f"{entry.minutes:.1f}",
        entry.fedloom,
        _commit(entry),
    ]


def _commit(entry: Entry) -> str:
    return "not recorded" if entry.commit is None else f"`{entry.commit}`"


def _paper_page(paper: Paper, sources: Sources) -> str:
    texts = [_table(table, sources) for table in paper.tables]
    return "\n".join([WRITTEN, f"# {paper.title}\n", f"{paper.intro.strip()}\n", HOW_TO_READ, *texts])


def _table(table: PaperTable, sources: Sources) -> str:
    entry = sources.entries.get(table.experiment or "")
    file = sources.files.get(table.experiment or "")
    blocks = [f"## {table.place}: {table.title}"]
    if table.differs:
        blocks.append(f"Our run: {table.differs.strip()}")
    elif file is not None and file.description:
        blocks.append(file.description)
    if table.command is not None:
        blocks.append(tables.counts(table, sources.counted(table.command)))
    elif file is not None and file.grid:
        blocks += [] if entry is None else tables.by_cell(table, entry)
    else:
        blocks += tables.figures(table, entry, file)
        blocks += [] if entry is None else tables.comparisons(table, entry)
    blocks += [] if entry is None else traces.blocks(entry)
    blocks.append(_provenance(table, entry, file))
    blocks += [f"† {row}: {r.remark}" for row, r in entry.rows.items() if r.remark] if entry else []
    if table.remarks:
        blocks.append("\n".join(f"* {remark.strip()}" for remark in table.remarks))
    return "\n\n".join(blocks) + "\n"


def _provenance(table: PaperTable, entry: Entry | None, file: ExperimentFile | None) -> str:
    """The command, and what it was run with."""
    if file is None:
        return (
            f"`{table.command}`: counted, not trained."
            if table.command
            else "There is no experiment file for it."
        )
    if entry is None:
        return f"Not run yet: `{file.command}`."
    seeds = _count(len(entry.seeds), "seed") + f" ({', '.join(map(str, entry.seeds))})"
    few = "" if len(entry.seeds) >= FEWEST_SEEDS else ", too few for a test over seeds"
    threads = f", threads: {' or '.join(map(str, entry.threads))}" if entry.threads else ""
    on = f", {' or '.join(entry.devices)}" if entry.devices else ""
    size = f"size {entry.size}, " if file.sized else ""
    made = f"{size}{seeds}{few}, {_count(entry.runs, 'run')} in {entry.minutes:.1f} min{threads}{on}"
    return f"`{entry.command}`: {made}; fedloom {entry.fedloom}, commit {_commit(entry)}."


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def write_pages(folder: Path, texts: Mapping[str, str]) -> Sequence[Path]:
    """Write the pages that changed; returns their paths."""
    written = []
    for name, text in texts.items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            written.append(path)
    return written
