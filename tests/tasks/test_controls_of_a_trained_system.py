"""A gain must not come from the text alone: the trained system against itself with other inputs (uniflow 13, test 11)."""

from fedloom.tasks.evaluation import TestSet
from fedloom.tasks.question_answering import control


def test_the_trained_system_beats_itself_with_shuffled_removed_and_zeroed_pictures(quick, federate) -> None:
    data = {"clients": {"image": 2}, "train": 24, "test": 40}
    federation = federate(quick("feda2-lora", data=data, rounds=2))
    federation.run()
    model = federation.engine.model
    model.load(federation.global_model())
    tests = TestSet.prepare({c.name: c.data.test for c in federation.clients.values()}, model)

    def accuracy(part: TestSet) -> float:
        """The share of answers that are right word for word."""
        scores = model.score(list(part.examples))
        return sum(right == tokens for tokens, right in scores) / len(scores)

    seeing = accuracy(tests)
    for how in ("shuffled", "removed", "zeroed"):
        blind = accuracy(control(tests, "image", how, model))
        assert seeing > blind + 0.05, how
