"""Missing modalities: exact shares, what is kept, what is dropped, and that no file is read."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fedloom.core.errors import ExperimentError
from fedloom.data.client_data import ClientData
from fedloom.data.media import Media
from fedloom.data.media.sample_files import MediaFiles
from fedloom.data.missing import Missing, lacking
from fedloom.data.sample import Medium, Sample, Turn
from fedloom.data.sources import parse_source


def sample(uid: str, *keys: str, question: str = "what is it?", **fields: Any) -> Sample:
    return Sample(uid, {key: torch.zeros(1) for key in keys}, question, "a cup", **fields)


def both(name: str, count: int) -> ClientData:
    own = [sample(f"{name}/{i}", "image", "audio") for i in range(2 * count)]
    return ClientData(name, own[:count], own[count:])


def holders(clients: list[ClientData], modality: str, part: str = "train") -> set[str]:
    return {s.uid for c in clients for s in getattr(c, part) if modality in s.modalities}


def test_a_share_of_every_clients_samples_lacks_the_modality() -> None:
    clients = [both("a", 20), both("b", 10)]
    found = lacking(clients, Missing(image=0.3), 0)
    assert [sum("image" in s.modalities for s in c.train) for c in found] == [14, 7]
    assert [sum("image" in s.modalities for s in c.test) for c in found] == [14, 7]
    assert all("audio" in s.modalities for c in found for s in (*c.train, *c.test))
    assert "18 of 60 samples lack a modality" in found[0].notes[-1]


def test_a_larger_share_lacks_what_a_smaller_one_does_and_the_seed_decides() -> None:
    clients = [both("a", 20)]
    some, more = (lacking(clients, Missing(image=share), 0) for share in (0.3, 0.7))
    assert holders(more, "image") < holders(some, "image")
    assert holders(lacking(clients, Missing(image=0.3), 1), "image") != holders(some, "image")


def test_a_sample_keeps_one_of_several_modalities() -> None:
    found = lacking([both("a", 40)], Missing(image=1.0, audio=1.0), 0)
    kept = [tuple(s.modalities) for s in found[0].train]
    assert set(kept) == {("image",), ("audio",)}
    assert len(kept) == 40


def test_test_samples_may_stay_complete() -> None:
    found = lacking([both("a", 20)], Missing(image=0.5, parts="train"), 0)
    assert len(holders(found, "image")) == 10
    assert len(holders(found, "image", "test")) == 20


def test_whole_clients_lack_a_modality() -> None:
    clients = [both(name, 5) for name in "abcd"]
    found = lacking(clients, Missing(audio=0.5, of="clients"), 0)
    assert sorted(c.holds for c in found) == [("image",), ("image",), ("image", "audio"), ("image", "audio")]
    found = lacking(clients, Missing(image=1.0, audio=1.0, of="clients"), 0)
    assert all(len(c.holds) == 1 for c in found)


def test_what_lost_its_only_input_keeps_its_question_or_is_dropped() -> None:
    own = [sample(str(i), "image", question="" if i % 4 == 0 else "what is it?") for i in range(8)]
    client = ClientData("a", own, [sample("t", "audio")])
    (kept,) = lacking([client], Missing(image=1.0), 0)
    assert [(s.uid, s.kind) for s in kept.train] == [(str(i), "text") for i in (1, 2, 3, 5, 6, 7)]
    assert "6 of them have their question alone; 2 further ones are left out" in kept.notes[-1]
    with pytest.raises(ExperimentError, match="leaves client a without a train sample"):
        lacking([client], Missing(image=1.0, alone="drop"), 0)
    (half,) = lacking([client], Missing(image=0.5, alone="drop"), 0)
    assert [s.kind for s in half.train] == ["image"] * 4


def test_further_pictures_and_their_places_in_a_conversation_go_too() -> None:
    turns = (
        Turn(
            "user", (Medium("image", "image"), Medium("image", "image-2"), Medium("audio", "audio"), "what?")
        ),
        Turn("assistant", ("a cup",)),
    )
    talk = sample("x", "image", "image-2", "audio", turns=turns)
    (found,) = lacking([ClientData("a", [talk], [talk])], Missing(image=1.0), 0)
    assert list(found.train[0].modalities) == ["audio"]
    assert found.train[0].conversation[0].parts == (Medium("audio", "audio"), "what?")


def test_no_file_is_read() -> None:
    files = MediaFiles(
        {m: Media(m, Path("nowhere")) for m in ("image", "audio")},
        lambda media, fault: ExperimentError(fault),
    )
    own = [Sample(str(i), files, "what?", "x") for i in range(4)]
    (found,) = lacking([ClientData("a", own, own)], Missing(image=0.5), 0)
    assert sorted(s.kind for s in found.train) == ["audio", "audio", "image+audio", "image+audio"]


def test_a_modality_that_nobody_holds_is_one_sentence() -> None:
    with pytest.raises(
        ExperimentError, match=r"data.missing.video: no client holds video; the samples hold audio, image."
    ):
        lacking([both("a", 3)], Missing(video=0.5), 0)


def test_no_share_changes_nothing() -> None:
    clients = [both("a", 3)]
    assert lacking(clients, Missing(image=0.0), 0) == clients


def test_the_small_world_with_missing_pictures() -> None:
    data = {"clients": {"both": 2}, "train": 8, "test": 6, "missing": {"image": 0.5}}
    clients = parse_source(data).load(0)
    whole = parse_source({**data, "missing": None}).load(0)
    for client, complete in zip(clients, whole, strict=True):
        assert [s.uid for s in client.train] == [s.uid for s in complete.train]
        held = [sum("image" in s.modalities for s in c.train) for c in (client, complete)]
        assert held[0] * 2 == held[1]


def test_how_without_what_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="names no modality that is missing; add one"):
        Missing(of="clients")
    assert Missing(image=0.0, parts="train").shares == {}
