"""Clients' personal models in one batch give the figures that they give one after another."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fedloom.core.activity import told_to
from fedloom.core.streams import torch_stream
from fedloom.federation.loop import Federation
from fedloom.methods import METHODS
from fedloom.methods.base.clip import CLIPMethod
from fedloom.models.base import PROMPT_STATES, Trainable
from fedloom.models.clip.trainable import PictureExample
from fedloom.models.feature_cache import FeatureCache
from fedloom.models.training.settings import Training
from fedloom.tasks import personal_batches
from fedloom.tasks.class_answers import ClassTests
from fedloom.tasks.evaluation import Assessment, Evaluation, TestSet, assess
from fedloom.tasks.image_classification import ClassEvaluator, assess_classes
from fedloom.tasks.personal_batches import ClientModel, loaded, packs

MIXED = {"clients": {"image": 2, "audio": 1, "both": 1}, "train": 4, "test": 4}
TEXT = {"source": "text", "clients": {"text": 4}, "train": 8, "test": 4, "task": "same", "dirichlet": None}
ON_CLIP = sorted(n for n, m in METHODS.items() if issubclass(m, CLIPMethod) and n != "zero-shot")


def ragged(federation: Federation) -> dict[str, list[Any]]:
    """Each client's test samples, one fewer from client to client, at least one."""
    tests = federation.evaluator.tests
    names = sorted(set(tests.of))
    return {c: list(tests.only(c).samples)[: max(1, 4 - i)] for i, c in enumerate(names)}


def in_double(federation: Federation) -> Trainable:
    model = federation.engine.model
    model.root.double()
    model.start = {n: t.double() for n, t in model.start.items()}
    return model


def drawn(model: Trainable, clients: Sequence[str], names: Sequence[str] = ()) -> dict[str, ClientModel]:
    """Personal models far from each other, so that another client's tensors would show in every figure."""
    own = {}
    for client in clients:
        streams = {n: torch_stream(0, "own", client, n) for n in names or model.tensors}
        moved = {
            n: model.start[n] + 0.3 * torch.randn(model.start[n].shape, generator=s).to(model.start[n])
            for n, s in streams.items()
        }
        own[client] = ClientModel(moved)
    return own


def measured(
    federation: Federation,
    parts: Mapping[str, Sequence[Any]],
    own: Mapping[str, ClientModel],
    cohort: int,
    **settings: Any,
) -> Assessment:
    model, evaluator = federation.engine.model, federation.evaluator
    chosen = Evaluation(**{"batch_size": 64, "max_new_tokens": 4, **settings})
    if isinstance(evaluator, ClassEvaluator):
        common = {n: t.samples[:2] for n, t in evaluator.sets.common.items()}
        sets = ClassTests.prepare(parts, common, {}, model)
        return assess_classes(model, {}, own, sets.local, sets, chosen, generate=True, cohort=cohort)
    tests = TestSet.prepare(parts, model)
    return assess(model, {}, own, tests, chosen, generate=True, everywhere=False, cohort=cohort)


def agree(one: Assessment, two: Assessment) -> None:
    assert [replace(r, loss=None) for r in one.records] == [replace(r, loss=None) for r in two.records]
    losses = [[r.loss for r in a.records if r.loss is not None] for a in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)
    assert one.metrics == pytest.approx(two.metrics, rel=1e-10)
    assert one.clients.keys() == two.clients.keys()
    assert all(one.clients[c] == pytest.approx(two.clients[c], rel=1e-10) for c in one.clients)
    assert one.common == two.common


