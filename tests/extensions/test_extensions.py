"""A method, a source, a metric, a robust rule and a task from outside the package, one file each beside this one."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from typer.testing import CliRunner

import fedloom
from fedloom.cli.main import app
from fedloom.data.client_data import ClientData
from fedloom.data.sources import SOURCES
from fedloom.experiment import registry
from fedloom.experiment.report import comparison
from fedloom.experiment.report.units import unit_of, words
from fedloom.methods import METHODS
from fedloom.privacy.robust.stage import RULES
from fedloom.tasks.metrics.metric import METRICS
from fedloom.tasks.registry import TASKS
from tests.extensions.toy_method import HalfWay
from tests.extensions.toy_metric import LENGTH
from tests.extensions.toy_privacy import FirstClients
from tests.extensions.toy_source import Sums
from tests.extensions.toy_task import Dots, Parity

QUICK: dict[str, Any] = {
    "rounds": 1,
    "method": "fedavg-lora",
    "data": {"source": "toy-sums", "samples": 2},
    "model": {"llm_lora": {"rank": 2}, "encoder_lora": None},
    "training": {"batch_size": 2},
    "evaluation": {"controls": False, "samples": 1},
}


@pytest.fixture(autouse=True)
def _registries() -> Iterator[None]:
    """Leaves the registries as they were."""
    before = [(r, dict(r)) for r in (METHODS, SOURCES, TASKS, METRICS, RULES)]
    yield
    for known, entries in before:
        known.clear()
        known.update(entries)


def test_an_unknown_name_is_one_sentence_until_it_is_registered() -> None:
    with pytest.raises(fedloom.ExperimentError, match=r"unknown data\.source 'toy-sums'"):
        fedloom.Experiment.parse(QUICK)
    fedloom.register(Sums)
    assert fedloom.Experiment.parse(QUICK).data == Sums(samples=2)


def test_a_method_a_source_a_metric_and_a_rule_make_a_run(tmp_path: Path) -> None:
    fedloom.register(HalfWay, Sums, LENGTH, FirstClients)
    settings = {
        **QUICK,
        "method": {"name": "toy-half-way", "step": 0.25},
        "privacy": {"robust": {"kind": "toy_first"}},
    }
    experiment = fedloom.Experiment.parse(settings)
    result = fedloom.run(experiment, tmp_path / "r")
    figures = result.summary["metrics"]
    assert 0 < figures["global/text/toy_length"] < 20
    assert (unit_of("global/text/toy_length"), words("toy_length")) == ("percent", "length")
    status = result.summary["status"]
    assert "the model knows 0% of the answers' words" in status  # the small foundation has no word for "four"
    assert status.endswith(" and 1 of 2 updates left out, wholly or in part, by the robust stage")
    again = fedloom.Experiment.load(tmp_path / "r" / "experiment.yaml")
    assert (again.method, again.data, again.privacy) == (
        experiment.method,
        experiment.data,
        experiment.privacy,
    )
    with pytest.raises(fedloom.ExperimentError, match=r"privacy.robust.cuont.*did you mean count"):
        fedloom.Experiment.parse({**settings, "privacy": {"robust": {"kind": "toy_first", "cuont": 2}}})


def test_a_task_trains_is_measured_answers_and_stands_in_tables(tmp_path: Path) -> None:
    fedloom.register(Dots, Parity)
    experiment = fedloom.Experiment.parse(
        {
            "rounds": 12,
            "method": "fedavg",
            "data": {"source": "toy-dots"},
            "training": {"batch_size": 16, "epochs": 30, "lr": 0.02, "lr_schedule": "constant"},
            "evaluation": {"every": 12},
        }
    )
    result = fedloom.run(experiment, tmp_path / "r")
    figures = result.summary["metrics"]
    assert figures["start"]["global/text/accuracy"] < 0.8 < figures["global/text/accuracy"]
    assert next(c.title for c in comparison(tmp_path / "r").columns) == "parity"
    asked = CliRunner().invoke(app, ["ask", str(tmp_path / "r"), "--question", "0111"])
    assert asked.output.strip() in ("odd", "even")
    with pytest.raises(fedloom.ExperimentError, match="four dots"):
        CliRunner().invoke(app, ["ask", str(tmp_path / "r"), "--question", "what"], catch_exceptions=False)
    with pytest.raises(fedloom.ExperimentError, match="trained a counter of dots"):
        CliRunner().invoke(app, ["benchmark", str(tmp_path / "r")], catch_exceptions=False)
    with pytest.raises(fedloom.ExperimentError, match="trains a part of CLIP"):
        fedloom.Experiment.parse({"method": "pfedmma", "data": {"source": "toy-dots"}})


def test_a_source_for_a_task_that_nobody_registered_is_one_sentence() -> None:
    fedloom.register(Dots)
    with pytest.raises(fedloom.ExperimentError, match="the task toy-parity, which is not registered"):
        fedloom.Experiment.parse({"method": "fedavg", "data": {"source": "toy-dots"}})


def test_a_taken_name_and_a_thing_of_no_kind_are_refused() -> None:
    class Taken(HalfWay):
        name = "fedavg"

    with pytest.raises(fedloom.ExperimentError, match="the name fedavg is taken by FedAvg"):
        fedloom.register(Taken)
    with pytest.raises(fedloom.ExperimentError, match="cannot be registered"):
        fedloom.register(len)


def test_an_installed_plug_in_is_found_and_a_broken_one_is_named(monkeypatch) -> None:
    class Point:
        name, value = "sums", "somewhere:Sums"

        def __init__(self, thing: Any) -> None:
            self.thing = thing

        def load(self) -> Any:
            if isinstance(self.thing, Exception):
                raise self.thing
            return self.thing

    points: list[Any] = [Point(Sums)]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    registry.load_entry_points.cache_clear()
    assert fedloom.Experiment.parse(QUICK).data.source_name() == "toy-sums"
    points[:] = [Point(ImportError("no module"))]
    registry.load_entry_points.cache_clear()
    with pytest.raises(
        fedloom.ExperimentError, match=r"plug-in sums \(somewhere:Sums\) cannot be used: no module"
    ):
        fedloom.Experiment.parse(QUICK)
    points.clear()
    registry.load_entry_points.cache_clear()


def test_the_page_on_a_source_of_ones_own_runs(tmp_path: Path, monkeypatch) -> None:
    page = Path("docs/your-data.md").read_text(encoding="utf-8")
    code = page.split("## A source of your own")[1].split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "page"}
    exec(code, namespace)  # the page's own words
    assert (tmp_path / "runs/sums/summary.json").is_file()


class Unnamed(Sums):
    source: str  # type: ignore[assignment]


class Unfinished(Parity):
    answer = property()
    __abstractmethods__ = frozenset({"answer"})


@pytest.mark.parametrize(
    ("extension", "says"),
    [
        (Unnamed, "it has no source"),
        (Parity.__mro__[1], "cannot be registered: it has no answer"),
        (HalfWay.__mro__[1], "cannot be registered: it has no"),
        (FirstClients.__mro__[1], "cannot be registered: it has no apply"),
        (replace(LENGTH, name="a/b"), "its name is 'a/b'"),
        (replace(LENGTH, name=""), "its name is ''"),
        (replace(LENGTH, name="tokens"), "the metric tokens cannot be registered"),
        (replace(LENGTH, unit="miles"), "its unit must be one of"),
        (replace(LENGTH, name="exact_match"), "the name exact_match is taken"),
    ],
)
def test_what_is_not_complete_is_refused_when_it_is_registered(extension, says) -> None:
    with pytest.raises(fedloom.ExperimentError, match=says):
        fedloom.register(extension)


def test_a_metric_may_be_defined_anew() -> None:
    again = replace(LENGTH, title="words")
    fedloom.register(LENGTH)
    fedloom.register(again)
    assert METRICS["toy_length"] is again


@pytest.mark.parametrize(
    ("score", "says"), [(lambda a, r: 1 / 0, "fails on the answer"), (lambda a, r: math.nan, "gives nan")]
)
def test_a_metric_that_fails_is_named(score, says) -> None:
    fedloom.register(Sums, replace(LENGTH, score=score))
    with pytest.raises(fedloom.ExperimentError, match=f"the metric toy_length {says}"):
        fedloom.run(fedloom.Experiment.parse(QUICK))


class Wrong(Sums):
    source: Literal["toy-wrong"] = "toy-wrong"  # type: ignore[assignment]
    names: tuple[str, ...] = ()

    def deal(self, seed, features=None):
        return (ClientData(name, (), ()) for name in self.names)


@pytest.mark.parametrize(
    ("names", "says"),
    [((), "has no clients"), (("a", "b", "a"), "two clients called a"), (("a/../x",), "is no folder's name")],
)
def test_a_sources_clients_are_checked(names, says) -> None:
    with pytest.raises(fedloom.ExperimentError, match=f"data.source toy-wrong .*{says}"):
        Wrong(names=names).load(0)


def test_a_generator_of_clients_loses_none() -> None:
    assert [c.name for c in Wrong(names=("b", "a")).load(0)] == ["a", "b"]


class Sentences(Sums):
    for_task = "text-classification"
    source: Literal["toy-sentences"] = "toy-sentences"  # type: ignore[assignment]


def test_a_source_without_a_tasks_members_is_one_sentence() -> None:
    fedloom.register(Sentences)
    with pytest.raises(
        fedloom.ExperimentError, match="toy-sentences has no labels, which a source for text-class"
    ):
        fedloom.Experiment.parse({"method": "fedavg-lora", "data": {"source": "toy-sentences"}})


class Blind(Parity):
    def evaluator(self, *arguments: Any, **options: Any) -> Any:
        return object()


def test_an_evaluator_that_lacks_a_member_is_refused_before_training() -> None:
    fedloom.register(Dots)
    TASKS[Blind.name] = Blind
    with pytest.raises(fedloom.ExperimentError, match="the evaluator of the task toy-parity has no tests"):
        fedloom.run(fedloom.Experiment.parse({"method": "fedavg", "data": {"source": "toy-dots"}}))


def test_two_of_one_name_are_refused_with_both_modules_and_the_same_again_is_not() -> None:
    fedloom.register(HalfWay)
    fedloom.register(HalfWay)
    other = type("HalfWay", (HalfWay,), {"__module__": "elsewhere", "__doc__": "Another."})
    with pytest.raises(
        fedloom.ExperimentError, match=r"HalfWay \(tests\.extensions\.toy_method\).*\(elsewhere\)"
    ):
        fedloom.register(other)
    fedloom.register(LENGTH)
    with pytest.raises(fedloom.ExperimentError, match="the name toy_length is taken"):
        fedloom.register(replace(LENGTH, score=lambda answer, reference: 0.5))


class Listed(Parity):
    headline = ["global/text/accuracy"]  # type: ignore[assignment]  # noqa: RUF012


class OneText(Parity):
    inputs = "text"  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("task", "says"), [(Listed, "headline must map metrics"), (OneText, "inputs must be a tuple of names")]
)
def test_a_tasks_declarations_are_checked_when_it_is_registered(task, says) -> None:
    with pytest.raises(fedloom.ExperimentError, match=says):
        fedloom.register(task)
