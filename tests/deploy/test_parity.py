"""A deployment gives the model of the local engine, bit for bit, and the same figures."""

from pathlib import Path

import pytest
import torch

from fedloom.core.errors import ExperimentError
from fedloom.core.tensor_files import read_checked
from fedloom.deploy.server import go_on
from fedloom.experiment.run import run
from fedloom.federation.run_folder import RunFolder
from tests.deploy.silos import Silos
from tests.experiment.tracking import stores

NAMES = ("audio-01", "both-01", "image-01")
OFF = {"cohort": "off"}


def shared(path: Path) -> dict[str, torch.Tensor]:
    checkpoint = RunFolder(path).last()
    assert checkpoint is not None
    return {**checkpoint.state.shared, **{f"own:{n}": t for n, t in checkpoint.state.tensors.items()}}


def metrics(path: Path, prefix: tuple[str, ...]) -> dict[tuple[int, str], float]:
    lines = RunFolder(path).history("metrics.jsonl")
    return {(x["round"], x["name"]): x["value"] for x in lines if x["name"].startswith(prefix)}


@pytest.mark.parametrize(
    "method",
    [
        "fedsa-lora",
        pytest.param("feda2-lora", marks=pytest.mark.deploy),
        pytest.param("fedex-lora", marks=pytest.mark.deploy),
        pytest.param({"name": "fedavg-lora", "server": {"name": "adam"}}, marks=pytest.mark.deploy),
    ],
)
def test_a_deployed_run_ends_in_the_bits_of_a_local_one(method, quick, tmp_path) -> None:
    experiment = quick(method, engine=OFF)
    run(experiment, tmp_path / "local")
    tracked = experiment.replace(track=["tensorboard"])  # of which the sites know nothing
    result = go_on(tracked, NAMES, tmp_path / "far", Silos(experiment, NAMES, tmp_path / "sites"))
    points, texts = stores.tensorboard(tmp_path / "far" / "tensorboard")
    assert [step for step, _ in points["train/loss"]] == [1, 2]
    assert texts["status"] == "complete"
    one, two = shared(tmp_path / "local"), shared(tmp_path / "far")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[n], two[n]) for n in one)
    assert result.summary["status"] == "complete"
    figures = ("global/", "local/", "worst_client/", "mean_client/", "train/", "restoration", "change_norm")
    here, there = metrics(tmp_path / "local", figures), metrics(tmp_path / "far", figures)
    unjoined = {k for k in here if k[1].endswith("sample_median") and k[1].startswith(("global/", "local/"))}
    everywhere = {k for k in here if k[1].startswith("global/")} if method == "fedsa-lora" else set()
    left = {k for k in unjoined | everywhere if k not in there}
    assert here.keys() - left == there.keys()
    for key in there:
        assert there[key] == pytest.approx(here[key], abs=1e-12), key
    for site in NAMES:
        files = sorted((tmp_path / "local" / "state" / "clients" / site).glob("*.safetensors"))
        if files:
            kept = sorted((tmp_path / "sites" / site).glob("runs/*/personal/*.safetensors"))[-1]
            a, b = read_checked(files[-1]), read_checked(kept)
            assert a.keys() == b.keys()
            assert all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.deploy
def test_unequal_ranks_are_the_sites_own(quick, tmp_path) -> None:
    experiment = quick("flora", engine=OFF, cohort={"ranks": {"llm": [4, 2, 3]}})
    run(experiment, tmp_path / "local")
    go_on(experiment, NAMES, tmp_path / "far", Silos(experiment, NAMES, tmp_path / "sites"))
    one, two = shared(tmp_path / "local"), shared(tmp_path / "far")
    assert all(torch.equal(one[n], two[n]) for n in one)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"method": "centralised"}, "pools"),
        ({"method": {"name": "fedsa-lora", "unseen": "mean_b"}}, "unseen"),
        ({"data": {"clients": {"image": 2}, "train": 6, "test": 1, "test_only": ["image-02"]}}, "test_only"),
    ],
)
def test_what_cannot_be_deployed_says_so_before_anything_is_asked(settings, named, quick, tmp_path) -> None:
    experiment = quick(
        settings.get("method", "fedavg-lora"), **{k: v for k, v in settings.items() if k != "method"}
    )
    silos = Silos(experiment, NAMES, tmp_path / "sites")
    with pytest.raises(ExperimentError, match=named):
        go_on(experiment, NAMES, tmp_path / "far", silos)
    assert silos.asked == []
    assert not (tmp_path / "far").exists()


def test_a_secure_sum_between_sites_is_the_plain_models(quick, tmp_path) -> None:
    """FedA²'s two asks, each in five phases, through wire and trainers; fixed point is all that differs."""
    names = tuple(f"image-0{i}" for i in (1, 2, 3))
    settings = {"data": {"clients": {"image": 3}, "train": 6, "test": 1}, "engine": OFF}
    run(quick("feda2-lora", **settings), tmp_path / "plain")
    secret = quick("feda2-lora", **settings, privacy={"secure": {}})
    silos = Silos(secret, names, tmp_path / "sites")
    result = go_on(secret, names, tmp_path / "far", silos, site_list=silos.site_list)
    assert result.summary["status"] == "complete"
    one, two = shared(tmp_path / "plain"), shared(tmp_path / "far")
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-5, atol=1e-5, msg=name)
    ledger = [e for e in RunFolder(tmp_path / "far").history("ledger.jsonl") if e["request"] != "evaluate"]
    assert [entry["request"] for entry in ledger] == ["average", "project"] * 2
    assert all(entry["answered"] == list(names) for entry in ledger)


@pytest.mark.parametrize("more", [{"secure": {}}, {}], ids=["secure", "plain"])
def test_an_adaptive_clip_and_a_calibrated_multiplier_between_sites_are_the_local_ones(
    more, quick, tmp_path
) -> None:
    """Sites find the multiplier by themselves, and take the clip from the server where they mask their sums."""
    names = tuple(f"image-0{i}" for i in (1, 2, 3))
    dp = {"clip": {"quantile": 0.5}, "noise_multiplier": "calibrated", "epsilon": 20.0, "seeded": True}
    settings = {"data": {"clients": {"image": 3}, "train": 2, "test": 1}, "engine": OFF}
    experiment = quick("ffa-lora", **settings, privacy={"dp": dp, **more})
    run(experiment, tmp_path / "local")
    silos = Silos(experiment, names, tmp_path / "sites")
    listed = silos.site_list if more else lambda: None
    result = go_on(experiment, names, tmp_path / "far", silos, site_list=listed)
    one, two = shared(tmp_path / "local"), shared(tmp_path / "far")
    assert all(torch.equal(one[n], two[n]) for n in one)
    clips = [metrics(tmp_path / place, ("privacy/",)) for place in ("local", "far")]
    assert len(clips[0]) == 2
    assert clips[0] == clips[1]
    assert 0 < result.summary["privacy"]["spent"]["epsilon"] <= 20.0
