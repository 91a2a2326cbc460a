"""Clients' personal native models answer in one batch as they answer one after another."""

import pytest
import torch

from fedloom.tasks.evaluation import Evaluation, TestSet, assess
from fedloom.tasks.personal_batches import ClientModel
from tests.models.native.conftest import modalities_of
from tests.models.native.test_families import samples, stirred
from tests.models.native.tiny_families import FAMILIES


@pytest.mark.parametrize("name", [n for n in FAMILIES if n != "gemma4"])
def test_personal_models_answer_together_as_alone(name, native) -> None:
    model = native(name)
    model.root.double()
    model.precision = torch.float64
    model.start = {n: t.double() for n, t in model.start.items()}
    parts = {f"c{k}": samples(modalities_of(name) if k else [], k, 3 - k) for k in range(3)}
    own = {c: ClientModel({n: 4 * t for n, t in stirred(model, k).items()}) for k, c in enumerate(parts)}
    tests, settings = TestSet.prepare(parts, model), Evaluation(max_new_tokens=3, loss=True)
    sizes = []
    original = model.generate
    model.generate = lambda examples, *rest: sizes.append(len(examples)) or original(examples, *rest)
    alone, together = (
        assess(model, {}, own, tests, settings, generate=True, everywhere=False, cohort=k).records
        for k in (1, 3)
    )
    assert sizes == [3, 2, 1, 6]
    for one, two in zip(alone, together, strict=True):
        assert (one.uid, one.prediction, one.correct) == (two.uid, two.prediction, two.correct)
        assert one.loss == pytest.approx(two.loss, rel=1e-9)
