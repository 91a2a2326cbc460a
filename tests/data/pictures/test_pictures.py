"""Pictures by class out of folders, split files, parquet and the small sets; and the clients that the protocols make."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fedloom.core.errors import ExperimentError
from fedloom.data.digits import DIGITS
from fedloom.data.pictures.known_sets import KNOWN
from fedloom.data.sources.image_classes import ImageClassSource
from fedloom.data.sources.small_worlds import TABLETOP_CLASSES, digits


def data(**settings: Any) -> ImageClassSource:
    return ImageClassSource(**{"clients": {"image": 3}, **settings})


def paint(path: Path, value: int, count: int, suffix: str = ".png") -> None:
    """`count` pictures whose grey tells their class."""
    path.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(np.full((9, 12, 3), value, np.uint8)).save(path / f"{i:02d}{suffix}")


def grey(sample: Any) -> int:
    return int(sample.modalities["image"][0, 0, 0])


# ---------------------------------------------------------------- few-shot


def test_few_shot_clients_hold_disjoint_base_classes_and_nobody_holds_a_novel_one() -> None:
    source = data(clients={"image": 5}, train=6, test=4, partition={"kind": "few-shot", "shots": 3})
    classes, clients, common = source.classes(), source.load(0), source.load_common(0)
    assert classes is not None
    assert (len(classes.base), len(classes.novel)) == (54, 54)
    held = []
    for client in clients:
        train, test = ({s.meta["label"] for s in part} for part in (client.train, client.test))
        assert train == test, "tested on the classes that it trains on"
        assert set(Counter(s.meta["label"] for s in client.train).values()) == {3}
        assert len(client.test) == 4 * len(test)
        held += train
        for sample in (*client.train, *client.test):
            assert sample.meta["classes"] == "base"
            assert classes.base[sample.meta["label"]] == sample.answer
        assert client.holds == ("image",)
    assert sorted(held) == list(range(54))
    assert {s.answer for s in common["novel"]} == set(classes.novel)
    assert not {s.answer for c in clients for s in c.train} & set(classes.novel)
    assert sorted(s.uid for s in common["base"]) == sorted(s.uid for c in clients for s in c.test)
    assert {classes.novel.index(s.answer) for s in common["novel"]} == set(range(54))
    assert all(classes.novel[s.meta["label"]] == s.answer for s in common["novel"])


@pytest.mark.parametrize(
    ("name", "each", "textures", "unseen"), [("tabletop", 9, 18, [18, 18]), ("tabletop48", 6, 8, [7, 8])]
)
def test_base_and_novel_classes_of_tabletop_are_alike_before_training(
    name: str, each: int, textures: int, unseen: list[int]
) -> None:
    classes = TABLETOP_CLASSES[name]
    halves = classes[: len(classes) // 2], classes[len(classes) // 2 :]
    for half in halves:
        assert set(Counter(c.shape for c in half).values()) == {each}
        assert set(Counter(c.colour for c in half).values()) == {each}
        assert set(Counter(c.texture for c in half).values()) == {textures}
    assert [sum(c.novel for c in half) for half in halves] == unseen


def test_the_runs_seed_draws_the_shots_and_not_who_holds_which_class() -> None:
    source = data(train=6, test=2, partition={"kind": "few-shot", "shots": 2})
    zero, one = (source.load(seed) for seed in (0, 1))
    assert [{s.answer for s in c.train} for c in zero] == [{s.answer for s in c.train} for c in one]
    assert [s.uid for s in zero[0].train] != [s.uid for s in one[0].train]
    assert [s.uid for s in zero[0].train] == [s.uid for s in source.load(0)[0].train]
    other = data(train=6, test=2, partition={"kind": "few-shot", "shots": 2, "class_shuffle_seed": 1})
    assert [{s.answer for s in c.train} for c in other.load(0)] != [{s.answer for s in c.train} for c in zero]


# ---------------------------------------------------------------- label skew and domains


def test_digits_are_real_enlarged_and_split_for_good() -> None:
    found = digits()
    assert (len(found.train), len(found.test), found.names) == (1438, 359, DIGITS)
    picture = found.train[0].read()
    assert (picture.dtype, tuple(picture.shape)) == (torch.uint8, (3, 32, 32))
    assert torch.equal(picture[0], picture[2])
    from sklearn.datasets import load_digits

    bunch = load_digits()
    for record in found.train[:40]:
        number = int(record.uid.split("/")[1])
        assert bunch.target[number] == record.label
        small = record.read()[0].float().reshape(8, 4, 8, 4).mean((1, 3)).flatten().numpy()
        assert np.corrcoef(small, bunch.images[number].flatten())[0, 1] > 0.9


def test_label_skew_clients_know_their_own_classes() -> None:
    source = data(dataset="digits", clients={"image": 6}, partition={"kind": "labeldir", "beta": 0.3})
    clients = source.load(0)
    assert sum(len(c.train) for c in clients) == 1438
    assert sum(len(c.test) for c in clients) == 359
    for client in clients:
        own = {s.meta["label"] for s in (*client.train, *client.test)}
        assert {s.meta["own"] for s in (*client.train, *client.test)} == {tuple(sorted(own))}
        assert all(DIGITS[s.meta["label"]] == s.answer for s in client.train)
    assert source.load_common(0) == {}
    assert [len(c.train) for c in source.load(1)] != [len(c.train) for c in clients]


def test_pachinko_is_for_data_with_coarse_classes() -> None:
    with pytest.raises(ExperimentError, match="needs coarse classes, which only cifar100 has"):
        data(dataset="digits", partition={"kind": "pachinko"}).load(0)


def test_domain_clients_stay_in_their_domain() -> None:
    source = data(clients={"image": 8}, train=8, test=8, partition={"kind": "domains", "beta": 0.5})
    clients = source.load(0)
    assert [c.name for c in clients] == [
        f"{d}-0{i}" for d in ("dusk", "fog", "grain", "sketch") for i in (1, 2)
    ]
    for client in clients:
        assert {s.meta["domain"] for s in (*client.train, *client.test)} == {client.name[:-3]}
        assert min(len(client.train), len(client.test)) >= 2
    uids = [s.uid for c in clients for s in (*c.train, *c.test)]
    assert len(set(uids)) == len(uids) == 108 * 16
    assert [s.uid for s in source.load(1)[0].train] != [s.uid for s in clients[0].train]


def test_a_held_out_domain_has_test_pictures_alone_and_no_client() -> None:
    source = data(train=8, test=4, partition={"kind": "domains", "hold_out": "fog"})
    clients, common = source.load(0), source.load_common(0)
    assert [c.name for c in clients] == ["dusk-01", "grain-01", "sketch-01"]
    assert list(common) == ["domain/fog"]
    assert {s.meta["domain"] for s in common["domain/fog"]} == {"fog"}
    assert len(common["domain/fog"]) == 108
    assert not {s.uid for s in common["domain/fog"]} & {s.uid for c in clients for s in c.train}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"clients": {"image": 6}, "partition": {"kind": "domains"}},
            "6 clients cannot be dealt evenly to 4 domains",
        ),
        ({"partition": {"kind": "domains", "hold_out": "neon"}}, "there is no domain neon"),
        ({"dataset": "digits", "partition": {"kind": "domains"}}, "these data have no domains"),
        ({"styles": ["neon"]}, "unknown Tabletop style 'neon'"),
        ({"dataset": "flowers102"}, "flowers102 has to lie on this machine; name its folder in data.path"),
        (
            {"dataset": "birds"},
            "there is no data set birds; known are tabletop, tabletop48, digits, caltech101",
        ),
        ({"dataset": "birds", "path": Path("nowhere")}, "there is no folder nowhere"),
        ({"clients": {"image": 60}, "train": 1, "test": 1}, "54 base classes dealt to 60 clients"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ExperimentError, match=sentence):
        data(**given).load(0)


def test_other_clients_than_those_with_images_are_refused() -> None:
    with pytest.raises(ValueError, match="no clients that hold audio"):
        data(clients={"image": 2, "audio": 1})
    with pytest.raises(ValueError, match="beta"):
        data(partition={"kind": "few-shot", "beta": 0.1})


# ---------------------------------------------------------------- folders


def test_a_folder_of_class_folders(tmp_path: Path) -> None:
    for value, name in (
        (10, "sea_lion"),
        (20, "BACKGROUND_Google"),
        (30, "ant"),
        (40, "Faces_easy"),
        (50, "zebra"),
    ):
        paint(tmp_path / name, value, 5, ".jpg" if name == "ant" else ".png")
    (tmp_path / "ant" / "notes.txt").write_text("no picture")
    (tmp_path / ".cache").mkdir()
    plain = data(
        path=tmp_path, dataset="mine", clients={"image": 2}, partition={"kind": "few-shot", "shots": 2}
    )
    classes = plain.classes()
    assert classes is not None
    assert (*classes.base, *classes.novel) == ("BACKGROUND Google", "Faces easy", "ant", "sea lion", "zebra")
    caltech = plain.model_copy(update={"dataset": "caltech101"})
    classes = caltech.classes()
    assert classes is not None
    assert (classes.base, classes.novel) == (("ant", "sea lion"), ("zebra",))
    grey_of = {"ant": 30, "sea lion": 10, "zebra": 50}
    clients = caltech.load(0)
    for sample in [s for c in clients for s in (*c.train, *c.test)] + list(caltech.load_common(0)["novel"]):
        assert abs(grey(sample) - grey_of[sample.answer]) < 3
        assert tuple(sample.modalities["image"].shape) == (3, 9, 12)
    assert [len(c.train) for c in clients] == [2, 2]
    assert [len(c.test) for c in clients] == [1, 1], "a fifth is held back"
    assert not {s.uid for c in clients for s in c.train} & {s.uid for c in clients for s in c.test}


def test_train_and_test_folders_are_taken_as_they_are(tmp_path: Path) -> None:
    for part, count in (("train", 4), ("test", 3)):
        for value, name in ((10, "a"), (20, "b")):
            paint(tmp_path / part / name, value, count)
    source = data(
        path=tmp_path, dataset="mine", clients={"image": 1}, partition={"kind": "few-shot", "shots": 9}
    )
    client = source.load(0)[0]
    assert [s.uid for s in client.train] == [f"train/a/0{i}.png" for i in range(4)]
    assert [s.uid for s in client.test] == [f"test/a/0{i}.png" for i in range(3)]
    assert [s.uid for s in source.load_common(0)["novel"]] == [f"test/b/0{i}.png" for i in range(3)]


def test_a_split_file_in_the_published_form(tmp_path: Path) -> None:
    rows: dict[str, list[list[Any]]] = {"train": [], "val": [], "test": []}
    for label, name in enumerate(("forget-me-not", "pink_primrose", "thistle", "wallflower")):
        paint(tmp_path / "jpg" / f"c{label}", 10 * label, 4)
        for i, part in enumerate(("train", "train", "val", "test")):
            rows[part].append([f"c{label}/0{i}.png", label, name])
    (tmp_path / "split_zhou_Flowers.json").write_text(json.dumps(rows))
    for path in (tmp_path, tmp_path / "split_zhou_Flowers.json"):
        source = data(path=path, dataset="flowers102", clients={"image": 2})
        assert source.classes().base == ("forget-me-not", "pink primrose")  # type: ignore[union-attr]
        clients = source.load(0)
        assert [len(c.train) for c in clients] == [2, 2], "fewer than 16 shots where there are fewer"
        for sample in (s for c in clients for s in (*c.train, *c.test)):
            assert grey(sample) == 10 * sample.meta["label"]
        assert [s.uid for s in source.load_common(0)["novel"]] == ["c2/03.png", "c3/03.png"]


def write_domains(root: Path) -> dict[str, int]:
    names = KNOWN["domainnet"].folders
    values = {}
    for d, domain in enumerate(KNOWN["domainnet"].domains):
        for c, name in enumerate(names):
            values[f"{domain}/{name}"] = 4 * (10 * d + c)
            paint(root / domain / name, values[f"{domain}/{name}"], 5)
        paint(root / domain / "aardvark", 255, 2)  # a class that is no part of the subset
    return values


def test_domainnet_keeps_its_ten_classes_in_order_and_its_lists(tmp_path: Path) -> None:
    values = write_domains(tmp_path)
    (tmp_path / "splits").mkdir()
    for part, numbers in (("train", range(4)), ("test", range(4, 5))):
        lines = [f"sketch/{n}/0{i}.png 7" for n in (*KNOWN["domainnet"].folders, "aardvark") for i in numbers]
        (tmp_path / "splits" / f"sketch_{part}.txt").write_text("\n".join(lines) + "\n")
    source = data(
        path=tmp_path, dataset="domainnet", clients={"image": 6}, partition={"kind": "domains", "least": 2}
    )
    classes = source.classes()
    assert classes is not None
    assert classes.base == (
        *("bird", "feather", "headphones", "ice cream", "teapot"),
        *("tiger", "whale", "windmill", "wine glass", "zebra"),
    )
    for client in source.load(0):
        for sample in (*client.train, *client.test):
            domain, folder, _ = sample.uid.split("/")
            assert client.name == f"{domain}-01"
            assert folder.replace("_", " ") == sample.answer == classes.base[sample.meta["label"]]
            assert grey(sample) == values[f"{domain}/{folder}"], "the picture is that of its path"
    sketch = next(c for c in source.load(0) if c.name == "sketch-01")
    assert {s.uid[-6:] for s in sketch.test} == {"04.png"}


SCRIPT = """
import sys
from pathlib import Path
from fedloom.data.sources.image_classes import ImageClassSource
source = ImageClassSource(dataset="domainnet", path=Path(sys.argv[1]), clients={"image": 12},
              partition={"kind": "domains", "beta": 0.5, "least": 2})
