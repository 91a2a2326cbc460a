"""Figures from sites: any number, any name, and sums that stay finite."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.payload import Payload, Reply
from fedloom.deploy.evaluation import SiteEvaluator, figure_fault
from fedloom.experiment.settings import Experiment
from fedloom.federation.progress import Totals
from fedloom.methods import State
from fedloom.tasks.base import Snapshot
from fedloom.tasks.site_figures import SampleFigures
from tests.privacy.test_reply_schema import anything

RULES = SampleFigures()
names = st.sampled_from(
    [
        f"{scope}/image/{m}"
        for scope in ("global", "local")
        for m in ("loss", "token_accuracy", "tokens", "samples")
    ]
)


@pytest.mark.parametrize(
    ("figures", "fault"),
    [
        ({"global/image/loss": 1e308}, "figures: global/image/loss is 1e+308, a number from -1e+30 to 1e+30"),
        ({"global/image/loss": math.nan}, "figures: global/image/loss is nan, a number from"),
        ({"global/image/loss": "x"}, "figures: global/image/loss is 'x', a number is right"),
        ({"global/image/loss": True}, "figures: global/image/loss is True, a number is right"),
        ({"global/image/loss": 10**4000}, "figures: global/image/loss is a whole number of more than"),
        ({"global/image/token_accuracy": 1e6}, "figures: global/image/token_accuracy is 1000000.0"),
        ({"global/image/tokens": -1.0}, "figures: global/image/tokens is -1.0, a number from 0"),
        ({"global/image/\x1b[2J": 1.0}, "figures: 'global/image/\ufffd[2J' is no figure"),
        ({"global/image/loss\n": 1.0}, "figures: 'global/image/loss' is no figure"),
        (None, "figures: at most 10000 numbers"),
        ([1.0], "figures: at most 10000 numbers"),
        ({f"global/image/m{i}": 0.5 for i in range(10_001)}, "figures: at most 10000 numbers"),
    ],
)
def test_a_wrong_figure_is_refused_by_name(figures, fault) -> None:
    assert str(figure_fault(figures, RULES)).startswith(fault)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.dictionaries(names, anything, max_size=4)))
def test_figures_of_any_sites_are_refused_or_combine_to_finite_numbers(sites: Any) -> None:
    sound = {site: figures for site, figures in sites.items() if figure_fault(figures, RULES) is None}
    assert all(math.isfinite(value) for value in RULES.combined(sound, {}).values())


def test_the_largest_figures_of_many_sites_still_combine() -> None:
    largest = {"global/image/loss": 1e30, "global/image/tokens": 1e15, "global/image/token_accuracy": 100.0}
    assert figure_fault(largest, RULES) is None
    assert all(
        math.isfinite(v) for v in RULES.combined({f"site-{i}": largest for i in range(1000)}, {}).values()
    )


def test_a_site_whose_figures_are_refused_is_named_and_the_status_says_that_they_are_missing() -> None:
    """Else the last figures of one site of two would pass for those of the run."""
    experiment = Experiment.parse({"rounds": 2, "method": "fedavg-lora", "data": {"clients": {"image": 2}}})
    replies = [
        Reply("a", Payload({}, {"figures": {"global/image/token_accuracy": 0.5}})),
        Reply("b", Payload({}, {"figures": {"global/image/token_accuracy": math.nan}})),
    ]
    federation: Any = SimpleNamespace(
        experiment=experiment,
        method=experiment.method,
        names=["a", "b", "c"],
        clients={n: SimpleNamespace(groups=()) for n in "abc"},
        state=State({}),
        engine=SimpleNamespace(ask=lambda *given: replies, model=SimpleNamespace(notes=[])),
        totals=Totals(),
        folder=None,
    )
    evaluator = SiteEvaluator(SampleFigures())
    evaluator.federation = federation
    found = evaluator.assess(Snapshot(2, True, False, {}, lambda names: {}, federation.state, None))
    assert found.metrics["evaluated_sites"] == 1.0
    assert federation.totals.status() == "complete, but 2 evaluations at sites are missing from the figures"
