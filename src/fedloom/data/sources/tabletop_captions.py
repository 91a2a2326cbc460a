"""Tabletop's captioned pictures for federated pre-training: private scenes, partitioned by a scenario.

Topics are the pairs of shapes in a scene (15), the small world's natural clusters. A source is a caption writer with two
rendering styles.
"""

from dataclasses import replace
from functools import lru_cache

from fedloom.core.streams import numpy_stream
from fedloom.data.client_data import ClientData
from fedloom.data.partition.captions import Captions, assign, by_source, noisy_clients, shuffled, sizes
from fedloom.data.sample import Sample
from fedloom.data.tabletop.language import WRITERS
from fedloom.data.tabletop.scene import SHAPES
from fedloom.data.tabletop.world import Tabletop

SOURCES = (("plain", ("sketch", "dusk")), ("right_first", ("fog", "grain")))
"""Writer and styles of each source."""
FIRST = 500_000_000
"""First scene number for pre-training, above all other clients' scenes."""
SPARE = 6
"""Size of the pool of scenes relative to the clients' total, so that every mix of topics is possible."""


def topic(world: Tabletop, index: int) -> int:
    """Number of the unordered pair of shapes in a private scene."""
    pair = sorted(SHAPES.index(t.shape) for t in world.scene("private", index).things)
    return pair[0] * len(SHAPES) + pair[1]


# Rows of one table share their data, and rendering costs more than training.
@lru_cache(maxsize=16)
def captioned_clients(
    settings: Captions, clients: int, train: int, test: int, seed: int
) -> tuple[ClientData, ...]:
    """`clients` silos of captioned pictures, on average `train` and `test` each; test captions are never shuffled.

    A pure function of its arguments. Raises ExperimentError if they cannot be met.
    """
    world = Tabletop(seed)
    train_sizes = sizes(clients * train, clients, settings.quantity, settings.least, seed)
    total_sizes = [n + test for n in train_sizes]
    pool = range(SPARE * sum(total_sizes))
    source = [i % len(SOURCES) for i in pool] if settings.scenario == "source" else None
    if source is not None:
        parts = by_source(source, total_sizes, seed)
    elif settings.scenario == "topic":
        parts = assign([topic(world, FIRST + i) for i in pool], total_sizes, settings.dirichlet, seed)
    else:
        parts = assign([0 for _ in pool], total_sizes, None, seed)
    noisy = noisy_clients(clients, settings.noisy, seed) if settings.scenario == "quality" else []
    clients_data = []
    for k, part in enumerate(parts):
        order = numpy_stream(seed, "captions", "test", k).permutation(len(part)).tolist()
        samples = [
            captioned(world, part[i], None if source is None else source[part[i]], settings.question)
            for i in order
        ]
        training = samples[test:]
        if k in noisy:
            training = exchanged(training, settings.shuffled, seed, k)
        clients_data.append(ClientData(f"image-{k + 1:02d}", training, samples[:test]))
    return tuple(clients_data)


def captioned(world: Tabletop, index: int, source: int | None, question: str) -> Sample:
    """Picture and caption of pre-training scene `index`, in the writing and a style of `source`."""
    scene = world.scene("private", FIRST + index)
    writer, styles = ("plain", None) if source is None else SOURCES[source]
    style = None if styles is None else styles[(index // len(SOURCES)) % len(styles)]
    sample = world.sample("private", FIRST + index, "caption", style=style)
    return replace(
        sample,
        question=question,
        answer=WRITERS[writer](scene),
        meta={**sample.meta, "writer": writer},
    )


def exchanged(samples: list[Sample], share: float, seed: int, client: int) -> list[Sample]:
    """The samples with a share of their captions permuted."""
    sources = shuffled(len(samples), share, seed, client)
    return [replace(s, answer=samples[j].answer) for s, j in zip(samples, sources, strict=True)]
