"""The typed experiment: one YAML file describes one run, or the rows of one table.

    name: quickstart
    rounds: 4
    method: {name: feda2-lora, ridge: 0.01}
    rows:                       # optional: one run per row, each a set of overrides
      FedAvg-LoRA: {method.name: fedavg-lora}
    across:                     # optional: every row once per column, such as the tasks of a table
      MNLI: {data.task: mnli}

Overrides use dots: `method.ridge=0.1`. Every mistake is an ExperimentError of one sentence. A setting that nothing reads is a
mistake: fields declare the setting that they depend on (`ReadWith`), tasks and methods what they read and ignore. A value equal
to the default is none, and in a table one run that reads a shared setting is enough.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import Field, SerializeAsAny

from fedloom.core.errors import ExperimentError
from fedloom.core.settings_tree import unread
from fedloom.core.validation import validated
from fedloom.data.sources import SOURCES, Source, parse_source
from fedloom.data.sources.tabletop import TabletopSource
from fedloom.experiment.layers import layer, merged, places
from fedloom.experiment.registry import load_entry_points
from fedloom.experiment.shipped import experiment_files
from fedloom.experiment.tracking import Track
from fedloom.experiment.yaml_rows import Size, of_record, read_rows
from fedloom.federation.settings import RunSettings
from fedloom.methods import METHODS, Method
from fedloom.models.lora.layers import LoRA
from fedloom.models.settings import Foundation
from fedloom.privacy.compatibility import refusal
from fedloom.privacy.noise_refusals import dp_refusal
from fedloom.privacy.robust.attacks import Backdoor
from fedloom.privacy.robust.stage import RULES
from fedloom.tasks.base import READ_AHEAD, Setup, Task
from fedloom.tasks.registry import TASKS, task_of

DECLARED = ("model", "training", "cohort", "engine", "evaluation")
"""Groups whose settings are read where a task or a method says so; others are read by every run."""
NAMED: tuple[tuple[str, str, str, Mapping[str, Any]], ...] = (
    ("method", "method", "name", METHODS),
    ("source", "data", "source", SOURCES),
    ("robust rule", "privacy.robust", "kind", RULES),
)
"""Kinds of extensions that a record names, with their place there."""


class Experiment(RunSettings):
    """The typed description of one run: the round loop's settings, data, model, and place in a table."""

    name: str = Field("experiment", min_length=1, description="name of the run in tables")
    description: str | None = Field(None, description="a sentence or two for the report")
    row: str | None = Field(None, description="row of the run in a table")
    across: str | None = Field(None, description="column of the run in a table, such as a task")
    coordinates: dict[str, str] | None = Field(
        None, description="place of the run in its file's grid: the label on every axis"
    )
    columns: tuple[str, ...] = Field(
        (),
        description="columns of `compare` and of the report's table, such as global/image/token_accuracy; "
        "none = the headline figures",
    )
    size: Size = Field(
        "tiny", description="tiny: seconds to minutes on two cores; small: one GPU; paper: the paper's models"
    )
    data: SerializeAsAny[Source] = TabletopSource()
    model: Foundation = Foundation()
    track: Track = Field(
        Track(),
        description="trackers of the run, such as [tensorboard, mlflow], or a mapping with their settings",
    )

    def __init__(self, **settings: Any) -> None:
        """The settings of an experiment file as keywords: plain values, mappings, or objects such as `fedloom.clients(...)`.

        A dot leads into a group, as in `**{"training.lr": 0.1}`. Raises ExperimentError.
        """
        origin = "the experiment"
        tree = layer(settings.items(), origin)
        parsed = type(self).parse(merged(type(self), {}, tree, origin), origin)
        super().__init__(**{name: getattr(parsed, name) for name in parsed.model_fields_set})

    # Pydantic calls `__init__` of a class while it validates a mapping, unless it bears this mark; `parse` would call itself.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def replace(self, **changes: Any) -> "Experiment":
        """A copy with other settings, by the rules of overrides (docs/experiments.md): `replace(**{"method.ridge": 0.1})`.

        Raises ExperimentError, also for a change that the copy does not read.
        """
        origin = "replace"
        tree = layer(changes.items(), origin)
        if "size" in tree:
            raise ExperimentError(
                "replace: size chooses among the sizes of a file; read it as Experiment.load(path, ['size=small'])"
            )
        experiment = self._parsed(merged(type(self), self._given(), tree, origin), origin)
        _check_read([experiment], [dict.fromkeys(places(tree), origin)], origin)
        return experiment

    def _given(self) -> dict[str, Any]:
        """The settings that were given, as plain values; samples from Python stay what they are."""
        plain = self.model_dump(mode="json", exclude_unset=True, exclude={"method"})
        method = self.method.model_dump(mode="json", exclude_unset=True)
        kept = {n: getattr(self.data, n) for n, f in type(self.data).model_fields.items() if f.exclude}
        data = {**plain.get("data", {}), "source": self.data.source_name(), **kept}
        return {**plain, "data": data, "method": {"name": self.method.name, **method}}

    @property
    def task(self) -> Task[Any]:
        """The learning problem of the data source."""
        return task_of(self.data)

    @property
    def setup(self) -> Setup:
        """The settings that the task reads."""
        engine = self.engine
        return Setup(
            self.model.with_square_adapters() if self.method.square else self.model,
            self.method,
            self.evaluation,
            self.seed,
            engine.device,
            engine.dtype,
            engine.compile,
            checkpointing=engine.checkpointing,
            device_map=engine.device_map,
        )

    def adapters(self) -> dict[str, LoRA]:
        """The LoRA shapes by part of the model."""
        return self.task.adapters(self.model)

    def located(self) -> "Experiment":
        """The same experiment, whose model is found from every working directory."""
        return self.model_copy(update={"model": self.model.located()})

    def as_dict(self) -> dict[str, Any]:
        """Plain YAML values from which `parse` makes an equal experiment."""
        plain = self.model_dump(mode="json", exclude={"method"})
        return plain | {"method": {"name": self.method.name, **self.method.model_dump(mode="json")}}

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = (), *, row: str | None = None) -> "Experiment":
        """The only experiment of a YAML file, or the one of a row. Raises ExperimentError, also if there are several."""
        rows = load_rows(path, overrides, only=() if row is None else (row,))
        if len(rows) == 1:
            return rows[0]
        names = list(dict.fromkeys(r.row for r in rows if r.row))
        name_one = (
            f"name one of its rows: {', '.join(names)}"
            if len(names) > 1
            else "give it one seed and one column"
        )
        raise ExperimentError(f"{path} describes {len(rows)} runs; {name_one}")

    @classmethod
    def from_record(cls, fields: Mapping[str, Any], origin: str) -> "Experiment":
        """The experiment of an existing run's file. `origin` is named in errors. Raises ExperimentError."""
        load_entry_points()
        plain = of_record(fields)
        for kind, group, key, known in NAMED:
            part: Any = plain
            for name in (*group.split("."), key):
                part = part.get(name) if isinstance(part, Mapping) else None
            if isinstance(part, str) and part not in known:
                raise ExperimentError(
                    f"{origin} names the {kind} {part}, which is not registered; is its plug-in installed?"
                )
        return cls._parsed(plain, origin)

    @classmethod
    def parse(cls, fields: Mapping[str, Any], origin: str = "the experiment") -> "Experiment":
        """The experiment of a plain mapping. `origin` is named in errors. Raises ExperimentError."""
        load_entry_points()
        experiment = cls._parsed(fields, origin)
        for name, condition in experiment.unread().items():
            raise ExperimentError(f"{origin}: {experiment.why_unread(name, condition)}")
        return experiment

    def unread(self) -> dict[str, str | None]:
        """The settings other than their defaults that this run does not read, each with what would have it read, or None."""
        found = dict(unread(self, lambda name: _reads(name, self.task, self.method)))
        ahead = [name.removeprefix("engine.") for name in READ_AHEAD]
        usual = type(self.engine).model_fields
        changed = [name for name in ahead if getattr(self.engine, name) != usual[name].default]
        kept = self.engine.reuse and self.task.keeps_features(self.method, self.training, self.rounds)
        for name in changed if changed and not self.data.samples_in_files else ():  # which may read the data
            files = "samples from files (pictures or sounds below data.path)"
            if name != "cache":
                found.setdefault(f"engine.{name}", files)
            elif not kept:
                found.setdefault("engine.cache", f"{files}, or an encoder that the run never trains")
        if self.privacy.sums and self.evaluation.diagnostics not in (None, 1):  # 1 was the default until 0.2
            found.setdefault("evaluation.diagnostics", "privacy that shows the server single replies")
        found |= self._unread_by_privacy()
        return found

    def _unread_by_privacy(self) -> dict[str, str | None]:
        """The changed settings that sums, or noise in turns, leave no use for."""
        found: dict[str, str | None] = {}
        firewall, cohort, dp = self.firewall, self.cohort, self.privacy.dp
        if self.privacy.sums and firewall.norm_ratio != type(firewall).model_fields["norm_ratio"].default:
            found["firewall.norm_ratio"] = "privacy that shows the server single replies"
        if dp is not None and dp.in_turns and cohort.quorum != type(cohort).model_fields["quorum"].default:
            found["cohort.quorum"] = "privacy.dp.mechanism: gaussian"
        return found

    def why_unread(self, name: str, condition: str | None) -> str:
        """The fault of a setting that nothing reads, in one sentence."""
        if condition is not None:
            return f"{name} is read only with {condition}; leave {name} out, or set that"
        readers = [task.name for task in TASKS.values() if _reads(name, task, self.method)]
        known = f"; the task {' or '.join(readers)} does" if readers else ""
        return f"{name} is not read by the task {self.task.name} with method {self.method.name}{known}; leave it out"

    @classmethod
    def _parsed(cls, fields: Mapping[str, Any], origin: str) -> "Experiment":
        """`parse`, with settings that nothing reads."""
        parts = dict(fields)
        if "method" in parts and not isinstance(parts["method"], Method):
            parts["method"] = _method(parts["method"], origin)
        data = parts.get("data", {})
        if isinstance(data, Mapping):
            parts["data"] = parse_source(data, origin)
        experiment = validated(cls, parts, origin)
        if fault := experiment._contradiction():
            raise ExperimentError(f"{origin}: {fault}")
        return experiment

    def _contradiction(self) -> str | None:
        """The first pair of incompatible settings, in one sentence, or None."""
        if fault := self.task.refuses(self.method, self.evaluation):
            return fault
        if fault := self.method.check_training(self.training):
            return fault
        if self.engine.in_workers and self.engine.device_map is not None:
            return "engine.device_map spreads one model over all GPUs, and workers have a model each; leave one of them out"
        if self.privacy.robust is not None and not self.method.linear:
            return (
                f"method {self.method.name} treats clients by name or by what they send, not by a weighted mean; "
                "leave privacy.robust out, or take a method such as fedavg-lora"
            )
        if isinstance(self.attack, Backdoor) and not self.task.answers_in_words:
            return f"attack backdoor needs a model that answers in words; data.source {self.data.source_name()} gives labels"
        if fault := self._warm_start_fault():
            return fault
        specs = self.adapters()
        kinds = {s.kind for s in specs.values()}
        if fault := self._ranks_fault(specs):
            return fault
        unequal = any(len({*ranks, specs[part].rank}) > 1 for part, ranks in self.cohort.ranks.items())
        warm = self.method.warm_start
        methods = [self.method] if warm is None else [self.warm_start_method(warm.method), self.method]
        for method in methods:
            fault = refusal(self.privacy, method, kinds, unequal, self.cohort.full_first_round)
            if fault is not None:
                return fault
        if fault := self._dp_fault():
            return fault
        return self.method.check(kinds, unequal, self.cohort.start)

    def _dp_fault(self) -> str | None:
        """The first fault of differential privacy, or of an attack on replies that nobody sees."""
        privacy, attack = self.privacy, self.attack
        if privacy.sums and attack is not None and attack.replies_differ:
            return (
                f"attack.kind: {attack.kind} changes single clients' replies, which are sums here; take label_flip, or leave "
                "privacy out"
            )
        if privacy.dp is None:
            return None
        return dp_refusal(
            privacy.dp,
            self.method,
            self.cohort.fraction,
            self.rounds,
            secure=privacy.secure is not None,
            warm=self.method.warm_start is not None,
        )

    def _warm_start_fault(self) -> str | None:
        warm, method = self.method.warm_start, self.method
        if warm is None:
            return None
        if warm.method not in METHODS:
            return f"unknown method.warm_start.method {warm.method!r}; known are {', '.join(sorted(METHODS))}"
        first = self.warm_start_method(warm.method)
        if (first.scope, first.second, first.clip_adapter) != (
            method.scope,
            method.second,
            method.clip_adapter,
        ):
            return (
                f"method.warm_start: {warm.method} and {method.name} do not share the same tensors; "
                "take a method with the same scope, such as fedavg-lora before feda2-lora"
            )
        return None

    def _ranks_fault(self, specs: Mapping[str, LoRA]) -> str | None:
        for part, ranks in self.cohort.ranks.items():
            if part not in specs or specs[part].kind == "vera":
                known = (
                    f"give ranks for {' or '.join(specs)}, with kind: lora"
                    if specs
                    else "leave cohort.ranks out"
                )
                return f"cohort.ranks: {part} has no LoRA rank; {known}"
            if max(ranks, default=0) > specs[part].rank:
                return (
                    f"cohort.ranks: rank {max(ranks)} of {part} is above the model's {specs[part].rank}; "
                    f"raise model.{part}_lora.rank to the largest client's"
                )
        return None