class Calls:
    """The number of samples of every forward pass through a method of the model."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, model: Trainable, name: str = "generate") -> None:
        self.sizes: list[int] = []
        original = getattr(model, name)

        def counted(examples: Sequence[Any], *rest: Any) -> Any:
            self.sizes.append(len(examples))
            return original(examples, *rest)

        monkeypatch.setattr(model, name, counted)


@pytest.fixture
def made(quick: Any, federate: Any) -> Callable[..., Federation]:
    """A federation in float64 that has not trained."""

    def make(method: Any, **settings: Any) -> Federation:
        federation = federate(quick(method, **settings))
        in_double(federation)
        return federation

    return make


@pytest.mark.parametrize(
    ("method", "settings", "names"),
    [
        ("fedsa-lora", {"data": MIXED}, "llm"),
        ("fedsa-lora", {"data": MIXED}, ""),
        ("fedsa-lora", {"data": MIXED, "model": {"llm_lora": {"kind": "vera", "rank": 16}}}, "llm"),
        ("feddpa-lora", {"data": MIXED}, "llm"),
        ("fedsa-lora", {"data": TEXT, "model": {}}, ""),
        ("feddpa-lora", {"data": TEXT, "model": {}}, ""),
        *((name, {"data": {"clients": {"image": 4}}}, "") for name in ON_CLIP),
    ],
    ids=["llm", "mllm", "vera", "second", "text", "text-second", *ON_CLIP],
)
def test_together_as_one_after_another(method, settings, names, made, monkeypatch) -> None:
    federation = made(method, **settings)
    model, parts = federation.engine.model, ragged(federation)
    own = drawn(model, sorted(parts), [n for n in model.tensors if n.startswith(names)])
    calls = Calls(monkeypatch, model)
    alone = measured(federation, parts, own, 1, loss=True)
    assert len(calls.sizes) == len(parts) == 4
    together = measured(federation, parts, own, 4, loss=True)
    assert len(calls.sizes) == 5, "one batch for all"
    assert calls.sizes[-1] == sum(calls.sizes[:-1])
    agree(alone, together)
    three = measured(federation, parts, own, 3, loss=True)
    assert len(calls.sizes) == 7
    agree(alone, three)
    if not isinstance(federation.evaluator, ClassEvaluator):  # see the next test
        other = measured(federation, parts, swapped(own), 4, loss=True)
        assert other.records != together.records, "the models differ, so that a mistaken owner would show"
    assert not model.owners
    assert [r.client for r in together.records] == [c for c in sorted(parts) for _ in parts[c]]


@pytest.mark.parametrize("method", ON_CLIP)
def test_every_picture_has_the_logits_of_its_own_clients_model(method, made, monkeypatch) -> None:
    federation = made(method, data={"clients": {"image": 4}})
    model, parts = federation.engine.model, ragged(federation)
    own = drawn(model, sorted(parts))
    original, rows = model.logits, []

    def kept(examples: Sequence[Any], features: Any, kind: str) -> Tensor:
        logits: Tensor = original(examples, features, kind)
        rows.extend((kind, *row) for row in logits.tolist())
        return logits

    monkeypatch.setattr(model, "logits", kept)

    def found(own: Mapping[str, ClientModel], cohort: int) -> list[float]:
        rows.clear()
        measured(federation, parts, own, cohort)
        return [x for row in sorted(rows) for x in row[1:]]

    alone = found(own, 1)
    assert found(own, 4) == pytest.approx(alone, rel=1e-10)
    assert found(swapped(own), 4) != pytest.approx(alone, rel=1e-6)


def swapped(own: Mapping[str, ClientModel]) -> dict[str, ClientModel]:
    """The same models, each another client's."""
    names = sorted(own)
    return {client: own[other] for client, other in zip(names, [*names[1:], names[0]], strict=True)}


def test_in_float32_losses_agree_to_rounding(quick, federate) -> None:
    federation = federate(quick("fedsa-lora", data=MIXED))
    parts = ragged(federation)
    own = drawn(federation.engine.model, sorted(parts))
    one, two = (measured(federation, parts, own, k, loss=True).records for k in (1, 4))
    assert [r.loss for r in one] == pytest.approx([r.loss for r in two], rel=1e-5)


def test_a_run_takes_the_engines_cohort_and_says_whose_models_are_evaluated(
    quick, federate, monkeypatch
) -> None:
    def run(cohort: Any) -> tuple[list[int], list[str], Federation]:
        settings = {"engine": {"cohort": cohort}, "data": {**MIXED, "test": 2}, "rounds": 1}
        federation = federate(quick({"name": "fedsa-lora", "unseen": "mean_b"}, **settings))
        calls = Calls(monkeypatch, federation.engine.model, "score")
        told: list[str] = []
        with told_to(told.append):
            federation.run()
        return calls.sizes, [t for t in told if t.startswith("round 1/1, ") and " of 4)" in t], federation

    sizes, told, alone = run("off")
    n = sum(sizes[-4:])
    assert len(told) == 4
    assert "both-01 (2 of 4)" in told[1]
    sizes, told, together = run(4)
    assert sizes[-1] == n
    assert told == [f"round 1/1, audio-01 to image-02 (1 to 4 of 4), evaluating, 0 of {n} samples"]
    assert together.last_metrics == pytest.approx(alone.last_metrics, abs=1e-3)
    _, told, _ = run(3)
    assert [t.split(", ")[1] for t in told] == ["audio-01 to image-01 (1 to 3 of 4)", "image-02 (4 of 4)"]


