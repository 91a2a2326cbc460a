"""The ledger's Markdown pages: an index, and a page per paper with its figures beside ours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedloom.core.errors import ExperimentError
from fedloom.experiment.ledger import traces
from fedloom.experiment.ledger.entry import Entry, Figure, read_entries
from fedloom.experiment.ledger.experiments import ExperimentFile, experiment_files
from fedloom.experiment.ledger.papers import Paper, Papers, PaperTable, plain_name, read_papers
from fedloom.experiment.report.columns import Column, title_of
from fedloom.experiment.report.differences import FEWEST_SEEDS, SAMPLES_NOTE, SEEDS_NOTE, show_p, shown
from fedloom.experiment.report.table import markdown_table
from fedloom.experiment.report.units import show, show_interval

RUNS, PAPERS, INDEX, OTHERS = "runs", "papers.yaml", "README.md", "others"
EARLIER = "earlier.md"
"""The one page that is written by hand."""

WRITTEN = "<!-- Written by `fedloom ledger` from runs/*.json, papers.yaml and the experiment files. Do not edit. -->\n"
HOW_TO_READ = f"""\
**paper**: the figure printed in the paper. **ours**: mean ± sample standard deviation over the seeds, last round; in brackets
the 95 % bootstrap interval over the test samples, where a run keeps samples that give the figure; FID has none. An empty cell
has no run yet, or the paper has no such figure. **against**: the paired difference from one row. "ahead" and "behind" stand
only where its interval excludes zero, else "within"; p in brackets is that of the seeds.

* {SAMPLES_NOTE}.
* {SEEDS_NOTE}.
"""
OWN = Paper(
    title="Experiments that answer no table of a paper",
    intro="They are run and read like the others; there is nothing to stand beside them.",
    tables=(),
)


@dataclass(frozen=True)
class Sources:
    """All that the pages are made from."""

    papers: Papers
    entries: Mapping[str, Entry]
    files: Mapping[str, ExperimentFile]


def read_sources(folder: Path, experiments: Path) -> Sources:
    """The papers, the summaries and the experiment files. Raises ExperimentError."""
    files, entries = experiment_files(experiments), read_entries(folder / RUNS)
    for name in entries:
        if name not in files:
            raise ExperimentError(
                f"{folder / RUNS / name}.json is of an experiment that no file in {experiments} has as its name; remove it, "
                "or put the file back"
            )
    return Sources(read_papers(folder / PAPERS), entries, files)


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
    left = [path for path in found if path.name not in wanted and path.name != EARLIER]
    return [*faults, *(f"{path} is not written by `fedloom ledger` any more: remove it." for path in left)]


def _index(sources: Sources) -> str:
    of = {t.experiment: (name, t.place) for name, page in all_pages(sources).items() for t in page.tables}
    lines = []
    for file in sources.files.values():
        name, place = of[file.name]
        entry = sources.entries.get(file.name)
        made = _made(entry) if entry is not None else [""] * 6
        lines.append([f"`{file.path.as_posix()}`", f"[{place}]({name}.md)", str(_rows(file)), *made])
    header = ["file", "page", "rows", "size", "runs", "seeds", "minutes", "fedloom", "commit"]
    run = [file for file in sources.files.values() if file.name in sources.entries]
    links = "\n".join(f"* [{page.title}]({name}.md)" for name, page in all_pages(sources).items())
    return f"""\
{WRITTEN}
# Reproduction ledger

What was run, by which command, and what came out; losing results stay. Every table here is written by `fedloom ledger` from
the committed summaries in `runs/` and the papers' figures in [papers.yaml](papers.yaml); a test fails where a page is anything
else. The papers' own sizes need their models and data (size `paper`).

```bash
fedloom run experiments/uniflow/FILE.yaml --out runs/FILE
fedloom ledger add runs/FILE        # writes runs/<experiment>.json here, and the pages
fedloom ledger --check              # exit code 1 where a page is stale, or a file gives other settings than its runs had
```

{links}
* [Results typed by hand at 0.1]({EARLIER}), until a run replaces them

## Experiment files

{len(run)} of {len(sources.files)} experiment files have a committed run. Minutes are those of all runs, added up.

