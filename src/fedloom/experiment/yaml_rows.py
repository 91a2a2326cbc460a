"""Experiment files: YAML with overrides, and the rows, parts and seeds that one file describes.

Overrides use dots: `method.ridge=0.1`. Setting another method or another data source drops the fields that the new one does not
read.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from fedloom.core.errors import ExperimentError
from fedloom.data.sources import DEFAULT, carried_to, read_by

SOURCE, VERSIONS = "data.source", "versions"


def of_record(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The experiment in a run's own record: without its versions, and without fields of `data` that its source does not read.

    Records until 0.1 hold the fields of every source.
    """
    plain = {key: value for key, value in fields.items() if key != VERSIONS}
    data = plain.get("data")
    if isinstance(data, dict):
        plain["data"] = read_by(data.get("source", DEFAULT), data)
    model = plain.get("model")
    if isinstance(model, dict) and "frame" in model:  # until 0.1
        frame = {"conversation": "paper", "bare": "bare"}.get(model["frame"], "auto")
        plain["model"] = {key: value for key, value in model.items() if key != "frame"} | {"prompt": frame}
    return plain


def read_rows(
    path: str | Path, overrides: Sequence[str] = (), *, only: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """The plain fields of every run of a YAML file: its rows times `across` times its seeds, in the file's order.

    Order of application, later wins: the file, its `sizes` entry for the chosen size, `across`, the row, the overrides. A
    `sizes` entry may hold `rows`, `across` and `seeds` of its own, which replace the file's. `only` restricts the
    rows to these names. Raises ExperimentError.
    """
    fields = read_yaml(Path(path))
    options = dict(_override(text) for text in overrides)
    sizes = fields.pop("sizes", None) or {}
    if VERSIONS in fields:  # only a run's own experiment.yaml has them
        fields = of_record(fields)
    if not isinstance(sizes, dict) or not all(isinstance(s or {}, dict) for s in sizes.values()):
        raise ExperimentError(f"{path}: sizes must map tiny, small or paper to settings")
    size = options.get("size", fields.get("size", "tiny"))
    if not isinstance(size, str):
        raise ExperimentError(f"{path}: size must be tiny, small or paper, not {size!r}")
    sized = dict(sizes.get(size) or {})
    axes = {axis: fields.pop(axis, None) for axis in ("rows", "across", "seeds")}
    axes |= {axis: sized.pop(axis) for axis in axes if axis in sized}
    if isinstance(axes["across"], str):  # a run's own experiment.yaml holds its single column
        fields["across"], axes["across"] = axes["across"], None
    rows = _axis(axes["rows"], path, "rows", "a row's name", "'FedAvg: {method.name: fedavg-lora}'")
    across = _axis(axes["across"], path, "across", "a column's name", "'MNLI: {data.task: mnli}'")
    seeds = axes["seeds"]
    if "seeds" in options:
        seeds = options.pop("seeds")
    elif "seed" in options:
        seeds = None
    if seeds is not None and (
        not isinstance(seeds, list) or not all(type(s) is int for s in seeds) or not seeds
    ):
        raise ExperimentError(f"{path}: seeds must be a list of whole numbers, not {seeds!r}")
    if missing := [name for name in only if name not in rows]:
        raise ExperimentError(f"{path} has no row {missing[0]!r}; it has {', '.join(map(str, rows))}")
    runs = []
    for row, column, seed in product([r for r in rows if not only or r in only], across, seeds or [None]):
        merged = deepcopy(fields)
        for layer in (sized, across[column] or {}, rows[row] or {}, options):
            # source and method first: naming another one drops the fields of the former
            for key, value in sorted(layer.items(), key=_comes_first, reverse=True):
                _set(merged, key, value)
        names = {"row": row, "across": column, "seed": seed}
        merged |= {key: value for key, value in names.items() if value is not None}
        runs.append(merged)
    return runs


def _names_source(item: tuple[str, Any]) -> bool:
    """Whether an override names the source of data, dotted or nested."""
    key, value = item
    return key == SOURCE or (key == "data" and isinstance(value, dict) and "source" in value)


def _comes_first(item: tuple[str, Any]) -> bool:
    """Whether an override names the source of data or the method, on which the fields beside it depend."""
    return _names_source(item) or item[0] in ("method", "method.name")


def _axis(entries: Any, path: str | Path, axis: str, key: str, example: str) -> dict[Any, Any]:
    """The entries of `rows` or `across` as overrides by name; one entry without a name where there are none."""
    named = entries or {None: {}}
    if not isinstance(named, dict) or not all(isinstance(r or {}, dict) for r in named.values()):
        raise ExperimentError(f"{path}: {axis} must map {key} to its overrides, such as {example}")
    if len({str(name) for name in named}) < len(named) or (entries and None in named):
        raise ExperimentError(f"{path}: {axis} must give every entry a name of its own")
    for name, changes in named.items():
        if wrong := [key for key in changes or {} if not isinstance(key, str)]:
            raise ExperimentError(f"{path}: {axis}: {name} sets {wrong[0]!r}, which is no setting's name")
    return {name if name is None else str(name): changes for name, changes in named.items()}


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ExperimentError."""
    if not path.is_file():
        raise ExperimentError(
            f"there is no experiment file {path}; name a YAML file such as experiments/uniflow/quickstart.yaml"
        )
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(fields, dict):
        raise ExperimentError(f"{path} must hold a mapping such as 'rounds: 4', not {type(fields).__name__}")
    return fields


def _override(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise ExperimentError(f"the override {text!r} is not of the form key=value, such as method.ridge=0.1")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ExperimentError(
            f"the override {text!r} has no valid YAML value: {' '.join(str(error).split())}"
        ) from error


def _set(fields: dict[str, Any], key: str, value: Any) -> None:
    """Set `a.b.c` in nested mappings; a mapping value is merged into the existing one, except for a method."""
    *path, last = key.split(".")
    target: Any = fields
    for part in path:
        inner = target.setdefault(part, {})
        if isinstance(inner, str) and part == "method":
            inner = target[part] = {"name": inner}
        if not isinstance(inner, dict):
            raise ExperimentError(f"cannot set {key}: {part} is {inner!r}, not a group of settings")
        target = inner
    if path == ["method"] and last == "name" and target.get("name") != value:
        target.clear()  # another method has other fields
    if key == SOURCE and target.get("source", DEFAULT) != value:
        kept = carried_to(value, target)
        target.clear()
        target.update(kept)
    if key == "data" and isinstance(target.get("data"), dict) and _names_source((key, value)):
        _set(fields, SOURCE, value["source"])
    if isinstance(value, dict) and isinstance(target.get(last), dict) and last != "method":
        for inner_key, inner_value in value.items():
            _set(target[last], inner_key, inner_value)
    else:
        target[last] = deepcopy(value)
