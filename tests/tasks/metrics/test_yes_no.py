"""Figures of POPE, MME and MMBench by hand."""

import pytest

from fedloom.tasks.metrics.yes_no import letter, mme, said, yes_no


def test_the_first_yes_or_no_counts() -> None:
    answers = [
        "Yes, there is.",
        "no there is not",
        "There is not a dog",
        "a dog",
        "nobody knows",
        "yesterday",
    ]
    assert [said(a) for a in answers] == ["yes", "no", "no", None, None, None]


def test_pope_by_hand() -> None:
    found = yes_no(["yes", "yes", "no", "what?", "yes"], ["yes", "no", "no", "yes", "yes"])
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["f1"] == pytest.approx(2 / 3)
    assert found["yes_rate"] == pytest.approx(3 / 5)
    assert found["unanswered"] == pytest.approx(1 / 5)


def test_a_figure_without_cases_is_left_out() -> None:
    assert yes_no(["no"], ["no"]) == {"accuracy": 1, "yes_rate": 0, "unanswered": 0}
    assert yes_no(["no"], ["yes"]) == {"accuracy": 0, "recall": 0, "f1": 0, "yes_rate": 0, "unanswered": 0}
    assert set(yes_no(["yes"], ["no"])) == {"accuracy", "precision", "yes_rate", "unanswered"}
    assert yes_no([], []) == mme([], [], [], []) == {}


def test_mme_adds_pairs_that_are_both_right() -> None:
    answers = ["yes", "no", "yes", "yes", "no"]
    truths = ["yes", "no", "yes", "no", "no"]
    found = mme(answers, truths, ["a", "a", "b", "b", "c"], ["count", "count", "count", "count", "scene"])
    assert found == {"score/count": 75 + 50, "score/scene": 200, "score": 325}


def test_letters() -> None:
    choices = {"A": "a red cube", "B": "a ball", "C": "a cone"}
    answers = ["B", "(C)", "A. a red cube", "It is a ball.", "D", "Both a ball and a cone", ""]
    assert [letter(a, choices) for a in answers] == ["B", "C", "A", "B", None, None, None]
