"""Any one file of a run removed, cut or flipped: the same bits, or one sentence, and no client's tensors are lost."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedloom.core.errors import DiskError, ExperimentError
from fedloom.core.seals import CHECKSUMS, read_sealed, write_sealed
from fedloom.experiment.finished_run import read_summary
from fedloom.experiment.report.load_study import read
from fedloom.experiment.report.predictions import predictions
from fedloom.experiment.run import run
from fedloom.experiment.settings import Experiment
from fedloom.experiment.study import planned
from tests.experiment.small_run import SETTINGS, contents, kill_in_round_two, quick_runs

FEW = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture],
}
DAMAGE = st.tuples(st.sampled_from(["removed", "cut", "flipped"]), st.integers(0, 999), st.integers(0, 7))
"""Kind, place in thousandths of the file, and bit; whole numbers, because a run flushes denormals for the process."""
WHICH = st.integers(0, 999)


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with quick_runs():
        yield


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed in round 2, its histories ahead of its checkpoint."""
    folder = tmp_path_factory.mktemp("cut") / "run"
    kill_in_round_two(lambda: run(Experiment.parse(SETTINGS), folder))
    return folder


@pytest.fixture(scope="module")
def finished(cut: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    shutil.copytree(cut, folder)
    run(planned(folder)[0], folder, resume=True)
    return folder


def results(folder: Path) -> dict[str, Any]:
    """All that a run is: model, histories without clock times, and clients' tensors."""
    found: dict[str, Any] = {
        n: b for n, b in contents(folder).items() if n.startswith(("model/", "state/clients/", "predictions"))
    }
    for name in ("metrics.jsonl", "ledger.jsonl"):
        lines = [json.loads(line) for line in (folder / name).read_bytes().split(b"\n") if line]
        found[name] = [{k: v for k, v in line.items() if k != "seconds"} for line in lines]
    return found


def damage(file: Path, how: tuple[str, int, int]) -> None:
    kind, place, bit = how
    data = bytearray(file.read_bytes())
    at = place * len(data) // 1000
    if kind == "removed" or not data:
        file.unlink()
    elif kind == "cut":
        file.write_bytes(data[:at])
    else:
        data[at] ^= 1 << bit
        file.write_bytes(data)


def sentence(do: Callable[[], Any]) -> str | None:
    """The error of a call, or None."""
    try:
        do()
    except ExperimentError as error:
        return str(error)
    return None


def copied(folder: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(folder, to)
    return to


@given(which=WHICH, how=DAMAGE)
@settings(max_examples=40, **FEW)
def test_a_resume_after_any_damage_ends_in_the_same_bits_or_one_sentence(
    which: int, how: tuple[str, int, int], cut: Path, finished: Path, tmp_path: Path
) -> None:
    folder = copied(cut, tmp_path / "run")
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    file = files[which * len(files) // 1000]
    damage(file, how)
    before = contents(folder / "state" / "clients")
    if (fault := sentence(lambda: run(planned(folder)[0], folder, resume=True))) is not None:
        assert "\n" not in fault
        left = contents(folder / "state" / "clients")
        own = {n: b for n, b in before.items() if n.endswith(".safetensors")}
        assert own.items() <= left.items(), f"{file} cost a client its tensors"
    else:
        assert results(folder) == results(finished), file


@pytest.mark.parametrize("name", ["index.jsonl", "metrics.jsonl", "ledger.jsonl", "predictions-start.jsonl"])
@pytest.mark.parametrize("kind", ["removed", "flipped"])
def test_no_unsealed_file_decides_on_resume(name: str, kind: str, cut: Path, tmp_path: Path) -> None:
    folder = copied(cut, tmp_path / "run")
    file = folder / "state" / "clients" / name if name == "index.jsonl" else folder / name
    damage(file, (kind, 100, 0))
    before = contents(folder / "state" / "clients")
    with pytest.raises(DiskError, match=rf"{name} is damaged: .* put it back from a copy"):
        run(planned(folder)[0], folder, resume=True)
    assert contents(folder / "state" / "clients") == before


def test_a_checkpoint_knows_its_parts(cut: Path, tmp_path: Path) -> None:
    folder = copied(cut, tmp_path / "run")
    shutil.rmtree(folder / "state" / "round-000001")
    with pytest.raises(DiskError, match="holds no checkpoint, although"):
        run(planned(folder)[0], folder, resume=True)
    folder = copied(cut, tmp_path / "run")
    (folder / "state" / "provenance.json").unlink()
    with pytest.raises(DiskError, match=r"provenance\.json is damaged"):
        run(planned(folder)[0], folder, resume=True)


@pytest.mark.parametrize("index", [True, False])
def test_a_run_of_a_version_without_seals_goes_on_and_loses_nothing(
    index: bool, cut: Path, finished: Path, tmp_path: Path
) -> None:
    folder = copied(cut, tmp_path / "run")
    file = folder / "state" / "round-000001" / "state.json"
    fields = {k: v for k, v in read_sealed(file).items() if k not in ("seals", "parts", "provenance")}
    fields["totals"].pop("accepted")
    write_sealed(file, fields)
    (folder / "state" / "provenance.json").unlink()
    before = contents(folder / "state" / "clients")
    if index:
        run(planned(folder)[0], folder, resume=True)
        assert results(folder) == results(finished)
    else:
        (folder / "state" / "clients" / "index.jsonl").unlink()
        with pytest.raises(DiskError, match=r"index\.jsonl is damaged"):
            run(planned(folder)[0], folder, resume=True)
        left = contents(folder / "state" / "clients")
        assert left == {n: b for n, b in before.items() if n != "index.jsonl"}


@given(which=WHICH, how=DAMAGE)
@settings(max_examples=40, **FEW)
def test_a_report_after_any_damage_shows_the_same_or_says_one_sentence(
    which: int, how: tuple[str, int, int], finished: Path, tmp_path: Path
) -> None:
    folder = copied(finished, tmp_path / "run")
    files = sorted(p for p in folder.rglob("*") if p.is_file() and "state" not in p.parts)
    damage(files[which * len(files) // 1000], how)

    def shown(place: Path) -> Any:
        [run_] = read(place).runs
        text = run_.experiment, run_.metrics, run_.ledger, run_.summary, run_.samples
        return text, predictions(place, "start"), predictions(place, "end"), read_summary(place)

    fault = sentence(lambda: shown(folder))
    assert "\n" not in (fault or "")
    assert fault is not None or shown(folder) == shown(finished)


def test_damage_to_a_result_says_how_to_have_it_again(finished: Path, tmp_path: Path) -> None:
    from fedloom.experiment.finished_run import load

    folder = copied(finished, tmp_path / "run")
    damage(folder / "model" / "projector.safetensors", ("flipped", 900, 3))
    with pytest.raises(DiskError, match=r"projector\.safetensors is damaged: .*--resume .* write it anew"):
        load(folder)
    run(planned(folder)[0], folder, resume=True)
    assert results(folder) == results(finished)
    (folder / CHECKSUMS).unlink()  # as an earlier version leaves it
    damage(folder / "model" / "projector.safetensors", ("cut", 500, 0))
    with pytest.raises(DiskError, match="is damaged"):
        load(folder)


def test_a_foundations_damaged_weights_are_one_sentence(clip_folder: Path, tmp_path: Path) -> None:
    from fedloom.models.clip.checkpoint import load_clip_checkpoint

    shutil.copytree(clip_folder / "clip", tmp_path / "clip")
    weights = tmp_path / "clip" / "model.safetensors"
    for data in (b"", b"\xff" * 100, weights.read_bytes()[:2000]):
        weights.write_bytes(data)
        with pytest.raises(ExperimentError, match="clip"):
            load_clip_checkpoint(str(tmp_path / "clip"))
