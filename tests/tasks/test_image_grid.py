"""Picture grids: places, enlargement, labels, equal rows, and mistakes."""

import numpy as np
import pytest
import torch
from PIL import Image

from fedloom.tasks.image_grid import write_grid

X = torch.randint(256, (3, 2, 3, 10, 12), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
HIGH, BROAD = 10 * 6 + 4, 12 * 6 + 4  # 12 pixels at least 64: six times, with a gap of two around


def check(page: np.ndarray, strip: int) -> None:
    for row, column in np.ndindex(3, 2):
        top, left = row * (HIGH + strip) + strip + 2, column * BROAD + 2
        cut = page[top : top + 60, left : left + 72]
        assert np.array_equal(cut[::6, ::6], X[row, column].permute(1, 2, 0).numpy())
        assert np.array_equal(cut[5::6, 5::6], cut[::6, ::6])


def test_pictures_stand_row_by_row_enlarged(tmp_path) -> None:
    page = np.asarray(Image.open(write_grid(X, tmp_path / "new" / "a.png")))
    assert page.shape == (3 * HIGH, 2 * BROAD, 3)
    check(page, 0)
    large = torch.zeros(1, 1, 3, 64, 80, dtype=torch.uint8)
    assert Image.open(write_grid(large, tmp_path / "b.png")).size == (84, 68)


def test_each_row_stands_under_its_label(tmp_path) -> None:
    labels = ["a seven", "a prompt that is longer than all of the pictures beside each other", "two"]
    page = np.asarray(Image.open(write_grid(X, tmp_path / "a.png", labels)))
    assert page.shape[0] == 3 * (HIGH + 16)
    assert page.shape[1] > 2 * BROAD
    check(page, 16)
    for row in range(3):
        assert (page[row * (HIGH + 16) :][:14] < 100).any()  # the label's ink


def test_the_suffix_decides_the_format(tmp_path) -> None:
    for suffix, kind in ((".png", "PNG"), (".jpg", "JPEG"), (".webp", "WEBP")):
        assert Image.open(write_grid(X, tmp_path / f"a{suffix}")).format == kind


def test_mistakes(tmp_path) -> None:
    for wrong in (X.float(), X[:, :, :2], X[:0], X[:, :0], X[0]):
        with pytest.raises(ValueError, match="uint8"):
            write_grid(wrong, tmp_path / "c.png")
    with pytest.raises(ValueError, match="1 labels for 3 rows"):
        write_grid(X, tmp_path / "c.png", ["a seven"])
