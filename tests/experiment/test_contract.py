"""`fedloom methods NAME --check`: what every method promises, tried by small runs."""

from collections.abc import Iterator
from typing import ClassVar

import pytest
from pydantic import Field
from typer.testing import CliRunner

import fedloom
from fedloom.cli.main import app
from fedloom.core.errors import ExperimentError
from fedloom.experiment.contract import findings
from fedloom.methods import METHODS, Ask, Combination, Method, Payload, Scope, State, mean_of


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    """Leaves the registry as it was."""
    before = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(before)


class Forgetful(Method):
    """Says that means are enough and takes the longest change; counts its rounds on the class; forgets them in a resume."""

    name: ClassVar[str] = "forgetful"
    title: ClassVar[str] = "Forgetful"
    paper: ClassVar[str] = "none"
    shares: ClassVar[Scope] = Scope(shared=("*",))
    combination: ClassVar[Combination] = "mean"
    seen: ClassVar[list[int]] = []

    step: float = Field(1.0, gt=0, description="share of the way")

    def round(self, state: State, ask: Ask) -> State:
        replies = ask("train", Payload(state.shared))
        sizes = [
            sum((t - state.shared[n]).square().sum() for n, t in r.payload.tensors.items()) for r in replies
        ]
        self.seen.append(ask.round)
        mean = mean_of(replies, [1.0 if size == max(sizes) else 0.1 for size in sizes])
        step = self.step / len(self.seen)
        return state.with_shared({n: state.shared[n].lerp(t, step) for n, t in mean.items()})


@pytest.mark.slow
def test_a_method_that_breaks_its_promises_is_told_which() -> None:
    fedloom.register(Forgetful)
    faults = {finding.promise.split()[0]: finding.fault for finding in findings("forgetful")}
    assert faults["something"] is None
    assert all(faults[word] for word in ("one", "a", "secure"))


def test_methods_with_models_of_their_own_are_sent_to_the_checkout() -> None:
    with pytest.raises(ExperimentError, match=r"method fedmmkt needs a generator.*tests/contract"):
        next(findings("fedmmkt"))


@pytest.mark.parametrize("arguments", [["--check"], ["fedavg", "--check", "--json"]])
def test_a_check_is_of_one_method(arguments: list[str]) -> None:
    with pytest.raises(ExperimentError, match="--check goes with a name alone"):
        CliRunner().invoke(app, ["methods", *arguments], catch_exceptions=False)


@pytest.mark.slow
def test_a_shipped_method_keeps_its_promises() -> None:
    done = CliRunner().invoke(app, ["methods", "rolora", "--check"])
    assert done.exit_code == 0, done.output
    assert [line.split()[0] for line in done.output.splitlines()] == ["ok"] * 5
