"""Examples from files: read ahead, kept within memory, the same bits by workers, here, and after workers died."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedloom.core.errors import ExperimentError
from fedloom.data.media import Media, MediaSettings, accepted
from fedloom.data.media.sample_files import MediaFiles
from fedloom.data.sample import Sample
from fedloom.models.encoders.readers import PictureReader, TowerPreprocessing
from fedloom.models.image_processing import Pixels
from fedloom.models.loading.examples import Examples, part_of
from fedloom.models.loading.loader import Loader
from fedloom.models.loading.reading import reading_key, sample_key
from fedloom.models.mllm.media import MediaReading

COUNT = 10


def reading(side: int = 8) -> MediaReading:
    processor = Pixels((side, side), (side, side))._processor
    return MediaReading(TowerPreprocessing({"image": PictureReader(processor, "", "")}))


def unusable(media: Media, fault: str) -> ExperimentError:
    return ExperimentError(f"line 3 of mine: {media.source.name}: {fault}")


@pytest.fixture
def samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Sample]:
    """Pictures in files, and one inside another file."""
    monkeypatch.setattr(accepted, "SETTLED", 0.0)
    noise = np.random.default_rng(0)
    found = []
    for i in range(COUNT):
        path = tmp_path / f"{i}.png"
        Image.fromarray(noise.integers(0, 256, (20 + i, 30, 3), np.uint8)).save(path)
        source = partial(path.with_suffix(".bytes").read_bytes) if i == 3 else path
        path.with_suffix(".bytes").write_bytes(path.read_bytes())
        files = MediaFiles({"image": Media("image", source)}, unusable)
        found.append(Sample(f"s{i}", files, "what?", "it", {"unpicklable": lambda: 0}))
    return found


@pytest.fixture
def loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Loader]]:
    monkeypatch.setenv("FEDLOOM_CACHE", str(tmp_path / "cache"))
    made: list[Loader] = []

    def make(workers: int = 0, cache: int = 0, memory: int = 10**8) -> Loader:
        made.append(Loader(workers, cache, memory))
        made[-1].use(reading())
        return made[-1]

    yield make
    for one in made:
        one.close()


def examples(samples: list[Sample], loader: Loader) -> Examples:
    return Examples(samples, lambda sample, inputs: inputs["image"], loader, "me")


def by_worker(loader: Loader) -> None:
    """Wait until a worker has answered."""
    pool, sent = loader._loaders, None
    while pool is None or not pool.ready:
        sent = sent or loader.ahead(Sample("x", MediaFiles({}, unusable), "", ""))
        pool = loader._loaders
        time.sleep(0.01)


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_workers_give_the_same_bits_until_and_after_they_die(samples, loader) -> None:
    here = loader()
    want = list(examples(samples, here))
    assert here.reads_here == COUNT
    workers = loader(workers=2)
    by_worker(workers)
    read = examples(samples, workers)
    assert same(read[:5], want[:5])
    assert workers.reads_here == 0
    for pid in workers._loaders._pool._processes:
        os.kill(pid, signal.SIGKILL)
    assert same(read[:], want)
    again = examples(samples, workers)
    assert same(list(again), want)


def test_a_broken_file_raises_its_own_sentence(samples, loader, tmp_path) -> None:
    (tmp_path / "4.png").write_bytes((tmp_path / "4.png").read_bytes()[:60])
    faults = []
    for workers in (0, 2):
        one = loader(workers=workers)
        if workers:
            by_worker(one)
        read = examples(samples, one)
        read[:4]
        with pytest.raises(ExperimentError, match=r"line 3 of mine: 4\.png: ") as caught:
            read[4]
        assert read[5:] is not None
        faults.append(str(caught.value))
    assert faults[0] == faults[1]


def test_the_next_ones_are_read_ahead_in_the_order_that_is_told(samples, loader, monkeypatch) -> None:
    one = loader()
    asked: list[str] = []
    monkeypatch.setattr(Loader, "depth", 2)
    monkeypatch.setattr(one, "ahead", lambda sample: asked.append(sample.uid))
    read = examples(samples, one)
    read[2]
    assert asked == ["s2", "s3", "s4"], "without an order, those that follow"
    asked.clear()
    read.follow([7, 1, 9, 0])
    read[7]
    assert asked == ["s7", "s7", "s1"]
    read[1]
    assert asked[3:] == ["s1", "s9", "s0"]


def test_a_batch_of_the_depth_leaves_as_many_ahead_of_it(samples, loader, monkeypatch) -> None:
    one = loader()
    asked: list[str] = []
    monkeypatch.setattr(Loader, "depth", 2)
    monkeypatch.setattr(one, "ahead", lambda sample: asked.append(sample.uid) or Future())
    read = examples(samples, one)
    read[:2]
    assert asked == ["s0", "s1", "s2", "s3"]
    read[2:4]
    assert asked[4:] == ["s4", "s5"]


def test_examples_beyond_the_memory_are_read_again(samples, loader) -> None:
    kept, dropped = loader(), loader(memory=0)
    for one, reads in ((kept, COUNT), (dropped, 2 * COUNT)):
        read = examples(samples, one)
        assert same(list(read), list(read))
        assert one.reads_here == reads


@pytest.mark.parametrize(
    ("workers", "count", "started"), [("auto", 63, 0), ("auto", 64, 1), (1, 1, 1), (1, 0, 0), (0, 64, 0)]
)
def test_the_server_starts_before_the_model_where_samples_will_need_it(
    samples, loader, monkeypatch, workers, count, started
) -> None:
    starts: list[bool] = []
    monkeypatch.setattr("fedloom.models.loading.loader.start_server", lambda: starts.append(True))
    monkeypatch.setattr("fedloom.models.loading.loader.cores", lambda: 2)
    text = Sample("t", {}, "what?", "it")
    one = loader(workers=workers)
    one.expect([text, *[samples[0]] * count, text])
    assert len(starts) == started
    assert one._loaders is None, "workers are started by the first sample that is not cached"
    assert bool(one._count) is (workers == 1 or bool(started))


def test_a_second_run_reads_from_the_cache_alone(samples, loader) -> None:
    first = loader(cache=10**6)
    want = list(examples(samples, first))
    assert first.disk.written == COUNT
    second = loader(cache=10**6)
    assert same(list(examples(samples, second)), want)
    assert second.reads_here == 0


def test_parts_read_their_own_places_only(samples, loader) -> None:
    one = loader()
    part = part_of(part_of(examples(samples, one), [8, 2, 5, 7]), [1, 3])
    assert one.reads_here == 0
    assert same(list(part), [reading()(samples[i])["image"] for i in (2, 7)])
    assert same(part[1:], [reading()(samples[7])["image"]])
    assert one.reads_here == 2


def test_the_key_changes_with_all_that_decides_the_result(samples, tmp_path) -> None:
    def key(sample: Sample, side: int = 8) -> str | None:
        of = reading(side)
        return sample_key(sample, of, reading_key(of))

    first = samples[0]
    [media] = first.modalities.media.values()

    def changed(**fields: object) -> Sample:
        return replace(first, modalities=MediaFiles({"image": replace(media, **fields)}, unusable))

    keys = [key(s) for s in samples] + [key(first, 10), key(changed(part=(0, 2)))]
    keys.append(key(changed(settings=MediaSettings(grey_bits=12))))
    path = tmp_path / "0.png"
    path.write_bytes(path.read_bytes() + b"\0")
    keys.append(key(first))
    assert None not in keys
    assert len(set(keys)) == len(keys)
    assert key(replace(first, question="other?")) == key(first), "texts are no part of a picture"
    assert key(replace(first, modalities={"image": torch.zeros(3, 8, 8)})) is None


SCRIPT = """
import os, signal, time
from tests.models.loading.test_examples import MediaFiles, Loader, Sample, reading, unusable
print("started", flush=True)
loader = Loader(1)
loader.use(reading())
sent = loader.ahead(Sample("x", MediaFiles({}, unusable), "", ""))
sent.result()
print(*loader._loaders._pool._processes, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_script_without_a_guard_runs_once_and_its_workers_end_with_it(tmp_path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = Path(__file__).parents[3]
    env = {**os.environ, "PYTHONPATH": f"{root}:{root / 'src'}"}
    ended = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    said, pid = ended.stdout.split()
    assert said == "started"
    for _ in range(500):
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    pytest.fail("the worker lives on")
