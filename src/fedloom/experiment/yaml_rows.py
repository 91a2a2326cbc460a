"""Experiment files: YAML with overrides, and the rows, parts and seeds that one file describes.

Layers, later wins: the file, its `sizes` entry for the chosen size, `across` or the cell of `grid`, the row, the overrides such
as `method.ridge=0.1`. `layers` says how one is laid over the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

from fedloom.core.errors import ExperimentError
from fedloom.core.yaml_text import load_yaml
from fedloom.data.sources import read_by, source_named
from fedloom.experiment.grid import COORDINATES, Cell, cells_of
from fedloom.experiment.layers import layer, merged, places
from fedloom.federation.settings import engine_of_record

Size = Literal["tiny", "small", "paper"]
VERSIONS = "versions"
FILE = "file"
OF_THE_FILE = {
    "size": "name it at the top of the file, or as an override",
    "row": "a row has its name from the file",
    "across": "a column has its name from the file",
    COORDINATES: "a cell has its coordinates from grid",
}
"""Settings that a row, a column or an entry of `sizes` cannot change."""
Layers = Mapping[str, tuple[Mapping[str, Any] | None, str]]
"""Settings with their place for messages, by layer."""


@dataclass(frozen=True)
class RowFields:
    """The plain fields of one run, and those `written` in the file, without the overrides.

    `layers`: by setting of the file, the last layer that gave it; `overrides`: the same for the overrides.
    """

    fields: dict[str, Any]
    written: dict[str, Any]
    layers: Mapping[str, str]
    overrides: Mapping[str, str]


def of_record(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The experiment in a run's own record: without its versions, and without fields of `data` that its source does not read.

    Records until 0.1 hold the fields of every source.
    """
    plain = {key: value for key, value in fields.items() if key != VERSIONS}
    data = plain.get("data")
    if isinstance(data, dict):
        own = read_by(source_named(data), data)
        if (
            len(own) < len(data) and source_named(data) != "classes"
        ):  # that of pictures, whichever source was used
            own.pop("partition", None)
        plain["data"] = own
    if "engine" in plain:
        plain["engine"] = engine_of_record(plain["engine"])
    model = plain.get("model")
    if isinstance(model, dict) and "frame" in model:  # until 0.1
        frame = {"conversation": "paper", "bare": "bare"}.get(model["frame"], "auto")
        plain["model"] = {key: value for key, value in model.items() if key != "frame"} | {"prompt": frame}
    return plain


def read_rows(
    path: str | Path, overrides: Sequence[str], kind: type, *, only: Sequence[str] = ()
) -> list[RowFields]:
    """Every run of a YAML file of experiments of type `kind`: its rows by `across` or `grid` by its seeds, in the file's order.

    A `sizes` entry may hold `rows`, `across`, `grid` and `seeds` of its own, which replace the file's; the override `seed` stands
    for all seeds. `only` restricts the rows to these names. Raises ExperimentError.
    """
    origin = str(path)
    fields = read_yaml(Path(path))
    options = layer((_override(text) for text in overrides), "the overrides")
    sizes = fields.pop("sizes", None)
    record = VERSIONS in fields  # only a run's own experiment.yaml has them
    if record:
        fields = of_record(fields)
    sized = _sized(sizes, options.get("size", fields.get("size", "tiny")), origin)
    axes = {axis: fields.pop(axis, None) for axis in ("rows", "across", "grid", "seeds")}
    axes |= {axis: sized.pop(axis) for axis in axes if axis in sized}
    resolved = isinstance(axes["across"], str)
    if resolved:  # a run's own experiment.yaml holds its single column
        fields["across"], axes["across"] = axes["across"], None
    rows = _axis(axes["rows"], path, "rows", "a row's name", "'FedAvg: {method.name: fedavg-lora}'")
    cells = {} if axes["grid"] is None else cells_of(axes["grid"], origin)
    across = _axis(axes["across"], path, "across", "a column's name", "'MNLI: {data.task: mnli}'")
    if cells and None not in across:
        raise ExperimentError(f"{origin} has both across and grid; make across an axis of the grid")
    columns = _cell_layers(cells, origin) if cells else _column_layers(across, origin)
    overridden = "seeds" in options  # then the file's own seed is replaced, as any setting is
    seeds = _seeds(axes["seeds"], options, origin)
    if missing := [name for name in only if name not in rows]:
        known = "it has " + ", ".join(rows) if None not in rows else "it has no rows; leave --row out"
        raise ExperimentError(f"{origin} has no row {missing[0]!r}; {known}")
    for axis, entries in (("row", rows), ("across", columns)):
        if axis in options and None not in entries:  # a run that stands alone may be given a label
            raise ExperimentError(
                f"the override {axis}={options[axis]}: {OF_THE_FILE[axis]}; choose with --row"
            )
    if COORDINATES in options:
        raise ExperimentError(f"the overrides set {COORDINATES}: {OF_THE_FILE[COORDINATES]}; leave it out")
    chosen = [row for row in rows if not only or row in only]
    runs = []
    for row, column, seed in product(chosen, columns, seeds if seeds is not None else (None,)):
        layers = {
            FILE: (fields, origin),
            "sizes": (sized, f"{origin}: sizes"),
            **columns[column],
            f"rows {row}": (rows[row], f"{origin}: rows: {row}"),
        }
        whole: dict[str, Any] = {}
        given: dict[str, str] = {}
        for name, (settings, place) in layers.items():
            tree = layer((settings or {}).items(), place)
            seeded = seeds is not None and not (overridden and name == FILE)
            _check_layer(tree, place, seeded=seeded, is_file=name == FILE, may_place=record or resolved)
            whole = merged(kind, whole, tree, place)
            # Settings shared by rows and sizes are judged with all rows, in the size without an entry; a record's, when it began.
            skipped = record or (only and not name.startswith("rows")) or (sized and name == FILE)
            given |= {} if skipped else dict.fromkeys(places(tree), name)
        names = {"row": row, "across": column, "seed": seed}
        names = {key: value for key, value in names.items() if value is not None}
        names |= {COORDINATES: dict(cells[column].coordinates)} if column in cells else {}
        fields_of_run = merged(kind, whole, options, "the overrides") | names
        runs.append(
            RowFields(fields_of_run, whole | names, given, dict.fromkeys(places(options), "overrides"))
        )
    return runs


