"""What papers.yaml says of the figures, held against the summaries.

Remarks name the figures that they were written for, so that new figures ask for a new reading; rows that others are compared
with are those of the summary's intervals.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from fedloom.experiment.ledger.entry import Entry
from fedloom.experiment.ledger.papers import Papers


def figures_digest(entry: Entry) -> str:
    """Twelve hex digits of a summary's figures: by row and column, their values by seed, intervals and differences."""
    rows = {
        label: {name: figure.model_dump(mode="json") for name, figure in row.figures.items()}
        for label, row in entry.rows.items()
    }
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:12]


def uncompared(path: Path, papers: Papers, entries: Mapping[str, Entry]) -> Iterator[str]:
    """One sentence for every summary without intervals against a row that papers.yaml, `path`, compares it with."""
    for entry in entries.values():
        if missing := [row for row in papers.compared(entry.experiment) if row not in entry.against]:
            yield (
                f"{path} compares {entry.experiment} with {', '.join(missing)}, and its summary was made against "
                f"{', '.join(entry.against) or 'no row'}: add the runs again by `fedloom ledger add`."
            )


def unread(path: Path, papers: Papers, entries: Mapping[str, Entry]) -> Iterator[str]:
    """One sentence for every table of papers.yaml, `path`, whose remarks were written for other figures than its summary's."""
    for table in papers.tables():
        entry = entries.get(table.experiment or "")
        if entry is None or not table.remarks:
            continue
        now = figures_digest(entry)
        if table.remarks_on != now:
            yield (
                f"{path}: the remarks on {table.place} ({table.experiment}) were written for other figures: read them beside "
                f"the page, then set remarks_on: '{now}'."
            )
