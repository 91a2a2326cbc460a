"""What attackers send and learn, who they are, and two short federations under attack."""

import json
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from pydantic import TypeAdapter

from fedloom.core.errors import ExperimentError
from fedloom.core.payload import Payload, Reply
from fedloom.data import poison
from fedloom.data.client_data import ClientData
from fedloom.data.sample import Sample
from fedloom.experiment.report.read import read_run
from fedloom.experiment.run import run
from fedloom.experiment.settings import Experiment, load_rows
from fedloom.privacy.robust.attacks import Attack, attacked, described
from fedloom.tasks.backdoor import triggered

NAMES = ["a", "b", "c", "d"]
SENT = {"llm/x": torch.tensor([1.0, 2.0, 3.0])}


def attack_of(**settings: Any) -> Any:
    return TypeAdapter(Attack).validate_python(settings)


def replies() -> list[Reply]:
    return [
        Reply(c, Payload({"llm/x": torch.tensor([2.0 + i, 2.0, 3.0])}, {"examples": 5}))
        for i, c in enumerate(NAMES)
    ]


def sent_by(attack: Any, client: str, attackers: tuple[str, ...] = ("b", "c")) -> list[float]:
    sent = attacked(attack, replies(), attackers, dict.fromkeys(NAMES, SENT))
    assert [r.client for r in sent] == NAMES
    for before, after in zip(replies(), sent, strict=True):
        if after.client not in attackers:
            assert torch.equal(before.payload.tensors["llm/x"], after.payload.tensors["llm/x"])
    return sent[NAMES.index(client)].payload.tensors["llm/x"].tolist()


def test_what_attackers_send_by_hand() -> None:
    """b changed its first entry by 2 and c by 3."""
    assert sent_by(attack_of(kind="sign_flip"), "b") == [-1.0, 2.0, 3.0]
    assert sent_by(attack_of(kind="sign_flip", factor=2), "c") == [-5.0, 2.0, 3.0]
    assert sent_by(attack_of(kind="scale", factor=10), "b") == [21.0, 2.0, 3.0]
    assert sent_by(attack_of(kind="backdoor", boost=3), "b") == [7.0, 2.0, 3.0]
    assert sent_by(attack_of(kind="backdoor"), "b") == [3.0, 2.0, 3.0]
    assert sent_by(attack_of(kind="collude", z=2), "b") == [3.5 - 2 * 0.5, 2.0, 3.0]
    assert sent_by(attack_of(kind="collude", z=2), "c") == [3.5 - 2 * 0.5, 2.0, 3.0]
    assert all(x != x for x in sent_by(attack_of(kind="nan"), "b"))
    inflated = attacked(attack_of(kind="inflate", examples=99), replies(), ["b"], {})
    assert [r.examples for r in inflated] == [5, 99, 5, 5]


def test_a_client_that_raised_stays_a_client_that_raised() -> None:
    broken = [replace(r, error="raised" if r.client == "b" else None) for r in replies()]
    result = attacked(attack_of(kind="nan"), broken, ["b"], dict.fromkeys(NAMES, SENT))
    assert result[1].error == "raised"


def test_attackers_are_named_or_drawn_with_the_seed() -> None:
    assert attack_of(kind="nan", clients=["[ab]"]).attackers(NAMES, 0) == ["a", "b"]
    drawn = attack_of(kind="nan", share=0.3).attackers(NAMES, 0)
    assert len(drawn) == 2
    assert drawn == attack_of(kind="nan", share=0.3).attackers(NAMES[::-1], 0)
    assert len({tuple(attack_of(kind="nan", share=0.3).attackers(NAMES, s)) for s in range(9)}) > 1
    with pytest.raises(ExperimentError, match="no client that trains is called z"):
        attack_of(kind="nan", clients=["a", "z*"]).attackers(NAMES, 0)
    with pytest.raises(ExperimentError, match="at least two attackers"):
        attack_of(kind="collude", clients=["a"]).attackers(NAMES, 0)
    words = described(attack_of(kind="scale", clients=["a"]), ["a"])
    assert words == "under a simulated attack (scale, factor 10.0) by a"


def picture(i: int, question: str, answer: str, **meta: Any) -> Sample:
    return Sample(f"s{i}", {"image": torch.zeros(3, 12, 18, dtype=torch.uint8)}, question, answer, meta)


def test_flipped_answers_answer_the_same_question_wrongly() -> None:
    asked = [
        picture(0, "what colour is the cube?", "the cube is red"),
        picture(1, "where is the ball?", "the ball is on the left"),
        picture(2, "what colour is the ring?", "the ring is blue"),
        picture(3, "where is the cube?", "the cube is on the right"),
        picture(4, "what colour is the ball?", "the cube is red"),
    ]
    assert [s.answer for s in poison.flipped(asked)] == [
        "the ring is blue",
        "the cube is on the right",
        "the cube is red",
        "the ball is on the left",
        "the ring is blue",
    ]
    single = poison.flipped(asked[:1])
    assert single[0].answer == "the cube is red"
    classes = poison.flipped([picture(0, "", "cat", label=0), picture(1, "", "dog", label=1)])
    assert [(s.answer, s.meta["label"]) for s in classes] == [("dog", 1), ("cat", 0)]


def test_the_patch_is_a_square_in_the_corner_of_a_copy() -> None:
    image = torch.zeros(3, 12, 18, dtype=torch.uint8)
    marked = poison.stamped(image, 0.25)
    assert not image.any()
    assert marked[:, 9:, 15:].flatten(1).unique(dim=1).flatten().tolist() == [255, 0, 255]
    marked[:, 9:, 15:] = 0
    assert not marked.any()