told = [source.classes()]
for client in source.load(3):
    told.append((client.name, [(s.uid, s.meta["label"], s.answer) for s in (*client.train, *client.test)]))
print(told)
"""


def test_labels_follow_their_paths_whatever_the_hash_seed(tmp_path: Path, capsys, monkeypatch) -> None:
    write_domains(tmp_path)
    monkeypatch.setattr(sys, "argv", ["here", str(tmp_path)])
    exec(SCRIPT, {})  # under this process's own hash seed
    other = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": other, "PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    assert ran.stdout == capsys.readouterr().out
    assert "sketch-02" in ran.stdout


def test_a_broken_picture_and_an_empty_class_are_told_with_their_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        paint(tmp_path / name, 10, 5)
    for i in range(5):
        (tmp_path / "a" / f"0{i}.png").write_bytes(b"no picture")
    source = data(
        path=tmp_path, dataset="mine", clients={"image": 1}, partition={"kind": "few-shot", "shots": 4}
    )
    with pytest.raises(ExperimentError, match=r"a/0\d\.png cannot be used"):
        source.load(0)
    paint(tmp_path / "a_b", 10, 5)
    paint(tmp_path / "a b", 10, 5)
    with pytest.raises(ExperimentError, match="two classes are called 'a b'"):
        source.classes()
    (tmp_path / "c").mkdir()
    with pytest.raises(ExperimentError, match="c holds no picture"):
        data(path=tmp_path, dataset="mine", clients={"image": 1}).load(0)
    with pytest.raises(ExperimentError, match="lacks the domain clipart"):
        data(path=tmp_path, dataset="domainnet", clients={"image": 6}, partition={"kind": "domains"}).load(0)


# ---------------------------------------------------------------- parquet


def write_parquet(folder: Path, monkeypatch: pytest.MonkeyPatch, **columns: Any) -> None:
    """cifar100's columns with three fine classes: fine label number i is painted 40 i."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    features = datasets.Features(
        {
            "img": datasets.Image(),
            "fine_label": datasets.ClassLabel(names=["apple", "aquarium_fish", "bed"]),
            "coarse_label": datasets.ClassLabel(names=["food", "home"]),
            **columns,
        }
    )
    for part, count in (("train", 30), ("test", 18)):
        labels = [i % 3 for i in range(count)]
        pictures = [Image.fromarray(np.full((8, 6, 3), 40 * n, np.uint8)) for n in labels]
        rows = {"img": pictures, "fine_label": labels, "coarse_label": [int(n == 2) for n in labels]}
        rows |= {name: ["x"] * count for name in columns}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(
            folder / f"{part}-00000-of-00001.parquet"
        )


