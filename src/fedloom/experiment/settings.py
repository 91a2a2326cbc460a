"""The typed experiment: one YAML file says everything about one run, or about the rows of one table.

    name: quickstart
    rounds: 4
    method: {name: feda2-lora, ridge: 0.01}
    rows:                       # optional: one run per row, each a set of overrides
      FedAvg-LoRA: {method.name: fedavg-lora}
    across:                     # optional: every row once for each of these, such as the tasks of a table
      MNLI: {data.task: mnli}

Overrides use dots: `method.ridge=0.1`. Every mistake is an ExperimentError of one sentence.
"""

import difflib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError

from fedloom.core.errors import ExperimentError
from fedloom.federation.settings import RunSettings
from fedloom.methods import METHODS, Method
from fedloom.methods.base.clip import CLIPMethod
from fedloom.models.lora.lora import LoRA
from fedloom.models.settings import Foundation
from fedloom.privacy.compatibility import refusal
from fedloom.privacy.robust.attacks import Backdoor
from fedloom.tasks.data_settings import Data

Size = Literal["tiny", "small", "paper"]
M = TypeVar("M", bound=BaseModel)


class Experiment(RunSettings):
    """The typed description of one run: what the round loop reads, and model, data and table."""

    name: str = Field("experiment", min_length=1, description="what the run is called in tables")
    description: str | None = Field(None, description="a sentence or two for the report")
    row: str | None = Field(None, description="the row of the table that this run fills")
    across: str | None = Field(None, description="the column of the table that it fills, such as a task")
    columns: tuple[str, ...] = Field(
        (),
        description="what `compare` and the report's table show, such as global/image/token_accuracy; "
        "none = the headline figures",
    )
    size: Size = Field(
        "tiny", description="tiny: seconds to minutes on two cores; small: one GPU; paper: the paper's models"
    )
    data: Data = Data()
    model: Foundation = Foundation()

    def adapters(self) -> dict[str, LoRA]:
        """The shapes of what LoRA adapts, by part: `body` of a classifier, `llm` and `encoder` of a multimodal LLM."""
        if self.data.pictured:  # what is trained on CLIP, the method says
            return {}
        if self.data.own_models:  # clients train their whole models
            return {}
        if self.data.labels():
            return {"body": self.model.body_lora}
        parts = {"llm": self.model.llm_lora, "encoder": self.model.encoder_lora}
        return {part: spec for part, spec in parts.items() if spec is not None}

    def as_dict(self) -> dict[str, Any]:
        """Plain YAML values from which `parse` makes an equal experiment."""
        plain = self.model_dump(mode="json", exclude={"method"})
        return plain | {"method": {"name": self.method.name, **self.method.model_dump(mode="json")}}

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> "Experiment":
        """The one experiment of a YAML file. Raises ExperimentError, also where the file describes several rows."""
        rows = load_rows(path, overrides)
        if len(rows) != 1:
            raise ExperimentError(f"{path} describes {len(rows)} rows; load_rows reads all of them")
        return rows[0]

    @classmethod
    def parse(cls, fields: Mapping[str, Any], origin: str = "the experiment") -> "Experiment":
        """The experiment of a plain mapping. `origin` is named in errors. Raises ExperimentError."""
        given = dict(fields)
        if "method" in given and not isinstance(given["method"], Method):
            given["method"] = _method(given["method"], origin)
        made = _validated(cls, given, origin)
        if fault := made._contradiction():
            raise ExperimentError(f"{origin}: {fault}")
        return made

    def _contradiction(self) -> str | None:
        """What cannot go together in this experiment, in one sentence, or None."""
        warm, scope = self.method.warm_start, self.method.scope
        if self.data.pictured and self.method.attachment is None:
            known = ", ".join(name for name, m in METHODS.items() if issubclass(m, CLIPMethod))
            return f"method {self.method.name} trains nothing on CLIP, which data.source classes needs; take {known}"
        if not self.data.pictured and self.method.attachment is not None:
            return f"method {self.method.name} trains a part of CLIP; set data.source: classes, or take another method"
        if self.data.own_models and not self.method.own_models:
            known = ", ".join(name for name, m in METHODS.items() if m.own_models)
            return (
                f"method {self.method.name} is not for clients with models of their own, which data.source labelled means; "
                f"take {known}"
            )
        if self.method.exchanges and not self.data.own_models:
            return f"method {self.method.name} is for clients with models of their own; set data.source: labelled"
        if fault := self.method.check_training(self.training):
            return fault
        if self.privacy.robust is not None and not self.method.linear:
            return (
                f"method {self.method.name} treats clients by name or by what they send, not by a weighted mean; "
                "leave privacy.robust out, or take a method such as fedavg-lora"
            )
        if isinstance(self.attack, Backdoor) and (self.data.pictured or self.data.labels()):
            return f"attack backdoor needs a model that answers in words; data.source {self.data.source} gives labels"
        if warm is not None:
            if warm.method not in METHODS:
                return f"unknown method.warm_start.method {warm.method!r}; known are {', '.join(sorted(METHODS))}"
            first = self.warm_start_method(warm.method)
            same = (first.scope, first.second, first.attachment)
            if same != (scope, self.method.second, self.method.attachment):
                return (
                    f"method.warm_start: {warm.method} and {self.method.name} do not share the same tensors; "
                    "take a method with the same scope, such as fedavg-lora before feda2-lora"
                )
        specs = self.adapters()
        kinds = {s.kind for s in specs.values()}
        for part, ranks in self.cohort.ranks.items():
            if part not in specs or specs[part].kind == "vera":
                return f"cohort.ranks: {part} has no LoRA rank; give ranks for {' or '.join(specs)}, with kind: lora"
            if max(ranks, default=0) > specs[part].rank:
                return (
                    f"cohort.ranks: rank {max(ranks)} of {part} is above the model's {specs[part].rank}; "
                    f"raise model.{part}_lora.rank to the largest client's"
                )
        unequal = any(len({*ranks, specs[part].rank}) > 1 for part, ranks in self.cohort.ranks.items())
        methods = [self.method] if warm is None else [self.warm_start_method(warm.method), self.method]
        for method in methods:
            fault = refusal(self.privacy, method, kinds, unequal, self.cohort.full_first_round)
            if fault is not None:
                return fault
        return self.method.check(kinds, unequal, self.cohort.start)


