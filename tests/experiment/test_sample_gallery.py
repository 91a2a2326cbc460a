"""Media of the sample gallery: a video as its frames side by side, a motion trace as two plots."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fedloom.data.sample import Sample
from fedloom.experiment.sample_gallery import AXES, FRAMES, HEIGHT, WIDTH, save_media


def saved(modality: str, raw: torch.Tensor, folder: Path) -> np.ndarray:
    files = save_media(Sample("a", {modality: raw}, "what?", "red"), folder, "000")
    assert files == {modality: f"000-{modality}.png"}
    return np.asarray(Image.open(folder / files[modality]))


def test_the_first_frames_of_a_video_stand_side_by_side(tmp_path: Path) -> None:
    frames = torch.arange(10, dtype=torch.uint8)[:, None, None, None].mul(20).expand(10, 3, 24, 48)
    strip = saved("video", frames.contiguous(), tmp_path)
    assert strip.shape == (HEIGHT, FRAMES * 2 * HEIGHT, 3)
    assert [int(strip[60, HEIGHT * (2 * i + 1), 0]) for i in range(FRAMES)] == [20 * i for i in range(FRAMES)]


def test_a_motion_trace_is_drawn_axis_by_axis(tmp_path: Path) -> None:
    """x falls from the top to the bottom, y stays at the top, z at the bottom; rotation is at rest."""
    trace = torch.zeros(6, 50)
    trace[0], trace[1] = torch.linspace(1, 0, 50), 1.0
    plot = saved("imu", trace, tmp_path).astype(int)
    x, y, z = (np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) for c in AXES)
    rows = [np.argwhere((plot == colour).all(-1))[:, 0] for colour in (x, y, z)]
    upper = [r[r < HEIGHT] for r in rows]
    assert upper[0].min() < 20
    assert upper[0].max() > HEIGHT - 20
    assert upper[1].max() < 20
    assert upper[2].min() > HEIGHT - 20
    assert saved("imu", torch.zeros(6, 1), tmp_path).shape == plot.shape


def test_a_column_of_pixels_and_a_row_are_shown(tmp_path: Path) -> None:
    for size, shown in (((2, 3, 300, 1), (HEIGHT, 2, 3)), ((1, 3, 1, 300), (2, WIDTH, 3))):
        assert saved("video", torch.zeros(size, dtype=torch.uint8), tmp_path).shape == shown
