"""Own data from folders: what is read, and the one sentence for each mistake."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fedloom.core.errors import ExperimentError
from fedloom.data.partition.shared_media import draw_test, groups
from fedloom.data.sample import SAMPLE_RATE
from fedloom.data.sources.folder import load_folder
from tests.data.sources.client_folders import QA, RED, only, picture, write


def test_a_client_with_every_modality(tmp_path: Path) -> None:
    a = tmp_path / "a"
    picture(a / "x.png")
    picture(a / "sensors/d.png", np.array([[0, 1500, 65535]], np.uint16))
    picture(a / "sensors/t.png", np.array([[0, 51, 255]], np.uint8))
    soundfile.write(a / "y.wav", np.linspace(-0.5, 0.5, 160), SAMPLE_RATE, subtype="FLOAT")
    write(a, {"image": "x.png", "audio": "y.wav", "depth": "sensors/d.png", "thermal": "sensors/t.png", **QA})
    sample = only(tmp_path)
    media = sample.modalities
    assert (sample.uid, sample.question, sample.answer) == ("a/1", QA["question"], "red")
    assert sample.kind == "image+audio+depth+thermal"
    assert media["image"].dtype == torch.uint8
    torch.testing.assert_close(media["image"], torch.from_numpy(RED).permute(2, 0, 1))
    torch.testing.assert_close(media["depth"], torch.tensor([[[0.0, 1.5, 65.535]]]))
    torch.testing.assert_close(media["thermal"], torch.tensor([[[0.0, 0.2, 1.0]]]))
    torch.testing.assert_close(media["audio"], torch.linspace(-0.5, 0.5, 160), atol=1e-6, rtol=0)
    assert media["audio"].dtype == media["depth"].dtype == media["thermal"].dtype == torch.float32


def test_media_are_decoded_on_access_only(tmp_path: Path) -> None:
    file = picture(tmp_path / "a/x.png")
    write(tmp_path / "a", {"image": "x.png", **QA})
    (client,) = load_folder(tmp_path)
    file.unlink()
    assert client.holds == ("image",)
    assert "image" in client.train[0].modalities
    assert len(client.train[0].modalities) == 1
    with pytest.raises(ExperimentError, match=r"Client 'a', line 1 .*'x\.png'"):
        client.train[0].modalities["image"]


def test_text_alone_and_null_media(tmp_path: Path) -> None:
    write(tmp_path / "a", {"image": None, "split": None, **QA})
    assert only(tmp_path).kind == "text"


@pytest.mark.parametrize(
    ("key", "file", "kind"),
    [
        ("file_name", "x.png", "image"),
        ("file_name", "y.wav", "audio"),
        ("image_file_name", "x.png", "image"),
        ("audio_file_name", "y.wav", "audio"),
    ],
)
def test_hugging_face_keys(tmp_path: Path, key: str, file: str, kind: str) -> None:
    picture(tmp_path / "a/x.png")
    soundfile.write(tmp_path / "a/y.wav", np.zeros(10), SAMPLE_RATE)
    write(tmp_path / "a", {key: file, **QA})
    assert only(tmp_path).kind == kind


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.array([[7, 9]], np.uint8), [[7, 9]] * 3),
        (np.array([[7 * 256, 65535]], np.uint16), [[7, 255]] * 3),
        (np.array([[[1, 2, 3, 255], [1, 2, 3, 0]]], np.uint8), [[1, 255], [2, 255], [3, 255]]),
    ],
    ids=["grey", "grey of 16 bits", "transparency on white"],
)
def test_pictures_become_rgb(tmp_path: Path, pixels: np.ndarray, expected: list[list[int]]) -> None:
    picture(tmp_path / "a/x.png", pixels)
    write(tmp_path / "a", {"image": "x.png", **QA})
    assert only(tmp_path).modalities["image"].squeeze(1).tolist() == expected


def test_a_turned_photo_stands_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter turn clockwise
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, :8] = 255  # white on the left, so on top once upright
    picture(tmp_path / "a/x.jpg", pixels, exif=exif)
    write(tmp_path / "a", {"image": "x.jpg", **QA})
    image = only(tmp_path).modalities["image"]
    assert image.shape == (3, 24, 8)
    assert image[:, :6].min() > 200
    assert image[:, 10:].max() < 50


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_sound_becomes_mono_at_16_khz(tmp_path: Path, suffix: str, rate: int) -> None:
    (tmp_path / "a").mkdir()
    time = np.arange(rate) / rate
    left = 0.6 * np.sin(2 * np.pi * 440 * time)
    soundfile.write(tmp_path / f"a/y.{suffix}", np.stack([left, 0 * left], 1), rate)
    write(tmp_path / "a", {"audio": f"y.{suffix}", **QA})
    sound = only(tmp_path).modalities["audio"]
    assert sound.dtype == torch.float32
    assert sound.ndim == 1
    assert len(sound) == pytest.approx(SAMPLE_RATE, rel=0.15)  # MP3 pads its frames
    middle = sound[4_000:12_000]  # half a second, so that one line of the spectrum is 2 Hz
    assert middle.std() == pytest.approx(0.3 / 2**0.5, rel=0.05)
    assert int(torch.fft.rfft(middle).abs().argmax()) * 2 == 440


def test_sound_louder_than_full_scale_is_clipped(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    soundfile.write(tmp_path / "a/y.wav", np.array([0.0, 3.0, -2.0]), SAMPLE_RATE, subtype="FLOAT")
    write(tmp_path / "a", {"audio": "y.wav", **QA})
    assert only(tmp_path).modalities["audio"].tolist() == [0.0, 1.0, -1.0]


def test_clients_are_sorted_and_hidden_folders_and_loose_files_ignored(tmp_path: Path) -> None:
    for name in ("b", "c", "a"):
        write(tmp_path / name, QA)
    (tmp_path / ".cache").mkdir()
    (tmp_path / "README.txt").write_text("about the data")
    assert [client.name for client in load_folder(tmp_path)] == ["a", "b", "c"]


def test_blank_lines_byte_order_marks_and_line_separators(tmp_path: Path) -> None:
    text = json.dumps({"question": "one\u2028two", "answer": "x"}, ensure_ascii=False)
    write(tmp_path / "a", "\ufeff" + text, "", json.dumps({**QA, "split": "test"}))
    (client,) = load_folder(tmp_path)
    assert client.train[0].question == "one\u2028two"
    assert client.test[0].uid == "a/3"


def test_a_link_inside_the_clients_folder_is_followed(tmp_path: Path) -> None:
    picture(tmp_path / "a/store/x.png")
    (tmp_path / "a/link.png").symlink_to("store/x.png")
    write(tmp_path / "a", {"image": "link.png", **QA})
    assert only(tmp_path).modalities["image"].shape == (3, 3, 5)


# The split


def test_a_declared_split_is_kept(tmp_path: Path) -> None:
    write(tmp_path / "a", *[{**QA, "split": part} for part in ("test", "train", "test", "test")])
    (client,) = load_folder(tmp_path, test_share=0.01)
    assert [s.uid for s in client.train] == ["a/2"]
    assert [s.uid for s in client.test] == ["a/1", "a/3", "a/4"]


def test_the_drawn_split_depends_on_seed_and_client(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, *[QA] * 40)

    def tested(seed: int) -> list[list[object]]:
        return [[s.meta["line"] for s in client.test] for client in load_folder(tmp_path, 0.25, seed)]

    first = tested(0)
    assert [len(lines) for lines in first] == [10, 10]
    assert first[0] != first[1]
    assert tested(0) == first != tested(1)


@given(
    parts=st.lists(st.sampled_from([None, None, "train", "test"]), min_size=1, max_size=12),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 9),
)
@settings(deadline=None)
def test_both_parts_are_filled_where_they_can_be(parts: list[str | None], share: float, seed: int) -> None:
    declared = dict(enumerate(parts, start=1))
    drawn = draw_test(declared, dict.fromkeys(declared, ()), share, seed, "a")
    assert all(declared[line] is None for line in drawn)
    test = drawn | {line for line, part in declared.items() if part == "test"}
    train = set(declared) - test
    if None in parts:
        assert train
        assert test or len(parts) == 1


def test_questions_about_one_file_come_into_one_part(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = [
        picture(tmp_path / f"a/{i}.png", rng.integers(0, 255, (3, 5, 3), np.uint8)).name for i in range(8)
    ]
    (tmp_path / "a/copy.png").write_bytes((tmp_path / "a/0.png").read_bytes())
    soundfile.write(tmp_path / "a/s.wav", np.zeros(800), SAMPLE_RATE)
    pictured = [{**QA, "image": name} for name in [*names, "copy.png"] for _ in range(4)]
    both = [{**QA, "image": "1.png", "audio": "s.wav"}, {**QA, "audio": "s.wav"}]
    write(tmp_path / "a", *pictured, *both)
    for seed in range(4):
        (client,) = load_folder(tmp_path, 0.25, seed)
        test, train = (
            {Path(f).name for s in part for f in s.modalities.files.values()}
            for part in (client.test, client.train)
        )
        assert not test & train
        assert ("0.png" in test) == ("copy.png" in test)  # a copy is the same picture
        assert ("1.png" in test) == ("s.wav" in test)  # by way of the question about both
        assert 8 <= len(client.test) <= 12  # of 38, in steps of a picture
        assert [s.uid for s in client.test] == [s.uid for s in load_folder(tmp_path, 0.25, seed)[0].test]


def test_a_drawn_split_follows_what_is_declared_about_its_picture() -> None:
    declared = {1: "test", 2: None, 3: "train", 4: None, 5: "train", 6: "test", 7: None, 8: None}
    media = {1: "a", 2: "a", 3: "b", 4: "b", 5: "c", 6: "c", 7: "c", 8: "d"}
    for seed in range(9):
        assert {2, 4, 7} & draw_test(declared, media, 0.01, seed, "x") == {2}


def test_a_client_of_one_picture_only_trains() -> None:
    assert draw_test(dict.fromkeys(range(5)), dict.fromkeys(range(5), "a"), 0.5, 0, "x") == set()


@given(
    media=st.lists(st.sets(st.integers(0, 9), max_size=2), min_size=1, max_size=14),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 9),
)
@settings(deadline=None, max_examples=60, derandomize=True)
def test_no_file_is_on_both_sides(media: list[set[int]], share: float, seed: int) -> None:
    lines = dict(enumerate(media))
    test = draw_test(dict.fromkeys(lines), lines, share, seed, "a")
    tested, trained = (
        {m for i, own in lines.items() if (i in test) == side for m in own} for side in (True, False)
    )
    assert not tested & trained
    assert len(test) < len(lines)
    assert test or len(set(groups(media))) == 1
