"""A batch in parts has the gradients of the whole batch, whatever its answers' lengths."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from fedloom.core.errors import ExperimentError
from fedloom.core.payload import group_of
from fedloom.data.sample import Medium, Turn
from fedloom.experiment.settings import Experiment
from fedloom.models.training.settings import micro_batches
from tests.models.training.one_step import agree, as_dtype, ended, jobs_of

TEXT = {"source": "text", "clients": {"text": 2}, "train": 12, "test": 2, "task": "entailment"}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "mllm": ("feda2-lora", {"data": {"clients": {"image": 1, "both": 1, "audio": 1}, "train": 8, "test": 1}}),
    "classifier": ("fedavg-lora", {"data": TEXT, "model": {}}),
    "clip": ("fedpgp", {"data": {"clients": {"image": 2}}}),  # with a term for each client beside the mean
}


@pytest.mark.parametrize("together", [False, True], ids=["alone", "cohort"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "single"])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_the_whole_batch(name, dtype, together, quick, federate) -> None:
    method, settings = MODELS[name]
    federation = federate(quick(method, **settings))
    model = federation.engine.model
    examples = [client.examples(model)[:7] for client in federation.clients.values()]
    as_dtype(model, dtype)
    for module in model.root.modules():  # masks are drawn for each part, and would differ
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    if name == "mllm":
        assert len({model.weight(e) for e in examples[0]}) > 1, "answers of one length would show nothing"
    whole, parts = (
        ended(
            model,
            jobs_of(model, examples, batch_size=4, accumulate=n, prox=0.3, clip=0.1, weight_decay=0.01),
            together=together,
        )
        for n in (1, 3)
    )
    agree(whole, parts, 1e-10 if dtype == torch.float64 else 1e-5)
    assert all(o.steps == (2 if len(e) == 7 else o.steps) for o, e in zip(parts, examples, strict=True))


def test_earlier_answers_of_conversations_count(quick, federate) -> None:
    federation = federate(quick(data={"clients": {"image": 2}, "train": 6, "test": 1}))
    model = federation.engine.model
    examples = []
    for client in federation.clients.values():
        samples = list(client.data.train)
        for k, sample in enumerate(samples[::2]):
            asked = Turn("user", (Medium("image", "image"), sample.question))
            said = Turn("assistant", ("the red cube " * (k + 1),))
            last = (Turn("user", ("and where is it?",)), Turn("assistant", (sample.answer,)))
            samples[2 * k] = replace(sample, turns=(asked, said, *last))
        examples.append([model.prepare(sample) for sample in samples])
    assert len({model.weight(e) - len(e.pieces.answer) for e in examples[0]}) > 2
    as_dtype(model, torch.float64)
    for together in (False, True):
        whole, parts = (
            ended(model, jobs_of(model, examples, batch_size=6, accumulate=n), together=together)
            for n in (1, 3)
        )
        agree(whole, parts, 1e-10)


def test_clients_of_unequal_size_in_parts(quick, federate) -> None:
    """One client's last batch has fewer samples than parts, and another one has left by then."""
    federation = federate(quick(data={"clients": {"image": 3}, "train": 7, "test": 1}))
    model = federation.engine.model
    examples = [c.examples(model)[:n] for c, n in zip(federation.clients.values(), (7, 4, 5), strict=True)]
    as_dtype(model, torch.float64)
    whole = ended(model, jobs_of(model, examples, batch_size=4), together=True)
    parts = ended(model, jobs_of(model, examples, batch_size=4, accumulate=4), together=True)
    alone = ended(model, jobs_of(model, examples, batch_size=4, accumulate=4), together=False)
    agree(whole, parts, 1e-10)
    agree(alone, parts, 1e-10)


def test_parts_hold_a_batch_once_and_in_order() -> None:
    assert micro_batches([5, 3, 8, 1, 9], 2) == [[5, 3], [8, 1, 9]]
    assert micro_batches([5, 3], 4) == [[5], [3]]
    assert micro_batches([5, 3, 8], 1) == [[5, 3, 8]]


def test_more_parts_than_samples_are_refused() -> None:
    with pytest.raises(ExperimentError, match=r"accumulate 5 is above batch_size 4, .* at most 4 is right"):
        Experiment.parse({"method": "fedavg-lora", "training": {"batch_size": 4, "accumulate": 5}})


def test_own_models_train_in_parts_too(quick, federate) -> None:
    federation = federate(quick("fedmd"))
    model, client = federation.engine.model, next(iter(federation.clients.values()))
    examples = client.examples(model)[:6]
    as_dtype(model, torch.float64)
    own = frozenset(n for n in model.tensors if group_of(n) in client.groups)
    whole, parts = (
        ended(
            model,
            [replace(j, names=own) for j in jobs_of(model, [examples], batch_size=3, accumulate=n)],
            together=False,
        )
        for n in (1, 2)
    )
    agree(whole, parts, 1e-10)
