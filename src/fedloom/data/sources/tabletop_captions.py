"""Tabletop's captioned pictures for federated pre-training: private scenes, dealt out by a scenario.

Topics are what the two things are (15 pairs of shapes), read off the scene: the small world's own clusters. Sources are
pairs of a caption writer and two rendering styles.
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
"""Scenes from this number on are captioned for pre-training; other clients' scenes lie below."""
SPARE = 6
"""The pool of scenes is so many times what the clients want, so that a mix of topics can be had."""


def topic(world: Tabletop, index: int) -> int:
    """The unordered pair of shapes in a private scene, as a number."""
    pair = sorted(SHAPES.index(t.shape) for t in world.scene("private", index).things)
    return pair[0] * len(SHAPES) + pair[1]


@lru_cache(
    maxsize=16
)  # rows of one table train on the same data, and rendering costs more than training on it
def captioned_clients(
    settings: Captions, clients: int, train: int, test: int, seed: int
) -> tuple[ClientData, ...]:
    """`clients` silos of captioned pictures, on average `train` and `test` each; test captions are never shuffled.

    Depends on its arguments alone. Raises ExperimentError where they cannot be met.
    """
    world = Tabletop(seed)
    trained = sizes(clients * train, clients, settings.quantity, settings.least, seed)
    wanted = [n + test for n in trained]
    pool = range(SPARE * sum(wanted))
    source = [i % len(SOURCES) for i in pool] if settings.scenario == "source" else None
    if source is not None:
        parts = by_source(source, wanted, seed)
    elif settings.scenario == "topic":
        parts = assign([topic(world, FIRST + i) for i in pool], wanted, settings.dirichlet, seed)
    else:
        parts = assign([0 for _ in pool], wanted, None, seed)
    noisy = noisy_clients(clients, settings.noisy, seed) if settings.scenario == "quality" else []
    found = []
    for k, part in enumerate(parts):
        order = numpy_stream(seed, "captions", "test", k).permutation(len(part)).tolist()
        samples = [
            captioned(world, part[i], None if source is None else source[part[i]], settings.question)
            for i in order
        ]
        learned = samples[test:]
        if k in noisy:
            learned = exchanged(learned, settings.shuffled, seed, k)
        found.append(ClientData(f"image-{k + 1:02d}", learned, samples[:test]))
    return tuple(found)


def captioned(world: Tabletop, index: int, source: int | None, question: str) -> Sample:
    """The picture of pre-training scene `index` and its caption, by a source's writer and in one of its styles."""
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
    """The samples with a share of their captions exchanged among them."""
    whose = shuffled(len(samples), share, seed, client)
    return [replace(s, answer=samples[j].answer) for s, j in zip(samples, whose, strict=True)]