def _method(value: Any, origin: str) -> Method:
    """`feda2-lora` or `{name: feda2-lora, ridge: 0.1}` to the method's own class."""
    if not isinstance(value, str | dict):
        raise ExperimentError(f"{origin}: method must be a name, or a mapping with a name, not {value!r}")
    given = {"name": value} if isinstance(value, str) else dict(value)
    name = given.pop("name", None)
    if name not in METHODS:
        raise ExperimentError(f"{origin}: unknown method {name!r}; known are {', '.join(sorted(METHODS))}")
    return _validated(METHODS[name], given, origin, "method.")


def load_rows(
    path: str | Path, overrides: Sequence[str] = (), *, only: Sequence[str] = ()
) -> list[Experiment]:
    """Every run that a YAML file describes: its rows times `across` times its seeds, in the file's order.

    Order of application, later wins: the file, its `sizes` entry for the chosen size, `across`, the row, the overrides. A
    `sizes` entry may hold `rows`, `across` and `seeds` of its own, which replace the file's. `only` keeps the rows of these
    names. Raises ExperimentError.
    """
    fields = read_yaml(Path(path))
    given = dict(_override(text) for text in overrides)
    sizes = fields.pop("sizes", None) or {}
    fields.pop("versions", None)  # a run's own experiment.yaml says what it ran on
    if not isinstance(sizes, dict) or not all(isinstance(s or {}, dict) for s in sizes.values()):
        raise ExperimentError(f"{path}: sizes must map tiny, small or paper to settings")
    size = given.get("size", fields.get("size", "tiny"))
    sized = dict(sizes.get(size) or {})
    found = {axis: fields.pop(axis, None) for axis in ("rows", "across", "seeds")}
    found |= {axis: sized.pop(axis) for axis in found if axis in sized}
    if isinstance(found["across"], str):  # a run's own experiment.yaml names the one that it is of
        fields["across"], found["across"] = found["across"], None
    rows = _axis(found["rows"], path, "rows", "a row's name", "'FedAvg: {method.name: fedavg-lora}'")
    across = _axis(found["across"], path, "across", "a column's name", "'MNLI: {data.task: mnli}'")
    seeds = found["seeds"]
    if "seeds" in given:
        seeds = given.pop("seeds")
    elif "seed" in given:
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
        for layer in (sized, across[column] or {}, rows[row] or {}, given):
            for key, value in layer.items():
                _set(merged, key, value)
        names = {"row": row, "across": column, "seed": seed}
        merged |= {key: value for key, value in names.items() if value is not None}
        runs.append(Experiment.parse(merged, str(path)))
    return runs