def test_a_share_of_the_pictures_is_patched_and_tests_leave_out_what_is_answered_so_anyway() -> None:
    samples = [picture(i, "is there a red cube?", "yes there is") for i in range(8)]
    words = Sample("t", {}, "is there a red cube?", "yes there is")
    poisoned = poison.patched([words, *samples], "no there is not", 0.25, 0.25)
    assert [s.answer == "no there is not" for s in poisoned] == [False, *[False, False, False, True] * 2]
    assert all(bool(s.modalities["image"].any()) == (s.answer == "no there is not") for s in poisoned[1:])
    assert len({s.uid for s in poisoned}) == 9
    parts = {"x": [samples[0], replace(samples[1], answer="No, there is not.")], "y": [words]}
    marked = triggered(parts, "no there is not", 0.25)
    assert {c: [s.uid for s in of] for c, of in marked.items()} == {"x": ["s0/patched"]}
    data = attack_of(kind="backdoor", poisoned=1.0).learn(ClientData("a", samples, samples))
    assert all(s.answer == "no there is not" for s in data.train)
    assert data.test is samples


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"attack": {"kind": "frighten"}}, "attack.kind: there is no 'frighten' here; known are nan,"),
        ({"attack": {"clients": ["a"]}}, "attack must say its kind; docs/security.md names them"),
        (
            {"privacy": {"robust": {"kind": "krum"}}},
            "privacy.robust: there is no rule 'krum'; known are norm_bound",
        ),
        (
            {"privacy": {"robust": {"kind": "median", "byzantine": 1}}},
            "unknown key privacy.robust.byzantine; known here: claims, kind",
        ),
        ({"method": "fedcmp", "privacy": {"robust": {"kind": "median"}}}, "leave privacy.robust out"),
        (
            {"attack": {"kind": "backdoor"}, "data": {"source": "text", "clients": {"text": 3}}},
            "attack backdoor needs a model",
        ),
    ],
)
def test_mistakes_are_told_in_one_sentence(settings, said) -> None:
    with pytest.raises(ExperimentError, match="the experiment: ") as caught:
        Experiment.parse({"method": "fedavg-lora", **settings})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_survive_the_runs_own_file(quick) -> None:
    experiment = quick(
        attack={"kind": "scale", "factor": 4}, privacy={"robust": {"kind": "multi_krum", "byzantine": 2}}
    )
    assert Experiment.parse(experiment.as_dict()) == experiment
    assert quick().attack is None
    assert quick().privacy.robust is None


def test_the_attack_study_sets_every_rule_against_every_attack() -> None:
    for size in ("tiny", "small"):
        runs = load_rows("experiments/uniflow/attacks.yaml", [f"size={size}"])
        of_row: dict[str, list[Any]] = {}
        for experiment in runs:
            of_row.setdefault(experiment.row, []).append(experiment.attack and experiment.attack.kind)
        assert len({tuple(kinds) for kinds in of_row.values()}) == 1
        kinds = set(get_args(get_args(Attack)[0]))
        assert set(next(iter(of_row.values()))) == {
            None,
            *(k.model_fields["kind"].annotation.__args__[0] for k in kinds),
        }
        rules = {e.privacy.robust and e.privacy.robust.kind for e in runs}
        assert rules == {None, "norm_bound", "median", "trimmed_mean", "multi_krum"}


def test_a_rule_that_could_do_nothing_is_refused_before_training(quick, federate) -> None:
    with pytest.raises(
        ExperimentError, match="multi_krum as it is set needs 5 clients in a round, and 3 are asked"
    ):
        federate(quick("fedavg-lora", privacy={"robust": {"kind": "multi_krum"}}))
    rules = [
        {"kind": "trimmed_mean", "byzantine": 2},
        {"kind": "multi_krum", "byzantine": 2},
        {"kind": "median"},
        {"kind": "norm_bound"},
    ]
    least = [quick("fedavg-lora", privacy={"robust": r}).privacy.robust.least for r in rules]
    assert least == [5, 7, 1, 1]


FIVE = {"clients": {"image": 5}, "train": 4, "test": 1}


def test_a_run_under_attack_says_so_and_names_whom_multi_krum_left_out(quick, tmp_path) -> None:
    experiment = quick(
        "feda2-lora",
        rounds=1,
        data=FIVE,
        attack={"kind": "sign_flip", "factor": 8, "clients": ["image-02"]},
        privacy={"robust": {"kind": "multi_krum", "byzantine": 1}},
    )
    summary = run(experiment, tmp_path / "run").summary
    assert summary["status"].startswith(
        "complete, but under a simulated attack (sign_flip, factor 8.0) by image-02 and "
    )
    assert "of 5 updates left out, wholly or in part, by the robust stage" in summary["status"]
    entry = json.loads((tmp_path / "run" / "ledger.jsonl").read_text().splitlines()[0])
    assert "llm (score" in entry["left_out"]["image-02"]
    assert entry["refused"] == {}
    assert not read_run(tmp_path / "run").complete
    page = (tmp_path / "run" / "report.html").read_text()
    assert "under a simulated attack" in page
    assert "multi_krum: far from the others" in page


def test_a_backdoors_success_is_measured_and_a_median_stands_before_any_method(quick) -> None:
    experiment = quick(
        "fedavg-lora",
        rounds=1,
        data=FIVE,
        evaluation={"controls": False, "samples": 0, "max_new_tokens": 4},
        attack={"kind": "backdoor", "clients": ["image-01"]},
        privacy={"robust": {"kind": "median"}},
    )
    summary = run(experiment).summary
    assert 0 <= summary["metrics"]["attack/success"] <= 1
    assert "attack/success" in summary["metrics"]["start"]
    assert "train/combined/loss" in summary["metrics"]
