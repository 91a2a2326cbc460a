"""The papers' figures, `papers.yaml`: a page per paper, its tables and figures with their place, rows, columns and values."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedloom.core.errors import ExperimentError
from fedloom.core.validation import validated
from fedloom.experiment.ledger.entry import Digest
from fedloom.experiment.yaml_rows import read_yaml

Text = Annotated[str, Field(min_length=1)]
Value = float | tuple[float, float] | str | None
"""A figure, a mean with its deviation, what is no number, or an empty cell."""


class Part(BaseModel):
    """A part of the file: no other keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Comparison(Part):
    """What is compared with a row: other rows and columns of ours, all if none are named."""

    rows: tuple[Text, ...] = ()
    columns: tuple[Text, ...] = ()


class PaperTable(Part):
    """A table or figure of a paper and the experiment that answers it.

    `columns`: the paper's column title to the name of ours, or null where we measure none; `rows`: our row name to the paper's
    values in the order of `columns`. A table without an experiment names the `command` that counts it; its columns are those of
    the count, or several of them: "llm + projector", "up / down". `differs`: what our run does otherwise; `against`: by row, what
    is compared with it, a table each; `commonest`: for a study over a grid, by column and by a part of the cell's name, how often
    always saying the commonest answer is right; `remarks`: what its figures say; `remarks_on`: the digest of the figures that
    they were written for.
    """

    place: Text
    title: Text
    experiment: Text | None = None
    command: Text | None = None
    columns: dict[Text, Text | None] = Field(default_factory=dict)
    rows: dict[Text, tuple[Value, ...]] = Field(default_factory=dict)
    decimals: int = Field(2, ge=0, le=6)
    differs: Text | None = None
    against: dict[Text, Comparison] = Field(default_factory=dict)
    commonest: dict[Text, dict[Text, float]] = Field(default_factory=dict)
    remarks: tuple[Text, ...] = ()
    remarks_on: Digest | None = None

    @model_validator(mode="after")
    def _fits(self) -> "PaperTable":
        if (self.experiment is None) == (self.command is None):
            raise ValueError("a table names its experiment, or the command that counts it")
        for row, values in self.rows.items():
            if len(values) != len(self.columns):
                raise ValueError(f"row {row!r} has {len(values)} values for {len(self.columns)} columns")
        return self

    def value(self, row: str, column: str) -> str:
        """The paper's figure as text; empty if it has none."""
        found = dict(zip(self.columns, self.rows.get(row, ()), strict=False)).get(column)
        if found is None:
            return ""
        if isinstance(found, str):
            return found
        parts = (found,) if isinstance(found, float) else found
        return " ± ".join(f"{part:,.{self.decimals}f}" for part in parts)


class Paper(Part):
    """A page: the paper, what must be known of all its tables, and the tables."""

    title: Text
    intro: Text
    tables: tuple[PaperTable, ...]


class Papers(Part):
    """All pages by the name of their file."""

    pages: dict[Annotated[str, Field(pattern=r"^[a-z0-9-]+$")], Paper]

    def tables(self) -> Iterator[PaperTable]:
        """Every table of every page."""
        for page in self.pages.values():
            yield from page.tables

    def compared(self, experiment: str) -> list[str]:
        """The rows with which an experiment's others are compared, in any table."""
        tables = [table for table in self.tables() if table.experiment == experiment]
        return list(dict.fromkeys(row for table in tables for row in table.against))


def read_papers(path: Path) -> Papers:
    """The papers' figures. Raises ExperimentError, one sentence."""
    if not path.is_file():
        raise ExperimentError(
            f"{path} is missing: it holds the papers' figures; call the command in the repository's root"
        )
    return validated(Papers, {"pages": read_yaml(path)}, str(path))


def plain_name(name: str) -> str:
    """A column's name without what its run added: the embedder in brackets, and METEOR's variant."""
    return re.sub(r"\[[^]]*\]", "", name).removesuffix("_exact")