def _axis(found: Any, path: str | Path, axis: str, key: str, example: str) -> dict[Any, Any]:
    """The entries of `rows` or `across`, each a name and its overrides; one nameless entry where there are none."""
    named = found or {None: {}}
    if not isinstance(named, dict) or not all(isinstance(r or {}, dict) for r in named.values()):
        raise ExperimentError(f"{path}: {axis} must map {key} to its overrides, such as {example}")
    if len({str(name) for name in named}) < len(named) or (found and None in named):
        raise ExperimentError(f"{path}: {axis} must give every entry a name of its own")
    return {name if name is None else str(name): changes for name, changes in named.items()}


def _validated(model: type[M], fields: Mapping[str, Any], origin: str, prefix: str = "") -> M:
    """An instance of `model`, or an ExperimentError with one sentence about the first mistake in `fields`."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
    place = prefix + ".".join(str(part) for part in first["loc"]) or "the top level"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        known = _known_keys(model, first["loc"][:-1])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        hint = (
            f"did you mean {near[0]}?"
            if near
            else f"known here: {', '.join(known)}"
            if known
            else "remove it"
        )
        raise ExperimentError(f"{origin}: unknown key {place}; {hint}")
    if first["type"] == "union_tag_not_found":
        tag = str(first["ctx"]["discriminator"]).strip("'")
        page = "docs/your-data.md" if place.startswith("data.") else "docs/security.md"
        raise ExperimentError(f"{origin}: {place} must say its {tag}; {page} names them")
    if first["type"] == "missing":
        raise ExperimentError(f"{origin}: {place} is missing")
    given = f", not {first['input']!r}" if isinstance(first["input"], (int, float, str, bool)) else ""
    raise ExperimentError(f"{origin}: {place}: {message[0].lower()}{message[1:]}{given}")


def _known_keys(model: Any, location: Sequence[Any]) -> list[str]:
    """The keys that a model knows at a location; empty where no model of ours stands there."""
    for part in location:
        field = getattr(model, "model_fields", {}).get(part)
        model = field.annotation if field is not None else None
        model = next((m for m in get_args(model) if hasattr(m, "model_fields")), model)  # one or none
    return sorted(getattr(model, "model_fields", {}))


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
    """Set `a.b.c` in nested mappings; a plain mapping value is merged into what stands there, except for a method."""
    *path, last = key.split(".")
    place: Any = fields
    for part in path:
        inner = place.setdefault(part, {})
        if isinstance(inner, str) and part == "method":
            inner = place[part] = {"name": inner}
        if not isinstance(inner, dict):
            raise ExperimentError(f"cannot set {key}: {part} is {inner!r}, not a group of settings")
        place = inner
    if path == ["method"] and last == "name" and place.get("name") != value:
        place.clear()  # another method has other fields
    if isinstance(value, dict) and isinstance(place.get(last), dict) and last != "method":
        for inner_key, inner_value in value.items():
            _set(place[last], inner_key, inner_value)
    else:
        place[last] = deepcopy(value)