def test_parquet_files_bring_their_own_names_and_coarse_classes(tmp_path: Path, monkeypatch) -> None:
    write_parquet(tmp_path, monkeypatch)
    source = data(
        path=tmp_path,
        dataset="cifar100",
        clients={"image": 2},
        partition={"kind": "labeldir", "beta": 5.0, "least": 2},
    )
    assert source.classes().base == ("apple", "aquarium fish", "bed")  # type: ignore[union-attr]
    clients = source.load(0)
    assert sum(len(c.train) for c in clients) == 30
    assert sum(len(c.test) for c in clients) == 18
    for sample in (s for c in clients for s in (*c.train, *c.test)):
        assert grey(sample) == 40 * sample.meta["label"]
        assert sample.modalities["image"].shape == (3, 8, 6)
    rolled = source.model_copy(update={"partition": data(partition={"kind": "pachinko"}).partition}).load(0)
    assert [len(c.train) + len(c.test) for c in rolled] == [24, 24]


def test_labels_that_are_words_become_sorted_classes(tmp_path: Path, monkeypatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    words = ["b_c", "a"] * 10
    rows = {
        "picture": [Image.fromarray(np.full((4, 4, 3), 9 * len(w), np.uint8)) for w in words],
        "label": words,
    }
    features = datasets.Features({"picture": datasets.Image(), "label": datasets.Value("string")})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    source = data(
        path=tmp_path, dataset="mine", clients={"image": 1}, partition={"kind": "labeldir", "least": 1}
    )
    assert source.classes().base == ("a", "b c")  # type: ignore[union-attr]
    client = source.load(0)[0]
    assert (len(client.train), len(client.test)) == (16, 4)
    assert all(grey(s) == 9 * len(s.answer) for s in client.train)


def test_parquet_without_a_picture_column_is_one_sentence(tmp_path: Path, monkeypatch) -> None:
    import datasets

    write_parquet(tmp_path, monkeypatch, second=datasets.Value("string"))
    datasets.Dataset.from_dict({"label": [0, 1]}).to_parquet(tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(ExperimentError, match="has 0 picture columns among label"):
        data(path=tmp_path, dataset="mine").load(0)
