"""One clear sentence for every fault of a client's folder, its records and its files."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from fedloom.core.errors import ExperimentError
from fedloom.data.sample import SAMPLE_RATE
from fedloom.data.sources.folder import load_folder
from tests.data.sources.client_folders import QA, picture, refusal, write


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, float("nan")])
def test_an_impossible_test_share(tmp_path: Path, share: float) -> None:
    write(tmp_path / "a", QA)
    with pytest.raises(ExperimentError, match="between 0 and 1"):
        load_folder(tmp_path, test_share=share)


# Mistakes


def test_the_root_is_missing(tmp_path: Path) -> None:
    assert "There is no data folder" in refusal(tmp_path / "nowhere")


def test_no_clients(tmp_path: Path) -> None:
    (tmp_path / ".hidden").mkdir()
    assert "holds no clients" in refusal(tmp_path)


def test_a_client_without_metadata(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert "Client 'a' has no metadata.jsonl" in refusal(tmp_path)


def test_empty_metadata(tmp_path: Path) -> None:
    write(tmp_path / "a", "", "  ")
    assert "Client 'a'" in refusal(tmp_path)
    assert "is empty" in refusal(tmp_path)


def test_metadata_that_is_no_text(tmp_path: Path) -> None:
    write(tmp_path / "a")
    (tmp_path / "a/metadata.jsonl").write_bytes(b'{"question": "\xff"}')
    assert "cannot be read as UTF-8 text" in refusal(tmp_path)


def test_numbers_lists_and_further_keys_are_read_as_in_a_table(tmp_path: Path) -> None:
    lines = [
        {"question": "how many?", "answer": 3, "colour": "red", "split": "train"},
        {"question": "is it so?", "answer": True, "id": 7, "split": "training"},
        {"question": "which?", "answer": ["a cat", "a dog", "a dog"], "colour": "blue", "split": "test"},
    ]
    write(tmp_path / "a", *lines)
    write(tmp_path / "b", *lines)
    first, second = load_folder(tmp_path)
    assert [s.answer for s in first.train] == ["3", "true"]
    assert [s.answer for s in first.test] == ["a dog"]
    assert first.notes == second.notes == ("metadata.jsonl: columns not read: colour, id",)


def test_a_validation_split_is_tested_where_there_is_no_other(tmp_path: Path) -> None:
    write(tmp_path / "a", {**QA, "split": "train"}, {**QA, "question": "and now?", "split": "validation"})
    (client,) = load_folder(tmp_path)
    assert [s.question for s in client.test] == ["and now?"]
    assert any("validation rows are the test rows" in note for note in client.notes)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"question": "x"', "is no JSON object (Expecting ',' delimiter)."),
        ("[" * 100_000, "is no JSON object"),
        ('["question"]', "should be a JSON object, and is a list"),
        ({**QA, "imu": "x.npy"}, "the imu file 'x.npy' cannot be used (its shape is (3,)"),
        ({**QA, "split": "later"}, "\"split\" should be train, validation or test, and is 'later'"),
        ({"question": "x", "answer": float("inf")}, '"answer" is infinite'),
        ({"question": "x", "answer": {"says": "x"}}, '"answer" should be a text, a number or a list of them'),
        ({"answer": "x"}, '"question" is missing'),
        ({"question": "x"}, '"answer" is missing'),
        ({"question": " ", "answer": "x"}, "\"question\" should be a text that is not empty, and is ' '"),
        ({"question": "x", "answer": "\ud800"}, '"answer" holds half of a surrogate pair'),
        ({**QA, "image": 3}, '"image" should be a file name, and is 3'),
        ({**QA, "image": ""}, "\"image\" should be a file name, and is ''"),
        ({**QA, "image": "no.png"}, "the image 'no.png' is missing"),
        ({**QA, "image": "."}, "the image '.' is missing"),
        ({**QA, "image": "x\0.png"}, "the image 'x\\x00.png' is "),
        ({**QA, "image": "x" * 5000 + ".png"}, "xx.png' is "),
        ({**QA, "image": "x.png", "file_name": "x.png"}, "names two image files"),
        ({**QA, "image": "../b/x.png"}, "the image '../b/x.png' leads out of the client's folder"),
        ({**QA, "image": "link.png"}, "the image 'link.png' leads out of the client's folder"),
        ({**QA, "image": "linked/x.png"}, "the image 'linked/x.png' leads out of the client's folder"),
        ({**QA, "audio": "/etc/hostname"}, "the audio '/etc/hostname' leads out of the client's folder"),
        (
            {**QA, "image": "x.npy"},
            "'x.npy' cannot be used (its name should end in one of .png",
        ),
        (
            {**QA, "audio": "x.png"},
            "'x.png' cannot be used (its name should end in one of .wav",
        ),
        ({**QA, "depth": "x.png"}, "depth is a 16-bit grey PNG in millimetres, and this has mode RGB"),
        ({**QA, "thermal": "x.png"}, "thermal is a grey PNG of 8 or 16 bits, and this has mode RGB"),
    ],
    ids=lambda value: None if isinstance(value, str) else "record",
)
def test_a_wrong_record(tmp_path: Path, line: object, says: str) -> None:
    picture(tmp_path / "b/x.png")
    write(tmp_path / "b", QA)
    picture(tmp_path / "a/x.png")
    np.save(tmp_path / "a/x.npy", np.zeros(3))
    (tmp_path / "a/link.png").symlink_to(tmp_path / "b/x.png")
    (tmp_path / "a/linked").symlink_to(tmp_path / "b")
    write(tmp_path / "a", QA, "", line)
    sentence = refusal(tmp_path)
    assert sentence.startswith(f"Client 'a', line 3 of {tmp_path / 'a' / 'metadata.jsonl'}: ")
    assert says in sentence


def test_links_in_a_circle(tmp_path: Path) -> None:
    write(tmp_path / "a", {"image": "one.png", **QA})
    (tmp_path / "a/one.png").symlink_to("two.png")
    (tmp_path / "a/two.png").symlink_to("one.png")
    assert "'one.png' is" in refusal(tmp_path)


def test_metadata_that_is_a_link_to_outside(tmp_path: Path) -> None:
    elsewhere = write(tmp_path / "elsewhere", QA)
    (tmp_path / "data/a").mkdir(parents=True)
    (tmp_path / "data/a/metadata.jsonl").symlink_to(elsewhere / "metadata.jsonl")
    assert "links to a file outside the client's folder" in refusal(tmp_path / "data")


NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.6])
def test_a_broken_picture(tmp_path: Path, suffix: str, share: float) -> None:
    cut(picture(tmp_path / f"a/x.{suffix}", NOISE), share)
    write(tmp_path / "a", {"image": f"x.{suffix}", **QA})
    assert f"Client 'a', line 1 of {tmp_path}" in refusal(tmp_path)
    assert f"the image file 'x.{suffix}' cannot be used (" in refusal(tmp_path)
    assert ("it is empty" in refusal(tmp_path)) == (share == 0)


def test_a_picture_with_one_wrong_byte(tmp_path: Path) -> None:
    file = picture(tmp_path / "a/x.png", NOISE)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    write(tmp_path / "a", {"image": "x.png", **QA})
    assert "'x.png' cannot be used" in refusal(tmp_path)


def test_a_picture_without_a_known_range(tmp_path: Path) -> None:
    picture(tmp_path / "a/x.tiff", np.ones((3, 5), np.float32))
    write(tmp_path / "a", {"image": "x.tiff", **QA})
    assert "32-bit pixels have no agreed range" in refusal(tmp_path)


def wav(samples: np.ndarray, **options: object):
    return lambda path: soundfile.write(path, samples, SAMPLE_RATE, **options)


def truncated_flac(path: Path) -> None:
    soundfile.write(path, np.random.default_rng(0).uniform(-1, 1, 50_000), SAMPLE_RATE, format="FLAC")
    cut(path, 0.5)


@pytest.mark.parametrize(
    ("make", "file", "says"),
    [
        (lambda path: path.write_bytes(b""), "y.wav", "it is empty"),
        (lambda path: path.write_bytes(b"no sound at all" * 20), "y.wav", "Format not recognised"),
        (wav(np.zeros(0)), "y.wav", "it holds no sound"),
        (wav(np.array([0.1, np.nan]), subtype="FLOAT"), "y.wav", "values that are not finite"),
        (truncated_flac, "y.flac", ""),
    ],
    ids=["empty", "noise", "no frames", "not finite", "cut short"],
)
def test_a_broken_sound(tmp_path: Path, make, file: str, says: str) -> None:
    write(tmp_path / "a", {"audio": file, **QA})
    make(tmp_path / "a" / file)
    sentence = refusal(tmp_path)
    assert f"Client 'a', line 1 of {tmp_path}" in sentence
    assert f"the audio file '{file}' cannot be used (" in sentence
    assert says in sentence