def test_packs_hold_a_batch_and_no_more_than_a_cohort(made) -> None:
    federation = made("fedsa-lora", data=TEXT, model={})
    model = federation.engine.model
    counts = {"a": 3, "b": 5, "c": 1, "d": 8, "e": 0, "f": 2, "g": 2}
    own = drawn(model, sorted(counts))

    def cut(cohort: int, **others: ClientModel) -> list[str]:
        found = packs(
            model, {**own, **others}, sorted(counts), counts.__getitem__, batch_size=8, cohort=cohort
        )
        return ["".join(pack.clients) for pack in found]

    assert cut(4) == ["ab", "c", "d", "e", "fg"], "a full batch is its own client's, and so is an empty one"
    assert cut(1) == list("abcdefg")
    name = next(n for n in model.start if n.endswith("lora_B"))
    place = name.removesuffix(".lora_B")
    base = {f"{place}.merged_A": torch.ones(1, 4), f"{place}.merged_B": torch.ones(4, 1)}
    for different in (
        ClientModel(own["b"].tensors, {"body": 0.5}),
        ClientModel({**own["b"].tensors, **base}),
        ClientModel({**own["b"].tensors, PROMPT_STATES: torch.ones(1, 4)}),
        ClientModel({**own["b"].tensors, f"{place}.local_A": torch.ones(1, 4)}),
    ):
        assert cut(4, b=different)[:2] == ["a", "b"]
    assert cut(4, b=ClientModel(own["b"].tensors, {"body": 1.0}))[0] == "ab"
    assert (
        cut(4, a=ClientModel({**own["a"].tensors, **base}), b=ClientModel({**own["b"].tensors, **base}))[0]
        == "ab"
    )


def test_a_client_that_fills_a_batch_has_the_same_bits_as_alone(quick, federate, monkeypatch) -> None:
    federation = federate(quick("fedsa-lora", data=TEXT, model={}))
    model, parts = federation.engine.model, ragged(federation)
    own = drawn(model, sorted(parts))
    calls = Calls(monkeypatch, model)
    one, two = (measured(federation, parts, own, k, loss=True, batch_size=4) for k in (1, 4))
    assert calls.sizes == [4, 3, 2, 1, 4, 3, 3], "4 alone, 3 with nobody, 2 and 1 together"
    assert one.records[:7] == two.records[:7]


@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_unequal_ranks(ratio, made, monkeypatch) -> None:
    federation = made("fedsa-lora", data=MIXED)
    model, parts = federation.engine.model, ragged(federation)
    own: dict[str, ClientModel] = {}
    for i, (client, full) in enumerate(drawn(model, sorted(parts)).items()):
        rank = 2 if i in (1, 2) else None
        tensors = {n: narrow(n, t, rank) for n, t in full.tensors.items()}
        own[client] = ClientModel(tensors, {"llm": ratio} if rank else {})
    calls = Calls(monkeypatch, model)
    alone = measured(federation, parts, own, 1, loss=True)
    together = measured(federation, parts, own, 4, loss=True)
    assert len(calls.sizes) - 4 == (1 if ratio == 1 else 3), (
        "narrow ones are padded, other scales go on their own"
    )
    agree(alone, together)


def narrow(name: str, tensor: Tensor, rank: int | None) -> Tensor:
    if name.endswith("lora_A"):
        return tensor[:rank]
    return tensor[:, :rank] if name.endswith("lora_B") else tensor


@pytest.mark.parametrize("reason", ["model", "module"])
def test_a_model_that_cannot_be_stacked_stays_alone(reason, made, monkeypatch) -> None:
    federation = made("fedsa-lora", data=TEXT, model={})
    model, parts = federation.engine.model, ragged(federation)
    if reason == "model":
        model.stackable = False
    else:

        def refuse(model: Any, names: Any) -> None:
            raise TypeError

        monkeypatch.setattr(personal_batches, "plain_layers", refuse)
    own = drawn(model, sorted(parts))
    calls = Calls(monkeypatch, model)
    agree(measured(federation, parts, own, 1), measured(federation, parts, own, 4))
    assert len(calls.sizes) == 8


