"""The files of experiments/pfedmma: the papers' rows, data sets and protocols in every size, without a file being read."""

from pathlib import Path

import pytest

from fedloom.data.partition.settings import DomainShift, FewShot, LabelSkew
from fedloom.experiment.settings import Experiment, load_rows
from fedloom.experiment.study import place

PFEDMMA = Path("experiments/pfedmma")
MAIN = ["zero-shot", "promptfl", "cocoop-fedavg", "fedpgp", "fedotp", "pfedmoap", "pfedmma", "mma"]
METHODS = {
    "main": MAIN,
    "curves": MAIN,
    "domains": [m for m in MAIN if m not in ("fedotp", "mma")],
    "cifar": [m for m in MAIN if m not in ("cocoop-fedavg", "mma")],
    "leave_one_out": ["zero-shot", "promptfl", "pfedmma"],
    "shots": ["promptfl", "pfedmoap", "pfedmma"],
    "rank": ["pfedmma"],
    "sharing": ["pfedmma"],
    "alpha": ["zero-shot", "pfedmma"],
}
LONGER = {  # rows of curves.yaml that had not settled, and pFedMMA
    "curves_longer": ["promptfl", "pfedmoap", "pfedmma"],
    "curves_sketches": ["cocoop-fedavg", "fedotp", "pfedmma"],
}
SEVEN = ["caltech101", "oxford-pets", "flowers102", "food101", "dtd", "sun397", "ucf101"]


def rows_of(name: str, size: str) -> list[Experiment]:
    return load_rows(PFEDMMA / f"{name}.yaml", [f"size={size}"])


def test_every_file_is_known_and_begins_with_its_command() -> None:
    assert {p.stem for p in PFEDMMA.glob("*.yaml")} == {*METHODS, *LONGER}
    for name in (*METHODS, *LONGER):
        first = (PFEDMMA / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
        out = name if name in METHODS else name.replace("_", "-")
        assert first == f"# fedloom run experiments/pfedmma/{name}.yaml --out runs/{out}"


@pytest.mark.parametrize("size", ["tiny", "small", "paper"])
@pytest.mark.parametrize("name", METHODS)
def test_a_file_has_its_methods_in_every_size(name: str, size: str) -> None:
    runs = rows_of(name, size)
    assert list(dict.fromkeys(r.method.name for r in runs)) == METHODS[name]
    assert len({place(r) for r in runs}) == len(runs)
    assert all(r.data.source == "classes" and r.columns for r in runs)
    assert all((r.rounds == 0) == (r.method.name == "zero-shot") for r in runs)
    clip = {r.model.clip for r in runs}
    assert clip == ({"openai/clip-vit-base-patch16"} if size == "paper" else {None})


def test_the_longer_curves_are_the_curves_with_more_rounds() -> None:
    """A row may say its client's batching of texts, which changes no figure."""
    budget: dict[str, object] = {"rounds": True, "evaluation": {"every"}, "method": {"chunk"}}
    apart = budget | dict.fromkeys(["name", "description", "across", "coordinates"], True)
    kept = {
        (run.method.name, str(run.data.styles), run.seed): run.model_dump(exclude=apart)
        for run in rows_of("curves", "tiny")
    }
    for name, methods in LONGER.items():
        runs = load_rows(PFEDMMA / f"{name}.yaml", [])
        assert list(dict.fromkeys(run.method.name for run in runs)) == methods
        for run in runs:
            assert run.rounds >= 400
            assert run.model_dump(exclude=apart) == kept[run.method.name, str(run.data.styles), run.seed]


def test_the_papers_few_shot_setting() -> None:
    runs = rows_of("main", "paper")
    assert list(dict.fromkeys(r.data.dataset for r in runs)) == SEVEN
    assert {r.data.clients["image"] for r in runs} == {10}
    assert {r.rounds for r in runs} == {0, 50}
    for run in runs:
        assert isinstance(run.data.partition, FewShot)
        assert (run.data.partition.shots, run.data.partition.class_shuffle_seed) == (16, 2023)
        assert (run.training.epochs, run.training.batch_size, run.training.optimizer) == (2, 16, "sgd")
        assert run.data.path is not None


def test_the_papers_domains_and_label_skew() -> None:
    domains = {r.data.dataset: r for r in rows_of("domains", "paper")}
    assert {n: (r.data.clients["image"], r.cohort.fraction) for n, r in domains.items()} == {
        "domainnet": (30, 0.25),
        "office-caltech10": (12, 1.0),
    }
    assert all(
        isinstance(r.data.partition, DomainShift) and r.data.partition.beta == 0.5 for r in domains.values()
    )
    skew = rows_of("cifar", "paper")
    assert {r.data.dataset for r in skew} == {"cifar100"}
    assert {(r.data.clients["image"], r.cohort.fraction) for r in skew} == {(100, 0.1)}
    assert all(isinstance(r.data.partition, LabelSkew) for r in skew)
    assert {r.data.partition.beta for r in skew} == {0.1, 0.5, 1.0}  # type: ignore[union-attr]


def test_what_is_shared_and_how_wide_are_the_ablations() -> None:
    assert [r.method.share for r in rows_of("sharing", "tiny") if r.seed == 0] == [  # type: ignore[attr-defined]
        *("s", "vision_only", "text_only", "towers", "s_and_vision", "s_and_text", "all", "none")
    ]
    assert [r.method.rank for r in rows_of("rank", "tiny") if r.seed == 0] == [8, 16, 32, 64, 128]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", METHODS)
def test_clients_of_the_tiny_size_can_be_dealt(name: str) -> None:
    for run in {f"{r.data} {r.seed}": r for r in rows_of(name, "tiny")}.values():
        clients = run.data.load(run.seed)
        assert len(clients) == run.data.clients["image"]
        assert all(c.train and c.test for c in clients)
