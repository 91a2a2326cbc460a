"""A site's demands: read whole, shown in the terms, and refused in one sentence where an experiment does not meet them."""

from pathlib import Path

import pytest
import yaml

from fedloom.core.errors import ExperimentError
from fedloom.deploy import run_site
from fedloom.deploy.demands import Budget, Demands, Spending, unmet
from fedloom.deploy.settings import Deployment, Site, read_settings
from fedloom.deploy.site_kit import write_kit
from fedloom.deploy.trainer import SiteTrainer
from fedloom.privacy.differential.accountant import Accountant
from fedloom.privacy.settings import DP
from tests.deploy.silos import said_into

UNIFORM = {"name": "fedavg-lora", "weights": "uniform"}


@pytest.fixture
def kit(quick, tmp_path) -> Path:
    experiment = quick(UNIFORM, rounds=3, privacy={"secure": {}, "dp": {"noise_multiplier": 2.0}})
    write_kit(tmp_path / "kit", experiment, Deployment(sites=("north", "south", "west")))
    return tmp_path / "kit"


def demand(folder: Path, **demands: object) -> None:
    fields = yaml.safe_load((folder / "site.yaml").read_text())
    (folder / "site.yaml").write_text(yaml.safe_dump({**fields, "demands": demands}))


@pytest.mark.parametrize(
    ("demands", "match"),
    [
        ({"fellows": 2}, "add secure: true"),
        ({"dp": {"epsilon": 0}}, "demands.dp.epsilon"),
        ({"dp": {}}, "demands.dp.epsilon is missing"),
        ({"securely": True}, "unknown key demands.securely; did you mean secure"),
        ({"secure": True, "fellows": -1}, "demands.fellows"),
        ({"secure": True, "fellows": True}, "demands.fellows"),
    ],
)
def test_a_demand_that_cannot_be_read_is_one_sentence(demands, match, kit) -> None:
    demand(kit / "sites/north", **demands)
    with pytest.raises(ExperimentError, match=match):
        read_settings(Site, kit / "sites/north/site.yaml")


@pytest.mark.parametrize(
    ("privacy", "demands", "reason"),
    [
        ({}, {}, None),
        ({}, {"secure": True}, "demands secure, and the experiment has no privacy.secure"),
        ({"secure": {}}, {"secure": True}, None),
        ({"secure": {}}, {"secure": True, "fellows": 2}, None),
        ({"secure": {}}, {"secure": True, "fellows": 3}, "opens sums with 2 others; privacy.secure.least has to be 4 or more"),
        ({"secure": {"least": 4}}, {"secure": True, "fellows": 3}, None),
        ({"secure": {}}, {"dp": {"epsilon": 8}}, "demands dp, and the experiment has no privacy.dp"),
        ({"dp": {"noise_multiplier": 1}}, {"dp": {"epsilon": 8}}, "demands ε of at most 8, and this experiment reaches 9.0"),
        ({"dp": {"noise_multiplier": 2}}, {"dp": {"epsilon": 8}}, None),
        ({"dp": {"noise_multiplier": 1, "epsilon": 6}}, {"dp": {"epsilon": 8}}, None),
        ({"dp": {"noise_multiplier": 2, "delta": 1e-4}}, {"dp": {"epsilon": 8}}, "demands δ of at most 1e-05"),
        ({"dp": {"noise_multiplier": 2, "seeded": True}}, {"dp": {"epsilon": 8}}, "whoever knows the seed"),
    ],
)  # fmt: skip
def test_an_experiment_meets_the_demands_or_the_first_that_it_does_not_is_named(
    privacy, demands, reason, quick
) -> None:
    experiment = quick(UNIFORM, rounds=3, privacy=privacy)
    said = unmet(Demands.model_validate(demands), experiment, 3)
    assert (said is None) if reason is None else (said is not None and reason in said), said


def test_the_terms_show_the_demands_and_whom_they_trust(kit) -> None:
    folder = kit / "sites/north"
    assert run_site.terms(folder)["this site demands"] == "nothing"
    demand(folder, secure=True, fellows=2, dp={"epsilon": 8})
    said = run_site.terms(folder)["this site demands"]
    assert said == "secure sums, 2 or more other sites in each sum, ε at most 8 at δ = 1e-05"
    demand(folder, dp={"epsilon": 8})
    assert run_site.terms(folder)["this site demands"].endswith(
        "the server is trusted for where it adds the noise"
    )


def test_a_site_whose_demands_are_not_met_starts_nothing(kit, monkeypatch) -> None:
    folder = kit / "sites/north"
    run_site.accept(folder)
    demand(folder, secure=True, fellows=9)
    monkeypatch.setattr(run_site, "Child", lambda *_: pytest.fail("nothing is started"))
    with pytest.raises(ExperimentError, match=r"^north does not join: site\.yaml demands 9 fellows"):
        run_site.run_site(folder, said_into([]))
    experiment, site = run_site.read_experiment(folder), read_settings(Site, folder / "site.yaml")
    with pytest.raises(ExperimentError, match="demands 9 fellows"):
        SiteTrainer(site, experiment, folder)


def test_a_budget_is_counted_on_the_disk_over_all_runs_and_refuses_the_sum_that_would_pass_it(
    tmp_path,
) -> None:
    dp, budget = DP(noise_multiplier=2.0), Budget(epsilon=5.0)
    most = max(n for n in range(20) if Accountant.of(dp, 1.0).epsilon(n) <= 5.0)
    assert most > 1
    for n in range(most):
        spending = Spending(tmp_path, budget, dp)  # as after a restart, or in another run
        assert spending.sums == n
        assert spending.epsilon() == pytest.approx(Accountant.of(dp, 1.0).epsilon(n), rel=1e-3)
        assert spending.refusal() is None
        spending.take()
    said = Spending(tmp_path, budget, dp).refusal()
    assert said is not None
    assert f"on {most} sums, and another would make it" in said
    assert Spending(tmp_path, budget, DP(noise_multiplier=100.0)).refusal() is None, "weaker sums count less"


@pytest.mark.parametrize("text", ["", "[]", '{"sums": 1}', '{"sums": 1, "inverse_square": NaN}', "\x00"])
def test_a_damaged_count_is_one_sentence_and_never_zero(text, tmp_path) -> None:
    (tmp_path / "spent.json").write_text(text)
    with pytest.raises(ExperimentError, match="is damaged; it counts what this site has spent"):
        Spending(tmp_path, Budget(epsilon=5.0), DP())