def test_what_fails_in_a_pack_is_measured_one_client_at_a_time(made, monkeypatch) -> None:
    federation = made("fedsa-lora", data=TEXT, model={})
    model, parts = federation.engine.model, ragged(federation)
    own = drawn(model, sorted(parts))
    alone, score = measured(federation, parts, own, 1), model.score

    def fails(examples: Sequence[Any], *rest: Any) -> Any:
        if len(examples) > 4:
            raise RuntimeError("too many rows")
        return score(examples, *rest)

    monkeypatch.setattr(model, "score", fails)
    agree(alone, measured(federation, parts, own, 4))
    assert any("one after another: together it raised RuntimeError: too many rows" in n for n in model.notes)
    noted = list(model.notes)
    measured(federation, parts, own, 4)
    assert model.notes == noted, "said once"
    monkeypatch.setattr(model, "score", lambda examples, *rest: fails([*examples] * 5))
    with pytest.raises(RuntimeError, match="too many rows"):
        measured(federation, parts, own, 4)
    assert not model.owners


def test_ranking_and_everybodys_samples_are_measured_one_model_at_a_time(made, monkeypatch) -> None:
    federation = made("fedsa-lora", data=MIXED)
    model, parts = federation.engine.model, ragged(federation)
    own = drawn(model, sorted(parts))
    calls = Calls(monkeypatch, model)
    agree(*(measured(federation, parts, own, k, ranking=2, loss=True) for k in (1, 4)))
    assert len(calls.sizes) == 8
    tests = TestSet.prepare(parts, model)
    settings = Evaluation(max_new_tokens=2)
    agree(
        *(assess(model, {}, own, tests, settings, generate=True, everywhere=True, cohort=k) for k in (1, 4))
    )
    assert calls.sizes[8:] == [len(tests.of)] * 8


def test_features_of_a_stack_are_not_kept_and_those_below_it_are(made) -> None:
    federation = made("fedsa-lora", data=MIXED)
    model, parts = federation.engine.model, ragged(federation)
    samples = sum(map(len, parts.values()))
    everything = drawn(model, sorted(parts))
    model.store = store = FeatureCache(10**9)
    agree(measured(federation, parts, everything, 1), measured(federation, parts, everything, 4))
    assert model.store is store
    assert store.made == samples, "one after another alone"
    model.store = store = FeatureCache(10**9, constant=True)
    above = drawn(model, sorted(parts), [n for n in model.tensors if n.startswith("llm")])
    together = measured(federation, parts, above, 4)
    assert store.made == samples
    agree(measured(federation, parts, above, 1), together)
    assert store.made == samples, "the same features"


def test_a_trained_personal_model_is_the_one_that_is_evaluated(quick, federate) -> None:
    """Packs hold what `personal_models` gives lazily, and training goes on as before."""
    ends = []
    for cohort in ("off", 4):
        training = Training(batch_size=4).model_dump(exclude_unset=True)
        settings = {"engine": {"cohort": cohort}, "data": MIXED, "training": training, "rounds": 2}
        federation = federate(quick("fedsa-lora", **settings))
        model = in_double(federation)
        federation = replace(federation)
        federation.run()
        own = federation.personal_models()
        ends.append(
            measured(
                federation, ragged(federation), own, federation.experiment.engine.cohort_limit, loss=True
            )
        )
        assert not any(p.requires_grad for p in model.tensors.values())
    agree(*ends)


def test_class_texts_of_a_stack_are_read_anew(made) -> None:
    model = made("promptfl", data={"clients": {"image": 2}}).engine.model
    own = drawn(model, ["a", "b"])
    examples = [
        PictureExample(str(i), torch.full((3, 16, 16), 90 * i, dtype=torch.uint8), 0, "base") for i in (1, 2)
    ]
    [pack] = packs(model, own, ["a", "b"], lambda client: 1, batch_size=2, cohort=2)
    with torch.no_grad():
        with loaded(model, pack):
            together = model.logits(examples, None, "base")
        for client, row in (("a", 0), ("b", 1)):
            if client == "b":
                model.load(own["b"].tensors)
            alone = model.logits(examples, None, "base")[row]
            torch.testing.assert_close(alone, together[row], rtol=1e-10, atol=1e-10)