{markdown_table(header, lines)}
"""


def _rows(file: ExperimentFile) -> int:
    """The number of runs of one seed."""
    return max(1, len(file.rows)) * max(1, len(file.parts))


def _made(entry: Entry) -> list[str]:
    seeds = ", ".join(map(str, entry.seeds))
    return [entry.size, str(entry.runs), seeds, f"{entry.minutes:.1f}", entry.fedloom, _commit(entry)]


def _commit(entry: Entry) -> str:
    return "not recorded" if entry.commit is None else f"`{entry.commit}`"


def _paper_page(paper: Paper, sources: Sources) -> str:
    tables = [_table(table, sources) for table in paper.tables]
    return "\n".join([WRITTEN, f"# {paper.title}\n", f"{paper.intro.strip()}\n", HOW_TO_READ, *tables])


def _table(table: PaperTable, sources: Sources) -> str:
    entry = sources.entries.get(table.experiment or "")
    file = sources.files.get(table.experiment or "")
    blocks = [f"## {table.place}: {table.title}"]
    if table.differs:
        blocks.append(f"Our run: {table.differs.strip()}")
    elif file is not None and file.description:
        blocks.append(file.description)
    if file is not None and file.grid:
        blocks += [] if entry is None else _by_cell(entry)
    elif (grid := _grid(table, entry, file)) is not None:
        blocks.append(grid)
    if entry is not None and not (file and file.grid) and (gaps := _gaps(entry)) is not None:
        blocks.append(f"Against {entry.against}:\n\n{gaps}")
    blocks += [] if entry is None else traces.blocks(entry)
    blocks.append(_provenance(table, entry, file))
    blocks += [f"† {row}: {r.remark}" for row, r in entry.rows.items() if r.remark] if entry else []
    if table.remarks:
        blocks.append("\n".join(f"* {remark.strip()}" for remark in table.remarks))
    return "\n\n".join(blocks) + "\n"


def _grid(table: PaperTable, entry: Entry | None, file: ExperimentFile | None) -> str | None:
    """The paper's figures beside ours; None if there are neither."""
    if entry is None and not table.rows:
        return None
    shown = {} if entry is None else entry.shown
    by_plain = {plain_name(name): column for name, column in shown.items()}
    paired = {
        title: None if ours is None else by_plain.get(plain_name(ours))
        for title, ours in table.columns.items()
    }
    further = [column for column in shown.values() if column not in paired.values()]
    header = [""]
    for title, ours in table.columns.items():
        header += [f"{title}, paper", *([f"{title}, ours"] if ours is not None else [])]
    header += [f"{c.title} %" if c.unit == "percent" else c.title for c in further]
    listed = [*(file.rows if file else ()), *(entry.rows if entry else ()), *table.rows]
    lines = []
    for row in dict.fromkeys(listed):
        figures = {} if entry is None or row not in entry.rows else entry.rows[row].figures
        line = [f"{row} †" if entry is not None and row in entry.rows and entry.rows[row].remark else row]
        for title, ours in table.columns.items():
            line.append(table.value(row, title))
            if ours is not None:
                line.append(_cell(paired[title], figures))
        lines.append([*line, *(_cell(column, figures) for column in further)])
    return markdown_table(header, lines)


def _cell(column: Column | None, figures: Mapping[str, Figure]) -> str:
    """One of our figures with its interval; empty without a run."""
    figure = None if column is None else figures.get(column.name)
    if column is None or figure is None:
        return ""
    text = show(figure.spread, column.unit).removesuffix(" %")
    if figure.interval is not None:
        text += f" {show_interval(figure.interval.low, figure.interval.high, column.unit)}"
    return text


def _by_cell(entry: Entry) -> list[str]:
    """For a study over a grid: a table per figure, a line per cell, the rows in columns with their differences."""
    blocks = []
    for key in dict.fromkeys(column.key for column in entry.shown.values()):
        columns = [
            (name, c)
            for name, c in entry.shown.items()
            if c.key == key and any(name in row.figures for row in entry.rows.values())
        ]
        if not columns:
            continue
        unit = " %" if columns[0][1].unit == "percent" else ""
        others = [label for label in entry.rows if label != entry.against]
        header = ["cell", *entry.rows, *(f"{o} less {entry.against}" for o in others if entry.against)]
        lines = []
        for name, column in columns:
            figures = [_cell(column, row.figures) for row in entry.rows.values()]
            gaps = [_gap(entry.rows[o].figures.get(name), column) for o in others if entry.against]
            lines.append([column.across or "", *figures, *gaps])
        blocks.append(f"{title_of(key)}{unit}:\n\n{markdown_table(header, lines)}")
    return blocks


def _gaps(entry: Entry) -> str | None:
    """The paired differences from one row, with the verdicts; None if there are none."""
    columns = [
        column
        for name, column in entry.shown.items()
        if any(name in row.figures and row.figures[name].difference for row in entry.rows.values())
    ]
    if not columns:
        return None
    header = ["", *(f"{c.title} %" if c.unit == "percent" else c.title for c in columns)]
    lines = [
        [label, *(_gap(row.figures.get(column.name), column) for column in columns)]
        for label, row in entry.rows.items()
        if label != entry.against
    ]
    return markdown_table(header, lines)


def _gap(figure: Figure | None, column: Column) -> str:
    found = None if figure is None else figure.gap(column)
    if found is None:
        return ""
    seeds = f" (p {show_p(found.p_seeds)})" if found.p_seeds is not None else ""
    return f"{shown(found, column)}{seeds}"


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
    made = f"size {entry.size}, {seeds}{few}, {_count(entry.runs, 'run')} in {entry.minutes:.1f} min{threads}"
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
