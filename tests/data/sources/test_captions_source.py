"""The four ways in which captioned pictures are dealt to silos."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from fedloom.core.errors import ExperimentError
from fedloom.data.partition.captions import (
    Captions,
    assign,
    by_source,
    clusters,
    noisy_clients,
    shuffled,
    sizes,
)
from fedloom.data.sources.captions import CaptionSource
from fedloom.data.sources.tabletop_captions import SOURCES, captioned_clients, topic
from fedloom.data.tabletop.language import VOCABULARY, WRITERS, words
from fedloom.data.tabletop.world import Tabletop

LABELS = [i % 5 for i in range(400)]


def test_parts_are_disjoint_of_the_right_size_and_a_function_of_their_arguments() -> None:
    for alpha in (None, 0.5):
        parts = assign(LABELS, [20, 31, 9], alpha, 3)
        assert [len(p) for p in parts] == [20, 31, 9]
        assert len({i for p in parts for i in p}) == 60
        assert parts == assign(LABELS, [20, 31, 9], alpha, 3)
        assert parts != assign(LABELS, [20, 31, 9], alpha, 4)


def test_a_small_dirichlet_parameter_makes_clients_of_few_topics() -> None:
    def top(alpha: float | None) -> float:
        parts = assign(LABELS, [40] * 5, alpha, 0)
        return float(np.mean([Counter(LABELS[i] for i in p).most_common(1)[0][1] / 40 for p in parts]))

    assert top(None) < 0.4 < top(0.1)
    assert top(100.0) < 0.45


def test_sizes_sum_up_and_nobody_gets_less_than_the_least() -> None:
    assert sizes(23, 4, None, 2, 0) == [6, 6, 6, 5]
    found = sizes(100, 5, 0.3, 8, 1)
    assert sum(found) == 100
    assert min(found) >= 8
    assert max(found) > 30
    with pytest.raises(ExperimentError, match="too few for 5 clients with 9 each"):
        sizes(40, 5, None, 9, 0)
    with pytest.raises(ExperimentError, match="want 401 captioned pictures and there are 400"):
        assign(LABELS, [401], None, 0)


def test_every_client_has_one_source() -> None:
    parts = by_source(LABELS, [10] * 7, 0)
    assert [{LABELS[i] for i in p} for p in parts] == [{0}, {1}, {2}, {3}, {4}, {0}, {1}]
    assert len({i for p in parts for i in p}) == 70
    with pytest.raises(ExperimentError, match="source 1 of 5"):
        by_source(LABELS, [81], 0)


def test_shuffled_captions_are_somebody_elses_and_none_is_lost() -> None:
    whose = shuffled(20, 0.5, 0, 1)
    assert sorted(whose) == list(range(20))
    assert sum(i != j for i, j in enumerate(whose)) == 10
    assert shuffled(20, 0.0, 0, 1) == list(range(20))
    assert len(noisy_clients(10, 0.3, 5)) == 3
    assert noisy_clients(10, 0.3, 5) == noisy_clients(10, 0.3, 5)


def test_topics_of_own_pictures_are_clusters_of_features() -> None:
    rng = np.random.default_rng(0)
    blobs = np.concatenate([rng.normal(c, 0.01, (10, 3)) for c in (0.0, 5.0, 10.0)])
    found = clusters(blobs, 3, 0)
    assert all(len(set(found[i : i + 10])) == 1 for i in (0, 10, 20))
    assert len(set(found)) == 3


def test_tabletop_clients_by_scenario() -> None:
    for scenario in ("iid", "topic", "source", "quality"):
        clients = captioned_clients(Captions(scenario=scenario, dirichlet=0.1), 4, 12, 4, 0)
        uids = [s.uid for c in clients for s in (*c.train, *c.test)]
        assert len(uids) == len(set(uids)) == 64
        assert [(len(c.train), len(c.test)) for c in clients] == [(12, 4)] * 4
        assert all(
            s.question == "" and set(words(s.answer)) <= {*VOCABULARY} for c in clients for s in c.train
        )
        world = Tabletop(0)
        truth = [
            [s.answer == WRITERS[s.meta["writer"]](world.scene("private", s.meta["index"])) for s in c.train]
            for c in clients
        ]
        wrong = sorted(12 - sum(t) for t in truth)
        assert (wrong[0], wrong[-1] > 0) == (0, scenario == "quality")
        told = [{s.meta["writer"] for s in c.train} for c in clients]
        styles = [{s.meta["style"] for s in c.train} for c in clients]
        if scenario == "source":
            assert told == [{"plain"}, {"right_first"}] * 2
            assert all(s <= {*SOURCES[i % 2][1]} for i, s in enumerate(styles))
        else:
            assert told == [{"plain"}] * 4
        if scenario == "topic":
            topics = [Counter(topic(world, s.meta["index"]) for s in c.train) for c in clients]
            assert max(max(t.values()) for t in topics) >= 6


def test_own_pictures_in_a_folder_of_sources_and_what_is_wrong_with_one(tmp_path) -> None:
    for number, name in enumerate(("cc", "sbu")):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        lines = []
        for i in range(8):
            Image.new("RGB", (6, 5), (30 * i, 100 * number, 0)).save(folder / f"{i}.png")
            lines.append(f'{{"file_name": "{i}.png", "text": "{name} {i}"}}')
        (folder / "metadata.jsonl").write_text("\n".join(lines))
    data = CaptionSource(
        path=tmp_path / "data",
        clients={"image": 2},
        train=5,
        test=2,
        captions={"scenario": "source"},
    )
    clients = data.load(0)
    assert [{s.answer.split()[0] for s in c.train} for c in clients] == [{"cc"}, {"sbu"}]
    assert clients[1].train[0].modalities["image"].shape == (3, 5, 6)
    topics = data.model_copy(update={"captions": Captions(scenario="topic", topics=2)})
    import torch

    found = topics.load(0, lambda samples: torch.tensor([[float(len(s.answer))] for s in samples]))
    assert sum(len(c.train) for c in found) == 10
    with pytest.raises(ExperimentError, match="needs the encoder"):
        topics.load(0)
    with pytest.raises(ExperimentError, match="cannot be read as a data set"):
        data.model_copy(update={"path": tmp_path / "nowhere"}).load(0)


def captioned(folder, colours: dict[str, int], captions: int, name: str = "") -> None:
    """A folder of pictures, each with several captions."""
    folder.mkdir(parents=True)
    lines = []
    for file, colour in colours.items():
        Image.new("RGB", (6, 5), (colour, 0, 0)).save(folder / file)
        lines += [f'{{"file_name": "{file}", "text": "{name}{colour}"}}'] * captions
    (folder / "metadata.jsonl").write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("scenario", "shares"),
    [("iid", [(7, 3), (7, 3)]), ("topic", [(7, 3), (7, 3)]), ("source", [(4, 2), (4, 2)])],
)
def test_captions_of_one_picture_stay_with_one_client_and_in_one_part(tmp_path, scenario, shares) -> None:
    import torch

    (train, test), _ = shares
    one = {f"{i}.png": 20 * i for i in range(8)}
    captioned(tmp_path / "data/cc", one, 2)
    captioned(tmp_path / "data/sbu", {f"copy-{name}": colour for name, colour in one.items()}, 2)
    data = CaptionSource(
        path=tmp_path / "data",
        clients={"image": 2},
        train=train,
        test=test,
        captions={"scenario": scenario, "topics": 3},
    )
    for seed in range(3):
        clients = data.load(seed, lambda samples: torch.tensor([[float(s.answer)] for s in samples]))
        parts = [{s.answer for s in part} for c in clients for part in (c.train, c.test)]
        assert sum(map(len, parts)) == len(set().union(*parts))  # a colour is a picture: in one part only
        assert [len(c.test) for c in clients] == [test, test]
        assert all(train - 3 <= len(c.train) <= train for c in clients)


def test_too_few_pictures_for_their_captions_is_a_sentence(tmp_path) -> None:
    captioned(tmp_path / "data", {"a.png": 0, "b.png": 90}, 6)
    data = CaptionSource(path=tmp_path / "data", clients={"image": 2}, train=3, test=2)
    with pytest.raises(ExperimentError, match=r"of pictures that it is tested on; raise data\.train"):
        data.load(0)
    with pytest.raises(ExperimentError, match="all captions of a picture go to one client"):
        data.model_copy(update={"clients": {"image": 3}, "train": 2, "test": 1}).load(0)
