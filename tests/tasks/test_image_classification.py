"""Local, base, novel and their harmonic means on a stub model, domains; two label spaces."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fedloom.core.activity import stage, told_to
from fedloom.core.errors import ExperimentError
from fedloom.data.media import Media
from fedloom.data.media.sample_files import MediaFiles
from fedloom.data.sample import Sample
from fedloom.models.feature_cache import FeatureCache
from fedloom.models.loading.loader import Loader
from fedloom.tasks.class_answers import ClassTests
from fedloom.tasks.evaluation import Evaluation, TestSet
from fedloom.tasks.image_classification import assess_classes
from fedloom.tasks.metrics import harmonic_mean
from fedloom.tasks.personal_batches import ClientModel


def sample(uid: str, classes: str, label: int, **meta: Any) -> Sample:
    return Sample(
        uid, {"image": torch.zeros(1)}, "", str(label), {"classes": classes, "label": label, **meta}
    )


class Stub:
    """Knows the labels that it was loaded with, by list; of a restricted label space it knows everything."""

    known: frozenset[int] = frozenset()
    store = FeatureCache()  # keeps nothing

    def __init__(self) -> None:
        self.loads = 0
        self.asked: list[str] = []

    def load(self, tensors: Any, ratios: Any = None) -> None:
        self.known = frozenset(int(v) for v in tensors.get("clip/known", torch.tensor([])))
        self.loads += 1

    def prepare(self, s: Sample) -> Sample:
        return s

    def features(self, examples: Sequence[Sample]) -> list[torch.Tensor]:
        return [torch.ones(4) for _ in examples]

    def generate(self, examples: Sequence[Sample], limit: int, features: Any = None) -> list[str]:
        self.asked += [e.uid for e in examples]
        return [
            e.answer if e.meta["label"] in self.known or "allowed" in e.meta else "something else"
            for e in examples
        ]


def known(*labels: int) -> dict[str, torch.Tensor]:
    return {"clip/known": torch.tensor(labels)}


# a: three pictures of class 0; b: one of class 1 and one of class 2
PARTS = {
    "a": [sample(f"a{i}", "base", 0) for i in range(3)],
    "b": [sample("b0", "base", 1), sample("b1", "base", 2)],
}
COMMON = {
    "base": [s for part in PARTS.values() for s in part],
    "novel": [sample(f"n{i}", "novel", i) for i in range(4)],
}


def prepared(model: Stub, parts=PARTS, common=COMMON, domains=None) -> tuple[TestSet, ClassTests]:
    sets = ClassTests.prepare(parts, common, domains or {}, model)
    return sets.local, sets


def test_every_clients_own_model_is_measured_at_home_on_base_and_on_novel() -> None:
    model = Stub()
    tests, sets = prepared(model)
    own = {"a": ClientModel(known(0)), "b": ClientModel(known(1))}
    found = assess_classes(model, {}, own, tests, sets, Evaluation(), generate=True)
    assert found.metrics["local/image/accuracy"] == pytest.approx((1 + 1 / 2) / 2), "clients weigh alike"
    assert found.metrics["local/worst_client/image/accuracy"] == 0.5
    assert found.metrics["base/image/accuracy"] == pytest.approx((3 / 5 + 1 / 5) / 2)
    assert found.metrics["novel/image/accuracy"] == pytest.approx(1 / 4)
    assert found.metrics["hm"] == pytest.approx(3 / (1 / 0.75 + 1 / 0.4 + 1 / 0.25)), (
        "of the means over clients"
    )
    assert found.metrics["hm2"] == pytest.approx(2 / (1 / 0.4 + 1 / 0.25))
    assert found.clients["b"] == {"image/accuracy": 0.5, "base/accuracy": 0.2, "novel/accuracy": 0.25}
    assert [(r.client, r.prediction, r.correct) for r in found.records] == [("a", "0", 1)] * 3 + [
        ("b", "1", 1),
        ("b", "something else", 0),
    ]
    assert not any(name.startswith("domain/") for name in found.metrics)
    shares = {name: {uid: right for (_, uid), right in of.items()} for name, of in found.common.items()}
    assert shares == {
        "base": {"a0": 0.5, "a1": 0.5, "a2": 0.5, "b0": 0.5, "b1": 0.0},
        "novel": {"n0": 0.5, "n1": 0.5, "n2": 0.0, "n3": 0.0},
    }


def test_a_common_model_is_measured_once() -> None:
    model = Stub()
    tests, sets = prepared(model)
    found = assess_classes(model, known(0, 1), {}, tests, sets, Evaluation(), generate=False)
    assert model.loads == 1
    asked = ["a0", "a1", "a2", "b0", "b1", "n0", "n1", "n2", "n3"]
    assert sorted(model.asked) == asked, "and a picture of two sets once"
    assert {r.prediction for r in found.records} == {None}
    assert found.metrics["local/image/accuracy"] == 0.75
    assert found.metrics["base/image/accuracy"] == 0.8
    assert found.clients["a"]["novel/accuracy"] == 0.5


def test_the_progress_says_whose_model_and_how_many_pictures() -> None:
    local = {c: [sample(f"{c}{i}", "base", i) for i in range(3)] for c in ("ada", "bob")}
    common = {"base": [*local["ada"], *local["bob"]], "novel": [sample("n", "novel", 0)]}
    model, told = Stub(), []
    sets = ClassTests.prepare(local, common, {}, model)
    own = {"bob": ClientModel(known(0)), "ada": ClientModel(known(1))}
    with told_to(told.append), stage("round 2/4"):
        assess_classes(model, {}, own, sets.local, sets, Evaluation(batch_size=4), generate=False)
        assess_classes(model, known(0), {}, sets.local, sets, Evaluation(), generate=False)
    assert told == [
        "round 2/4, ada (1 of 2), evaluating, 0 of 7 pictures",
        "round 2/4, ada (1 of 2), evaluating, 4 of 7 pictures",
        "round 2/4, bob (2 of 2), evaluating, 0 of 7 pictures",
        "round 2/4, bob (2 of 2), evaluating, 4 of 7 pictures",
        "round 2/4, the common model, evaluating, 0 of 7 pictures",
    ]


def test_one_own_model_among_others_that_share_theirs() -> None:
    model = Stub()
    tests, sets = prepared(model)
    found = assess_classes(
        model, known(1, 2), {"a": ClientModel(known(0))}, tests, sets, Evaluation(), generate=False
    )
    assert {c: f["image/accuracy"] for c, f in found.clients.items()} == {"a": 1.0, "b": 1.0}
    assert found.metrics["base/image/accuracy"] == pytest.approx((3 / 5 + 2 / 5) / 2)


def test_a_picture_that_stands_in_two_sets_is_one_example() -> None:
    """So that what a model keeps of its frozen part is kept once."""
    tests, sets = prepared(Stub())
    assert set(sets.common["base"].places) == set(tests.places)
    assert not set(sets.common["novel"].places) & set(tests.places)
    assert len(sets.pictures) == len(tests.samples) + len(sets.common["novel"].samples)
    for test in (tests, *sets.common.values()):
        assert [sets.pictures[place] for place in test.places] == list(test.samples)


class FromFiles(Stub):
    """Reads pictures where they are used, and keeps none of them."""

    def __init__(self) -> None:
        super().__init__()
        self.loader, self.reading = Loader(memory=0), Flat()

    def finish(self, s: Sample, inputs: dict[str, torch.Tensor]) -> Sample:
        assert inputs
        return s


class Flat:
    settings, reads_texts = "flat", False

    def __call__(self, s: Sample) -> dict[str, torch.Tensor]:
        return {"image": s.modalities["image"].flatten()}


def test_sets_from_files_give_the_same_figures_and_read_each_picture_once_a_model(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    files = MediaFiles(
        {"image": Media("image", tmp_path / "a.png")}, lambda media, fault: ExperimentError(fault)
    )

    def in_file(s: Sample, **meta: Any) -> Sample:
        return replace(s, modalities=files, meta={**s.meta, **meta})

    parts = {name: [in_file(s, own=(0, 1)) for s in own] for name, own in PARTS.items()}
    common = {name: [in_file(s) for s in own] for name, own in COMMON.items()}
    own = {"a": ClientModel(known(0)), "b": ClientModel(known(1, 2))}
    model, figures = FromFiles(), []
    for kind in (Stub(), model):
        tests, sets = prepared(kind, parts, common)
        found = assess_classes(kind, {}, own, tests, sets, Evaluation(batch_size=2), generate=True)
        figures.append((found.metrics, found.clients, found.records))
    assert figures[0] == figures[1]
    assert "local/image/accuracy_own_classes" in figures[0][0]
    everywhere, restricted = 9, 5
    assert model.loader.reads_here == 2 * everywhere + restricted


def test_label_skew_is_scored_over_all_classes_and_over_the_clients_own() -> None:
    parts = {
        "a": [sample("a0", "base", 0, own=(0, 1)), sample("a1", "base", 1, own=(0, 1))],
        "b": [sample("b0", "base", 2, own=(2,))],
    }
    model = Stub()
    tests, sets = prepared(model, parts, {})
    assert sets.own_classes is not None
    assert [s.meta["allowed"] for s in sets.own_classes.samples] == [(0, 1), (0, 1), (2,)]
    assert all("allowed" not in s.meta for s in tests.samples)
    found = assess_classes(model, known(0), {}, tests, sets, Evaluation(), generate=False)
    assert found.metrics["local/image/accuracy"] == 0.25
    assert found.metrics["local/image/accuracy_own_classes"] == 1.0
    assert not {"hm", "hm2", "base/image/accuracy"} & set(found.metrics)


def test_domains_have_their_clients_mean_and_spread_and_a_held_out_one_everybodys() -> None:
    parts = {"fog-1": PARTS["a"], "fog-2": PARTS["b"], "dusk-1": [sample("d0", "base", 1)]}
    domains = {"fog-1": "fog", "fog-2": "fog", "dusk-1": "dusk"}
    model = Stub()
    tests, sets = prepared(model, parts, {"domain/grain": COMMON["base"]}, domains)
    own = {"fog-1": ClientModel(known(0)), "fog-2": ClientModel(known(1)), "dusk-1": ClientModel(known(1))}
    found = assess_classes(model, {}, own, tests, sets, Evaluation(), generate=False).metrics
    assert found["domain/fog/accuracy"] == 0.75
    assert found["domain/fog/accuracy_sd"] == pytest.approx(0.5 / 2**0.5)
    assert found["domain/dusk/accuracy"] == 1.0
    assert "domain/dusk/accuracy_sd" not in found
    assert found["domain/grain/accuracy"] == pytest.approx((3 / 5 + 1 / 5 + 1 / 5) / 3)
    assert found["held_out/image/accuracy"] == found["domain/grain/accuracy"]
    assert found["local/image/accuracy"] == pytest.approx(2.5 / 3)


def test_the_published_harmonic_mean_is_over_three() -> None:
    assert harmonic_mean(97.17, 77.40, 81.49) == pytest.approx(84.55, abs=0.005)
    assert harmonic_mean(0.5, 0.0, 1.0) == 0.0


def test_the_mean_of_harmonic_means_is_at_most_that_of_the_means() -> None:
    """Concavity: why a table's figure, averaged over data sets, lies below the HM of its own columns."""
    drawn = torch.rand(200, 7, 3, generator=torch.Generator().manual_seed(0)).double().clamp(min=0.01)
    for table in drawn.tolist():
        mean_of = sum(harmonic_mean(*row) for row in table) / len(table)
        of_mean = harmonic_mean(*(sum(column) / len(table) for column in zip(*table, strict=True)))
        assert mean_of <= of_mean + 1e-12
