"""Clients that hold pictures, videos, sounds, depth, heat, motion or words train one ImageBind and one LLM, from their files."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from typer.testing import CliRunner

from fedloom.cli.main import app
from fedloom.core.errors import ExperimentError
from fedloom.experiment.run import run
from fedloom.experiment.settings import Experiment
from fedloom.models.imagebind.imagebind import ImageBind, ImageBindConfig
from fedloom.models.imagebind.preprocess import image, spread_frames
from tests.data.media.recordings import video

SHIPPED = Path(__file__).parents[3] / "src" / "fedloom" / "models" / "shipped" / "tiny-mllm"
EACH = 4


@pytest.fixture(scope="module")
def silos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("six")
    rng = np.random.default_rng(0)
    ImageBind(ImageBindConfig.tiny()).save_pretrained(root / "encoder")
    for modality in ("image", "video", "audio", "depth", "thermal", "imu", "text"):
        folder = root / "silos" / f"a-{modality}"
        folder.mkdir(parents=True)
        lines = []
        for i in range(EACH):
            name = f"{i}"
            if modality == "image":
                name += ".png"
                Image.fromarray(rng.integers(0, 256, (50, 60, 3), np.uint8)).save(folder / name)
            elif modality == "video":
                name += ".mp4"
                (folder / name).write_bytes(video("mp4", shift=i))
            elif modality == "audio":
                name += ".wav"
                soundfile.write(folder / name, rng.normal(0, 0.1, 8_000), 8_000)
            elif modality == "depth":
                name += ".png"
                Image.fromarray(rng.integers(500, 4_000, (50, 60), np.uint16)).save(folder / name)
            elif modality == "thermal":
                name += ".png"
                Image.fromarray(rng.integers(0, 256, (50, 60), np.uint8)).save(folder / name)
            elif modality == "imu":
                name += ".npy"
                np.save(folder / name, rng.normal(0, 3, (250, 6)))
            line = {"question": f"what is {i}?", "answer": "it is red" if i % 2 else "it is blue"}
            lines.append(line if modality == "text" else {modality: name, **line})
        (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def experiment(silos: Path, **model: object) -> Experiment:
    return Experiment.parse(
        {
            "method": "feda2-lora",
            "rounds": 1,
            "data": {
                "source": "folder",
                "path": str(silos / "silos"),
                "media": {"imu_rate": 50, "frames": 4},
            },
            "model": {"encoder": str(silos / "encoder"), "llm": str(SHIPPED / "llm"), **model},
            "training": {"batch_size": 4},
            "evaluation": {"generate": False, "controls": False},
        }
    )


def test_all_of_them_in_one_run(silos: Path, tmp_path: Path) -> None:
    result = run(experiment(silos), tmp_path / "run")
    holds = {row["client"]: row["holds"] for row in result.summary["clients"]}
    held = ("audio", "depth", "image", "imu", "thermal", "video")
    assert holds == {"a-text": [], **{f"a-{m}": [m] for m in held}}
    [first, *_] = [json.loads(line) for line in (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()]
    towers = {f"encoder.{m}" for m in held if m != "video"}
    assert set(first["groups_up"]) == {*towers, "llm", "projector"}
    assert {f"global/{m}/token_accuracy" for m in (*held, "text")} <= set(result.summary["metrics"])
    shown = json.loads((tmp_path / "run" / "samples" / "samples.json").read_text())
    seen = {
        m for entry in shown for m in held if entry[m] and (tmp_path / "run/samples" / entry[m]).is_file()
    }
    assert seen == set(held)
    page = (tmp_path / "run" / "report.html").read_text()
    assert all(f'alt="{m} of sample' in page for m in held if m != "audio")
    for modality, file in (("video", "0.mp4"), ("imu", "0.npy")):
        path = str(silos / "silos" / f"a-{modality}" / file)
        asked = CliRunner().invoke(
            app, ["ask", str(tmp_path / "run"), f"--{modality}", path, "--question", "what?"]
        )
        assert asked.exit_code == 0, asked.output


def test_an_encoder_of_pictures_alone_refuses_videos(silos: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ExperimentError, match=r"clients hold .*, and model\.encoder names encoders of image only"
    ):
        run(experiment(silos, encoder={"image": str(silos / "encoder")}), tmp_path / "run")


def test_a_clip_of_two_equal_frames_is_their_picture() -> None:
    encoder = ImageBind(ImageBindConfig.tiny(), ["video"]).eval()
    assert encoder.modalities == ("image",)
    picture = torch.randint(0, 256, (3, 60, 50), dtype=torch.uint8)
    clips = encoder.preprocess("video", torch.stack([picture] * 3))
    assert clips.shape == (2, 3, 2, 48, 48)
    alone = encoder.encode("image", encoder.preprocess("image", picture)[None])
    torch.testing.assert_close(encoder.encode("video", clips[None]), alone)


def test_neighbouring_frames_form_a_clip() -> None:
    frames = torch.randint(0, 256, (5, 3, 48, 64), dtype=torch.uint8)
    clips = spread_frames(frames, (48, 48))
    order = torch.stack([clips[k, :, t] for k in range(3) for t in range(2)])
    assert torch.equal(order, torch.stack([image(frames[i], (48, 48)) for i in (0, 1, 2, 3, 4, 4)]))
    with pytest.raises(ExperimentError, match=r"video is torch\.float32"):
        spread_frames(frames.float(), (48, 48))
