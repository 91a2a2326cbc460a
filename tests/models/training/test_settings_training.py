from dataclasses import replace

import pytest
import torch

from fedloom.core.errors import ExperimentError
from fedloom.models.training.loop import LocalJob, train_one
from fedloom.models.training.settings import Stage, Training, batches, local_steps, plan

E, L, P = "encoder", "llm", "projector"


def parts(stages: list[Stage]) -> list[tuple[int, set[str]]]:
    return [(s.steps, set(s.parts)) for s in stages]


def test_125_steps_at_a_quarter_are_31_and_94() -> None:
    training = Training(batch_size=16)
    assert local_steps(2000, training) == 125
    assert parts(plan(training, 125, 1, 10, True)) == [(31, {E, P}), (94, {L})]


@pytest.mark.parametrize(
    ("tau", "steps", "expected"),
    [
        (0.0, 10, [(10, {L})]),
        (1.0, 10, [(10, {E, P})]),
        (0.25, 2, [(1, {E, P}), (1, {L})]),  # clamped: both stages take place
        (0.9, 3, [(2, {E, P}), (1, {L})]),
        (0.25, 1, [(1, {E, L, P})]),  # one step trains both stages, so that neither vanishes
        (0.5, 10, [(5, {E, P}), (5, {L})]),
    ],
)
def test_the_stage_switch_goes_by_local_step(
    tau: float, steps: int, expected: list[tuple[int, set[str]]]
) -> None:
    assert parts(plan(Training(tau=tau), steps, 1, 10, True)) == expected


def test_reverse_trains_the_llm_first_with_the_same_shares() -> None:
    assert parts(plan(Training(schedule="reverse"), 8, 1, 10, True)) == [(6, {L}), (2, {E, P})]


def test_the_round_form_touches_one_part_per_round() -> None:
    training = Training(schedule="rounds", rho=0.5)
    got = [parts(plan(training, 4, t, 5, True)) for t in range(1, 6)]
    assert got == [[(4, {E, P})]] * 2 + [[(4, {L})]] * 3


def test_simultaneous_trains_everything_in_every_step() -> None:
    assert parts(plan(Training(schedule="simultaneous"), 4, 1, 5, True)) == [(4, {E, L, P})]


@pytest.mark.parametrize(
    ("when", "first", "second"),
    [("frozen", {E}, {L}), ("stage1", {E, P}, {L}), ("stage2", {E}, {L, P}), ("both", {E, P}, {L, P})],
)
def test_the_projector_belongs_to_the_stage_that_the_option_names(
    when: str, first: set[str], second: set[str]
) -> None:
    assert [s for _, s in parts(plan(Training(projector=when), 8, 1, 1, True))] == [first, second]
    assert (P in parts(plan(Training(projector=when, schedule="simultaneous"), 8, 1, 1, True))[0][1]) == (
        when != "frozen"
    )


def test_a_text_only_client_trains_the_llm_in_all_steps_or_idles_in_the_encoder_stage() -> None:
    assert parts(plan(Training(), 8, 1, 1, False)) == [(8, {L})]
    assert parts(plan(Training(text_only="idle"), 8, 1, 1, False)) == [(6, {L})]
    assert parts(plan(Training(text_only="idle", schedule="rounds"), 8, 1, 4, False)) == []


def test_every_sample_comes_once_an_epoch_in_another_order_each_time() -> None:
    training = Training(batch_size=4, epochs=2)
    got = list(batches(10, training, 0, "a", 1))
    assert [len(b) for b in got] == [4, 4, 2, 4, 4, 2]
    first, second = [i for b in got[:3] for i in b], [i for b in got[3:] for i in b]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert got == list(batches(10, training, 0, "a", 1))
    assert got != list(batches(10, training, 0, "b", 1))
    assert got != list(batches(10, training, 0, "a", 2))


def test_the_rate_falls_over_the_rounds_and_never_reaches_zero() -> None:
    rates = [Training(lr=1.0).rate(t, 4) for t in (1, 2, 3, 4)]
    assert rates == pytest.approx([1.0, 0.853553, 0.5, 0.146447], abs=1e-6)
    assert Training(lr=1.0, lr_schedule="constant").rate(4, 4) == 1.0