def _reads(name: str, task: Any, method: Method) -> bool:
    """Whether a run of this task and method reads a setting."""
    if any(fnmatchcase(name, pattern) for pattern in (*task.ignores, *method.ignores)):
        return False
    declared = name.partition(".")[0] in DECLARED
    return not declared or any(fnmatchcase(name, pattern) for pattern in (*task.reads, *method.reads))


def _method(value: Any, origin: str) -> Method:
    """The method described by `feda2-lora` or `{name: feda2-lora, ridge: 0.1}`."""
    if not isinstance(value, str | dict):
        raise ExperimentError(f"{origin}: method must be a name, or a mapping with a name, not {value!r}")
    fields = {"name": value} if isinstance(value, str) else dict(value)
    name = fields.pop("name", None)
    if not isinstance(name, str) or name not in METHODS:
        raise ExperimentError(f"{origin}: unknown method {name!r}; known are {', '.join(sorted(METHODS))}")
    return validated(METHODS[name], fields, origin, "method.")


def load_rows(
    path: str | Path, overrides: Sequence[str] = (), *, only: Sequence[str] = ()
) -> list[Experiment]:
    """Every run that a YAML file describes (see `yaml_rows.read_rows`); where there is none, a shipped one's of that name.

    Raises ExperimentError.
    """
    load_entry_points()
    if not Path(path).exists():
        path = experiment_files().get(Path(path).as_posix(), path)
    rows = read_rows(path, overrides, Experiment, only=only)
    experiments = [Experiment._parsed(row.fields, str(path)) for row in rows]
    _check_read(experiments, [row.overrides for row in rows], "the overrides")
    try:  # the file is judged as it stands: another method in the overrides makes no setting of it wrong
        written = [Experiment._parsed(row.written, str(path)) for row in rows] if overrides else experiments
    except ExperimentError:  # complete with its overrides alone
        return experiments
    _check_read(written, [row.layers for row in rows], str(path))
    return experiments


def _check_read(experiments: Sequence[Experiment], given: Sequence[Mapping[str, str]], origin: str) -> None:
    """Raise ExperimentError for a setting that no run reads of those to which the same layer gave it."""
    silent = [experiment.unread() for experiment in experiments]
    for experiment, names, own in zip(experiments, silent, given, strict=True):
        for name, condition in names.items():
            source = _source_of(name, own)
            if source is None:
                continue
            sharing = [
                n for n, layers in zip(silent, given, strict=True) if _source_of(name, layers) == source
            ]
            if all(name in n for n in sharing):
                raise ExperimentError(f"{origin}: {experiment.why_unread(name, condition)}")


def _source_of(name: str, given: Mapping[str, str]) -> str | None:
    """The last layer that gave a setting, by its name, as a part of its group, or entry by entry."""
    near = [n for n in given if n == name or n.startswith(f"{name}.") or name.startswith(f"{n}.")]
    return given[near[-1]] if near else None
