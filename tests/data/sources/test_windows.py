"""Long recordings as samples of their own, window by window: same texts, one part, one rule for all that a sample holds."""

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from fedloom.core.errors import ExperimentError
from fedloom.data.sample import Sample
from fedloom.data.sources import parse_source
from fedloom.experiment.clients import load_clients
from fedloom.experiment.settings import Experiment

QUESTION = {"question": "who speaks?", "answer": "ann"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five recordings of 2.5 s, the first with a picture, a motion trace of equal length, and a second question."""
    folder = tmp_path / "silos" / "ann"
    folder.mkdir(parents=True)
    lines = []
    for i in range(5):
        soundfile.write(folder / f"{i}.wav", np.random.default_rng(i).normal(0, 0.1, 20_000), 8_000)
        lines.append({"audio": f"{i}.wav", **QUESTION})
    Image.new("RGB", (8, 8)).save(folder / "x.png")
    np.save(folder / "x.npy", np.ones((250, 6)) * np.arange(250)[:, None] / 250)
    lines[0] |= {"image": "x.png", "imu": "x.npy"}
    lines.append({"audio": "0.wav", "question": "where?", "answer": "home"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "silos"


def load(root: Path, **media: float) -> tuple[list[Sample], list[Sample]]:
    fields = {"source": "folder", "path": str(root), "media": {"imu_rate": 100, **media}, "test_share": 0.4}
    [client] = parse_source(fields).load(0)
    return list(client.train), list(client.test)


def test_each_window_is_a_sample_in_the_recordings_part(root: Path) -> None:
    train, test = load(root, window=1, seconds=2)
    whole_train, whole_test = load(root)
    for cut, whole in ((train, whole_train), (test, whole_test)):
        assert len(cut) == 3 * len(whole)
        assert [s.uid for s in cut] == [f"{s.uid}, window {k + 1} of 3" for s in whole for k in range(3)]
        assert [s.question for s in cut[::3]] == [s.question for s in whole]
        lengths = [len(s.modalities["audio"]) for s in cut]
        assert lengths == pytest.approx([40_000 / 3] * len(cut), abs=2)


def test_a_samples_recordings_are_cut_together_and_its_picture_stays(root: Path) -> None:
    cut = [s for part in load(root, window=1) for s in part if "imu" in s.modalities]
    assert [set(s.modalities) for s in cut] == [{"image", "audio", "imu"}] * 3
    means = [float(s.modalities["imu"].mean()) for s in cut]
    assert means == pytest.approx([1 / 6, 3 / 6, 5 / 6], abs=0.01)
    assert all(torch.equal(s.modalities["image"], cut[0].modalities["image"]) for s in cut)


def test_short_recordings_stay_whole_and_long_ones_are_refused_without_windows(root: Path) -> None:
    train, test = load(root, window=3)
    assert len(train) + len(test) == 6
    assert all("window" not in s.uid for s in (*train, *test))
    with pytest.raises(
        ExperimentError,
        match=r"it lasts 2 seconds, and data\.media\.seconds allows 1; data\.media\.window cuts",
    ):
        load(root, seconds=1)


@pytest.mark.parametrize(
    ("media", "says"),
    [
        (
            {"frames": 4},
            r"data\.media\.frames is read only from video files, and the samples hold image, audio; leave",
        ),
        ({"imu_rate": 50}, r"data\.media\.imu_rate is read only from imu files"),
        ({"window": 1}, None),
        ({"grey_bits": 12}, None),
    ],
)
def test_a_setting_of_files_that_no_client_has_is_refused_before_training(
    root: Path, media: dict[str, float], says: str | None
) -> None:
    file = root / "ann" / "metadata.jsonl"
    file.write_text(file.read_text().replace(', "imu": "x.npy"', ""))
    data = {"source": "folder", "path": str(root), "media": media}
    experiment = Experiment.parse({"method": "fedavg-lora", "data": data})
    with nullcontext() if says is None else pytest.raises(ExperimentError, match=says):
        load_clients(experiment)


@pytest.mark.parametrize("source", ["classes", "labelled", "captions"])
def test_pictures_alone_read_no_setting_of_recordings(source: str) -> None:
    fields = {"source": source, "path": "somewhere", "media": {"window": 5}}
    named = {} if source == "captions" else {"dataset": "flowers102"}
    with pytest.raises(ExperimentError, match=r"media\.window is read only from audio or video or imu files"):
        parse_source({**fields, **named})
