"""Frozen work is done once: kept features change no result, are never stale, and stay within their bound."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from fedloom.core.tensor_files import PREFIX
from fedloom.methods import METHODS
from fedloom.models.feature_cache import CHUNK, VERSIONS, FeatureCache
from fedloom.models.mllm.trainable import AdaptedMLLM

IMAGES = {"clients": {"image": 2}, "train": 6, "test": 3}
FROZEN = {
    "llm only": {"tau": 0.0, "epochs": 2},
    "projector and llm": {"tau": 0.0, "projector": "stage2"},
}


@pytest.fixture
def trained(quick, federate):
    """A run in float64, whose rounding hides nothing."""

    def run(
        memory: int = 4096, reuse: bool = True, cohort: Any = "off", spy: Any = None, **settings: Any
    ) -> Any:
        engine = {"cohort": cohort, "reuse": reuse, "memory": memory}
        settings = {"method": "feda2-lora", "data": IMAGES, "rounds": 2, **settings}
        federation = federate(quick(**settings, engine=engine))
        model = federation.engine.model
        model.root.double()
        model.start = {n: t.double() for n, t in model.start.items()}
        federation = replace(federation)
        if spy is not None:
            spy(federation)
        federation.run()
        return federation

    return run


def agree(one: Any, two: Any) -> None:
    assert one.state.shared.keys() == two.state.shared.keys()
    for name, tensor in one.state.shared.items():
        torch.testing.assert_close(tensor, two.state.shared[name], rtol=1e-10, atol=1e-10, msg=name)
    assert one.last_metrics == pytest.approx(two.last_metrics, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("cohort", ["off", 2])
@pytest.mark.parametrize("training", FROZEN.values(), ids=FROZEN)
def test_kept_features_give_the_same_losses_and_adapters(training, cohort, trained) -> None:
    training = {"batch_size": 3, **training}
    without = trained(reuse=False, training=training)
    kept = trained(cohort=cohort, training=training)
    assert kept.engine.model.store.constant
    assert kept.engine.model.store.made == 2 * 6 + 2 * 3, (
        "every training and test sample once, over rounds and evaluations"
    )
    assert without.engine.model.store.made == 0
    agree(without, kept)


@pytest.mark.parametrize(
    ("cohort", "training"),
    [
        (2, {"tau": 0.5}),
        ("off", {"schedule": "rounds", "rho": 0.5}),
        (2, {"schedule": "reverse", "tau": 0.5}),
    ],
)
def test_an_encoder_that_is_trained_is_never_served_older_features(cohort, training, trained) -> None:
    training = {"batch_size": 3, **training}
    without, kept = (trained(reuse=r, cohort=cohort, training=training) for r in (False, True))
    assert not kept.engine.model.store.constant
    agree(without, kept)


def test_an_encoder_that_its_scope_freezes_is_constant_whatever_the_schedule(trained) -> None:
    class Projecting(METHODS["fedavg-lora"]):
        @property
        def scope(self):
            return replace(super().scope, frozen=("encoder*", "llm*"), shared=("projector*",))

    settings = {"method": Projecting(), "training": {"batch_size": 3, "schedule": "simultaneous"}}
    without, kept = (trained(reuse=r, **settings) for r in (False, True))
    assert set(kept.state.shared) == {"projector/weight", "projector/bias"}
    assert kept.engine.model.store.made == 2 * 6 + 2 * 3
    agree(without, kept)


def test_features_beyond_the_memory_lie_in_a_file_and_give_the_same(trained, quick, federate) -> None:
    training = {"tau": 0.0, "batch_size": 3}
    inside, outside = (trained(memory=m, training=training) for m in (4096, 0))
    assert outside.engine.model.store.held == 0
    assert outside.engine.model.store.made == inside.engine.model.store.made
    agree(inside, outside)
    for name, tensor in inside.state.shared.items():
        assert torch.equal(tensor, outside.state.shared[name])
    written = federate(quick(data=IMAGES, training=training, engine={"memory": 0}), "run")
    written.run()
    assert list(written.folder.state.glob(f"{PREFIX}*/*"))
    written.engine.model.store.clear()
    assert not list(written.folder.state.glob(f"{PREFIX}*"))


@pytest.mark.parametrize(
    "kind", [lambda i: {"image": torch.full((4, 5), float(i))}, lambda i: torch.full((20,), float(i))]
)
def test_the_bound_is_kept_and_what_is_read_is_what_was_made(kind, tmp_path) -> None:
    computed: list[int] = []

    def make(part: Any) -> list[Any]:
        computed.extend(part)
        return [kind(i) for i in part]

    limit = 50 * 1000
    store = FeatureCache(limit, tmp_path, constant=True)
    for _ in range(2):
        for start in range(0, 500, 10):
            features = store.of(b"v", "a", [start + 3, start], range(500), make)
            for i, feature in zip((start + 3, start), features, strict=True):
                expected = kind(i)
                pair = (
                    (feature, expected)
                    if isinstance(expected, torch.Tensor)
                    else (feature["image"], expected["image"])
                )
                assert torch.equal(*pair)
            assert store.held <= limit
    assert computed == list(range(500)), "in whole chunks, each once"
    assert store.held > 0
    assert len(list(tmp_path.glob(f"{PREFIX}*/*"))) > 0
    assert CHUNK < 500


def test_another_owner_version_or_place_is_another_feature() -> None:
    store = FeatureCache(10**6)

    def one(value):
        return lambda part: [torch.tensor([float(value + i)]) for i in part]

    assert [float(t) for t in store.of(b"1", "a", [0, 1], range(2), one(10))] == [10, 11]
    assert [float(t) for t in store.of(b"1", "a", [1, 0], range(2), one(0))] == [11, 10]
    assert [float(t) for t in store.of(b"1", "b", [0], range(2), one(20))] == [20]
    assert [float(t) for t in store.of(b"2", "a", [0], range(2), one(30))] == [30]
    store.clear()
    assert [float(t) for t in store.of(b"1", "a", [0], range(2), one(40))] == [40]
    for number in range(3 * VERSIONS):
        store.of(bytes([number]), "a", [0], range(2), one(0))
    assert store.held <= VERSIONS * 1000


def test_a_version_names_all_that_features_depend_on(quick, federate) -> None:
    model = federate(quick(data=IMAGES)).engine.model
    start = {n: t.clone() for n, t in model.start.items()}
    versions = [model.feature_version()]
    model.load({n: t + (n.startswith("llm") or n.startswith("projector")) for n, t in start.items()})
    assert model.feature_version() == versions[0]
    name = next(n for n in start if n.startswith("encoder") and n.endswith("lora_B"))
    place = name.rsplit(".", 1)[0]
    model.load({**start, name: start[name] + 1e-6})
    versions.append(model.feature_version())
    model.load(start, {"encoder.image": 0.5})
    versions.append(model.feature_version())
    A, B = start[place + ".lora_A"], start[place + ".lora_B"] + 1
    model.load({**start, f"{place}.merged_A": A, f"{place}.merged_B": B})
    versions.append(model.feature_version())
    model.load(start)
    assert len(set(versions)) == 4
    assert model.feature_version() == versions[0]
    assert model.feature_version({name: start[name] + 1e-6}) == versions[1]


def test_a_model_whose_features_stop_before_its_adapters_may_use_them_while_these_are_trained(
    trained, monkeypatch
) -> None:
    monkeypatch.setattr(AdaptedMLLM, "feature_tensors", ())
    batch_sizes: list[int] = []

    def nothing(
        self: Any, examples: Any
    ) -> list[Any]:  # of the trunk, only its input is a frozen prefix here
        batch_sizes.append(len(examples))
        return [dict(e.inputs) for e in examples]

    original = AdaptedMLLM.losses

    def losses(self: Any, examples: Any, owners: Any, count: int, features: Any = None) -> Any:
        seen = [replace(e, inputs=f) for e, f in zip(examples, features, strict=True)]
        return original(self, seen, owners, count)

    monkeypatch.setattr(AdaptedMLLM, "features", nothing)
    monkeypatch.setattr(AdaptedMLLM, "losses", losses)
    monkeypatch.setattr(AdaptedMLLM, "score", lambda self, examples, features=None: [(1, 1)] * len(examples))
    training = {"batch_size": 3, "tau": 0.5}
    without, kept = (trained(reuse=r, cohort=2, training=training) for r in (False, True))
    assert kept.engine.model.store.constant
    agree(without, kept)
    changed = [n for n, t in kept.state.shared.items() if not torch.equal(t, kept.engine.model.start[n])]
    assert any(n.startswith("encoder") for n in changed)