def test_a_group_may_have_a_rate_of_its_own_that_follows_the_schedule() -> None:
    training = Training(lr=1.0, rates={"head": 0.1}, lr_schedule="run_constant", warmup=0.25)
    steps = [(t, s) for t in (1, 2) for s in range(4)]  # u = 0, 1/8, ... of two rounds of four steps
    assert [training.rate(t, 2, s, 4, "body") for t, s in steps] == pytest.approx([0, 0.5, *[1.0] * 6])
    assert [training.rate(t, 2, s, 4, "head") for t, s in steps] == pytest.approx([0, 0.05, *[0.1] * 6])
    falling = Training(lr=1.0, rates={"head": 0.1})
    assert falling.rate(3, 4, group="head") == pytest.approx(0.1 * falling.rate(3, 4))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_small_rate_of_the_head_moves_it_little(optimizer, quick, federate) -> None:
    text = {"source": "text", "clients": {"text": 2}, "train": 8, "test": 2, "task": "entailment"}
    moved = {}
    for name, rates in {"one": {}, "two": {"head": 1e-9}}.items():
        training = {"batch_size": 4, "lr": 0.01, "optimizer": optimizer, "rates": rates}
        federation = federate(quick("fedavg-lora", data=text, model={}, rounds=1, training=training))
        before = dict(federation.state.shared)
        federation.run()
        after = federation.state.shared
        moved[name] = {
            group: max(float((after[n] - t).abs().max()) for n, t in before.items() if n.startswith(group))
            for group in ("body", "head")
        }
    assert moved["one"]["head"] > 1e-5 > moved["two"]["head"] >= 0
    assert moved["two"]["body"] > 1e-7


def test_a_rate_of_a_group_that_is_not_trained_is_refused(quick, federate) -> None:
    with pytest.raises(ExperimentError, match=r"training\.rates: no group heads is trained; the trained"):
        federate(quick("fedavg-lora", training={"rates": {"heads": 0.1}}))


def test_training_leaves_the_global_random_state_alone(quick, federate) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    federate(quick("feda2-lora", model={"llm_lora": {"rank": 4, "dropout": 0.3}})).run()
    assert torch.equal(torch.rand(3), expected)


def test_a_fixed_number_of_steps_runs_on_through_the_epochs() -> None:
    training = Training(batch_size=4, steps=2)
    assert local_steps(10, training) == 2
    rounds = [list(batches(10, training, 0, "a", t)) for t in range(1, 7)]  # an epoch is three batches
    assert [len(r) for r in rounds] == [2] * 6
    flat = [b for r in rounds for b in r]
    for epoch in range(4):
        assert sorted(i for b in flat[3 * epoch : 3 * epoch + 3] for i in b) == list(range(10))
    assert flat[:3] != flat[3:6]
    many = Training(batch_size=4, steps=7)
    assert list(batches(10, many, 0, "a", 1)) == flat[:7]


def job(*names: str, **settings: object) -> LocalJob:
    return LocalJob("a", [0] * 8, {}, frozenset(names), Training(batch_size=2, **settings), 0, 1, 1, {})


def test_a_projector_behind_a_frozen_encoder_is_trained_in_its_stage() -> None:
    assert parts(job("projector/weight", "llm/x.lora_A").stages()) == [(1, {E, P}), (3, {L})]
    assert job("projector/weight").names_in(frozenset({E, P})) == {"projector/weight"}
    assert parts(job("projector/weight", "llm/x.lora_A", projector="frozen").stages()) == [(4, {L})]
    assert parts(job("llm/x.lora_A").stages()) == [(4, {L})]


class Line:
    """A model that trains what a stage names, and notes each batch with it."""

    has_features = False

    def __init__(self, *names: str) -> None:
        self.tensors = {n: torch.nn.Parameter(torch.ones(2)) for n in names}
        self.seen: list[tuple[str, list[int]]] = []

    def load(self, start: object, ratios: object) -> None: ...
    def mix(self, local: object) -> None: ...
    def rest(self) -> None: ...

    def begin(self, names: frozenset[str]) -> list[torch.nn.Parameter]:
        for name, parameter in self.tensors.items():
            parameter.requires_grad_(name in names)
        return [p for p in self.tensors.values() if p.requires_grad]

    def weight(self, example: int) -> int:
        return 1

    def loss(self, examples: list[int], features: object) -> torch.Tensor:
        (name,) = (n for n, p in self.tensors.items() if p.requires_grad)
        self.seen.append((name, list(examples)))
        return self.tensors[name].sum()


def test_of_two_epochs_the_first_quarter_of_all_steps_is_stage_one_and_the_data_go_on() -> None:
    """S = E ceil(n / batch) = 8: the boundary lies within the first epoch, and no sample comes again for it."""
    names = ("projector/weight", "llm/x.lora_A")
    work = replace(job(*names, epochs=2), examples=list(range(8)))
    assert parts(work.stages()) == [(2, {E, P}), (6, {L})]
    model = Line(*names)
    assert train_one(model, work).steps == 8
    assert [name for name, _ in model.seen] == [names[0]] * 2 + [names[1]] * 6
    order = [i for _, batch in model.seen for i in batch]
    assert order == [i for batch in batches(8, work.training, 0, "a", 1) for i in batch]
    assert sorted(order[:8]) == sorted(order[8:]) == list(range(8))
    assert order[:8] != order[8:]
    assert parts(replace(work, examples=list(range(7))).stages()) == [(2, {E, P}), (6, {L})]  # 4 + 4 batches