def _sized(sizes: Any, size: Any, origin: str) -> dict[str, Any]:
    """The entry of `sizes` for the chosen size."""
    known = get_args(Size)
    listed = f"{', '.join(known[:-1])} or {known[-1]}"
    if not isinstance(sizes or {}, dict) or not all(
        isinstance(s or {}, dict) for s in (sizes or {}).values()
    ):
        raise ExperimentError(f"{origin}: sizes must map {listed} to settings")
    for name in (*(sizes or {}), size):
        if name not in known:
            raise ExperimentError(f"{origin}: size must be {listed}, not {name!r}")
    return dict((sizes or {}).get(size) or {})


def _seeds(seeds: Any, options: dict[str, Any], origin: str) -> list[int] | None:
    """The seeds of the file or of the overrides; `seed` among these stands for all."""
    if "seeds" in options:
        if "seed" in options:
            raise ExperimentError("the overrides give both seed and seeds; give one of them")
        seeds = options.pop("seeds")
    elif "seed" in options:
        return None
    if seeds is not None and (
        not isinstance(seeds, list) or not all(type(s) is int for s in seeds) or not seeds
    ):
        raise ExperimentError(f"{origin}: seeds must be a list of whole numbers, not {seeds!r}")
    return seeds


def _column_layers(across: Mapping[Any, Any], origin: str) -> dict[Any, Layers]:
    return {c: {f"across {c}": (settings, f"{origin}: across: {c}")} for c, settings in across.items()}


def _cell_layers(cells: Mapping[str, Cell], origin: str) -> dict[Any, Layers]:
    return {
        name: {f"grid {entry}": (s, f"{origin}: grid: {entry}") for entry, s in cell.settings.items()}
        for name, cell in cells.items()
    }


def _check_layer(
    tree: Mapping[str, Any], place: str, *, seeded: bool, is_file: bool, may_place: bool
) -> None:
    """Raise ExperimentError for a setting that would have no effect in this layer."""
    if seeded and "seed" in tree:
        raise ExperimentError(
            f"{place} sets seed, and the runs have their seeds from seeds; leave one of them out"
        )
    if is_file and not may_place and tree.get(COORDINATES) is not None:
        raise ExperimentError(f"{place} sets {COORDINATES}: {OF_THE_FILE[COORDINATES]}; leave it out")
    for name, advice in {} if is_file else OF_THE_FILE.items():
        if name in tree:
            raise ExperimentError(f"{place} sets {name}, which it cannot change: {advice}")


def _axis(entries: Any, path: str | Path, axis: str, key: str, example: str) -> dict[Any, Any]:
    """The entries of `rows` or `across` as overrides by name; one entry without a name where there are none."""
    named = entries or {None: {}}
    if not isinstance(named, dict) or not all(isinstance(r or {}, dict) for r in named.values()):
        raise ExperimentError(f"{path}: {axis} must map {key} to its overrides, such as {example}")
    if len({str(name) for name in named}) < len(named) or (entries and None in named):
        raise ExperimentError(f"{path}: {axis} must give every entry a name of its own")
    return {name if name is None else str(name): changes for name, changes in named.items()}


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ExperimentError."""
    if not path.is_file():
        raise ExperimentError(
            f"there is no experiment file {path}; name a YAML file such as experiments/uniflow/quickstart.yaml"
        )
    try:
        fields = load_yaml(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ExperimentError(f"{path} is no valid YAML: it is not in UTF-8 (byte {error.start})") from error
    except ExperimentError as error:
        raise ExperimentError(f"{path} is no valid YAML: {error}") from error
    except OSError as error:
        raise ExperimentError(f"{path} cannot be read: {error.strerror}") from error
    if not isinstance(fields, dict):
        raise ExperimentError(f"{path} must hold a mapping such as 'rounds: 4', not {type(fields).__name__}")
    return fields


def _override(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise ExperimentError(f"the override {text!r} is not of the form key=value, such as method.ridge=0.1")
    try:
        return key, load_yaml(value)
    except ExperimentError as error:
        reason = str(error).removeprefix("line 1: ")
        raise ExperimentError(f"the override {text!r} has no valid YAML value: {reason}") from error
