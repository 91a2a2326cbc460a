"""Test sets of image classification, and the answers of clients' models to them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from fedloom.core.activity import stage, tell
from fedloom.data.sample import Sample
from fedloom.models.base import Trainable
from fedloom.models.loading.examples import follow, part_of, taken
from fedloom.models.loading.prepared import prepared
from fedloom.tasks.evaluation import Evaluation, TestSet
from fedloom.tasks.personal_batches import ClientModel, packs, with_pack

PICTURES = ("test pictures",)
"""Owner of the test pictures' features in the cache; a tuple, which no client's name is."""


@dataclass(frozen=True)
class ClassTests:
    """All test sets; their places are those of their examples among the distinct ones.

    `local`: the clients' own test samples. `common`: sets for every client's model, by name. `own_classes`: the local test
    samples again, scored over their client's classes only; None if all clients are scored over all classes. `domains`: the
    domain of each single-domain client.
    """

    local: TestSet
    common: Mapping[str, TestSet]
    own_classes: TestSet | None
    domains: Mapping[str, str]
    pictures: Sequence[Any]
    """The distinct examples of all sets; those from files are read as they are used."""

    @classmethod
    def prepare(
        cls,
        tested: Mapping[str, Sequence[Sample]],
        common: Mapping[str, Sequence[Sample]],
        domains: Mapping[str, str],
        model: Trainable,
    ) -> "ClassTests":
        """Prepare the sets; a picture in a common set and in a client's test samples becomes one example."""
        pairs = [(client, s) for client in sorted(tested) for s in tested[client]]
        of, local = [client for client, _ in pairs], [s for _, s in pairs]
        restricted = [replace(s, meta={**s.meta, "allowed": s.meta["own"]}) for s in local if "own" in s.meta]
        distinct = [*local, *restricted]
        place_of = {_key(s): i for i, s in enumerate(local)}
        for s in (s for samples in common.values() for s in samples):
            if _key(s) not in place_of:
                place_of[_key(s)] = len(distinct)
                distinct.append(s)
        pictures = prepared(model, distinct, PICTURES)

        def placed(of: Sequence[str], samples: Sequence[Sample], places: Sequence[int]) -> TestSet:
            return TestSet(of, samples, part_of(pictures, places), places, pictures)

        return cls(
            placed(of, local, range(len(local))),
            {n: placed([n] * len(own), own, [place_of[_key(s)] for s in own]) for n, own in common.items()},
            placed(of, restricted, range(len(local), len(local) + len(restricted))) if restricted else None,
            domains,
            pictures,
        )

    def features(self, model: Trainable, examples: Sequence[Any], places: Sequence[int]) -> Sequence[Any]:
        """The frozen encoder's features of the examples at these places, cached across clients' models and rounds."""
        if not model.store.on:
            return model.features(examples)
        return model.kept_features(model.feature_version(), PICTURES, places, self.pictures)


def _key(sample: Sample) -> tuple[str, str]:
    return sample.uid, sample.meta["classes"]


def by_model(
    model: Trainable,
    common: Mapping[str, Tensor],
    own: Mapping[str, ClientModel],
    tests: TestSet,
    sets: ClassTests,
    settings: Evaluation,
    cohort: int,
) -> Iterator[tuple[Sequence[str], Mapping[int, str]]]:
    """The clients of each model with its answers (see `answered_by`): first those that share the common one."""

    def wanted(group: Sequence[str]) -> list[TestSet]:
        restricted = [] if sets.own_classes is None else [sets.own_classes.part(group)]
        return [*sets.common.values(), tests.part(group), *restricted]

    def count(client: str) -> int:
        return len({place for test in wanted([client]) for place in test.places})

    def answers_of(group: Sequence[str]) -> list[dict[int, str]]:
        return answered_by(model, sets, [wanted([c]) for c in group], settings)

    clients, having_own = sorted(set(tests.of)), set(own)
    sharing = [c for c in clients if c not in having_own]
    personal = [c for c in clients if c in having_own]
    models = len(personal) + bool(sharing)
    number = 1
    if sharing:
        model.load(common)
        some = f"{sharing[0] if len(sharing) == 1 else f'{len(sharing)} clients'} (1 of {models})"
        with stage(some if personal else "the common model"):
            [answered] = answered_by(model, sets, [wanted(sharing)], settings)
        yield sharing, answered
        number += 1
    for pack in packs(model, own, personal, count, batch_size=settings.batch_size, cohort=cohort):
        with stage(pack.whose(number, models)):
            found = [own for part in with_pack(model, pack, answers_of) for own in part]
        yield from zip([[c] for c in pack.clients], found, strict=True)
        number += len(pack.clients)


def answered_by(
    model: Trainable, sets: ClassTests, wanted: Sequence[Sequence[TestSet]], settings: Evaluation
) -> list[dict[int, str]]:
    """By model, the predicted class name by the example's place: of all in its sets, each answered once, in whole batches."""
    due = [
        (k, place)
        for k, tests in enumerate(wanted)
        for place in dict.fromkeys(place for test in tests for place in test.places)
    ]
    follow(sets.pictures, [place for _, place in due])
    answered: list[dict[int, str]] = [{} for _ in wanted]
    for start in range(0, len(due), settings.batch_size):
        tell(f"evaluating, {start} of {len(due)} pictures")
        part = due[start : start + settings.batch_size]
        places = [place for _, place in part]
        batch = taken(sets.pictures, places)
        answers = model.generate(batch, settings.max_new_tokens, sets.features(model, batch, places))
        for (k, place), answer in zip(part, answers, strict=True):
            answered[k][place] = answer
    return answered
