"""Training and test samples of clients from one pool, by any partition.

Without a split in the data, the natural clients keep a part of their own samples for the test; for other partitions, training and
test samples are drawn from the whole pool before they are dealt.
"""

from collections.abc import Sequence

from fedloom.core.errors import ExperimentError
from fedloom.core.streams import numpy_stream
from fedloom.data.partition.deal import Counts, deal, partition_of
from fedloom.data.partition.rows import Rows, Value, spelled
from fedloom.data.partition.settings import RowPartition
from fedloom.data.partition.shared_media import cut, together

Parts = tuple[list[int], list[int]]
"""Places of training and of test samples."""


def natural_parts(
    names: Sequence[Value], group_of: Sequence[int], train: int, test: int, seed: int
) -> dict[str, Parts]:
    """Each client's places, at most `train` and `test`, and fewer in this ratio where it has fewer, by its name.

    A client's samples of one group, such as captions of one picture, come into one part. A client of a single group has no test
    sample. Raises ExperimentError for an empty name, and for a client whose test samples leave none for training.
    """
    parts: dict[str, Parts] = {}
    for name, stem in sorted(spelled(names).items(), key=lambda item: item[1]):
        if name == "":
            raise ExperimentError(
                "data.partition: the column of clients is empty for some samples; fill it, or take another kind, such as iid."
            )
        own = [place for place, value in enumerate(names) if value == name]
        order = numpy_stream(seed, "natural", stem).permutation(len(own)).tolist()
        grouped = together([own[i] for i in order], group_of)
        tested = min(test, max(1, round(len(own) * test / (train + test)))) if len(grouped) > 1 else 0
        tests, training = cut(grouped, [tested, train])
        if not training:
            raise ExperimentError(
                f"data.partition: client {stem} has no sample left to train on, because its {len(own)} samples are of "
                f"{len(grouped)} pictures; lower data.test."
            )
        parts[stem] = sorted(training), sorted(tests)
    return parts


def dealt_parts(
    rows: Rows, partition: RowPartition, count: Counts, seed: int
) -> tuple[dict[str, Parts], tuple[str, ...]]:
    """Each client's places by its name, in name order, and notes; every sample of `rows` is declared train or test.

    Raises ExperimentError as `deal` does.
    """
    found = deal(rows, partition_of(partition, count), count, seed)
    part_of = dict(enumerate(rows.declared)) | dict(found.parts)
    return {
        name: ([i for i in own if part_of[i] == "train"], [i for i in own if part_of[i] == "test"])
        for name, own in sorted(found.places.items())
    }, found.notes
