"""The samples of a federation as a partition sees them: declared parts, shared files, holdings and columns, but no content."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fedloom.core.errors import ExperimentError
from fedloom.data.partition.shared_media import together
from fedloom.data.sample import modalities_of

Value = str | int | float
"""The content of a column."""


@dataclass(frozen=True)
class Rows:
    """All samples by their places 0, 1, ...

    `declared`: "train", "test" or None. `group_of`: equal for samples that share a picture or sound. `holding`: image, audio,
    both, text, or the names of other modalities. `columns`: the values of the columns that a setting names. `label`: the column
    of labels, where there is one. `natural`: the client or folder that each sample comes from, where it says so. `stream`: the
    name of the draws.
    """

    declared: Sequence[str | None]
    group_of: Sequence[int]
    holding: Sequence[str]
    columns: Mapping[str, Sequence[Value]] = field(default_factory=dict)
    label: str | None = None
    natural: Sequence[str] | None = None
    stream: str = "table"

    def __len__(self) -> int:
        return len(self.declared)

    def units(self, part: str, among: Sequence[int] | None = None) -> list[list[int]]:
        """Samples that stay together: groups of shared files. `part` "test": groups that are declared test as a whole."""
        groups = together(range(len(self)) if among is None else among, self.group_of)
        return [g for g in groups if all(self.declared[i] == "test" for i in g) == (part == "test")]

    def values(self, over: str | None, kind: str) -> Sequence[Value]:
        """The values of a column, or of the label. Raises ExperimentError where there is none, or nearly all values differ."""
        name = self.label if over is None else over
        if name is None:
            raise ExperimentError(
                f"data.partition: kind {kind} splits by a label, and these samples have none; name a column, as in over: topic."
            )
        if name not in self.columns:
            raise ExperimentError(
                f"data.partition.over: there is no column {name!r}; known are {', '.join(sorted(self.columns)) or 'none'}."
            )
        values = self.columns[name]
        distinct = len(set(values))
        if distinct > max(20, len(values) / 2):
            raise ExperimentError(
                f"data.partition.over: the column {name!r} has {distinct} different values in {len(values)} samples, too many to "
                "deal by; name a column of fewer."
            )
        return values


@dataclass(frozen=True)
class Dealt:
    """The places of each client's samples, by its name. `parts`: train or test, of samples that a partition puts into one."""

    places: Mapping[str, list[int]]
    parts: Mapping[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def holding_of(keys: Sequence[str]) -> str:
    """The holding of a sample with these inputs: image, audio, both or text; other modalities by their names."""
    listed = list(modalities_of(keys))
    return "both" if listed == ["image", "audio"] else " and ".join(listed) or "text"


def numbered(stem: str, count: int) -> list[str]:
    """Names of clients: client-01, client-02 and so on."""
    width = max(2, len(str(count)))
    return [f"{stem}-{k:0{width}d}" for k in range(1, count + 1)]


def spelled(values: Sequence[Value]) -> dict[Value, str]:
    """A stem of clients' names for each value: the value itself where it may be a folder's name, else a number."""
    distinct = sorted(set(values), key=lambda v: (isinstance(v, str), v))
    stems = {
        v: "".join(c if c.isalnum() or c in "-_. " else "_" for c in str(v))[:60].strip(". ")
        for v in distinct
    }
    clear = len(set(stems.values())) == len(stems) and all(stems.values())
    return stems if clear else {v: f"domain-{k}" for k, v in enumerate(distinct, 1)}
