"""Samples from files: preprocessed pictures per second, against `datasets` with torch's `DataLoader`.

`python -m benchmarks samples [--pictures 5000] [--megabytes 1] [--workers 2] [--batch 32] [--folder FOLDER]` writes pictures of
that size, half JPEG and half PNG, and reads all of them as batches of uint8 (B, 3, 224, 224): the rival from an ImageFolder with
the same image processor and as many workers; ours in a first pass, which fills the cache on disk, and in a second one from it.
The passes take turns in one process: rival, first, second; every second round begins with ours. As in a run, the server of
worker processes starts before the files are checked; with `--cold` in the first pass. With
`--workers 0` all is done in this process, where BENCH_CLOCK=processor counts its time alone.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.report import Row, clock, surroundings, table
from fedloom.data.media.accepted import SETTLED
from fedloom.data.sample import Sample
from fedloom.data.sources.folder import load_folder
from fedloom.models.encoders.readers import PictureReader, TowerPreprocessing
from fedloom.models.loading.examples import Examples
from fedloom.models.loading.loader import Loader
from fedloom.models.loading.loader_pool import start_server
from fedloom.models.mllm.media import MediaReading

DISTINCT = 20
"""Pictures that are drawn; the others are copies with bytes of their own behind the end, which no decoder reads."""


def write_pictures(folder: Path, count: int, megabytes: float) -> None:
    """A client's folder, which is an ImageFolder, too."""
    folder.mkdir(parents=True)
    stream = np.random.default_rng(0)
    drawn: list[tuple[str, bytes]] = []
    for k in range(min(DISTINCT, count)):
        suffix = ("jpg", "png")[k % 2]
        drawn.append((suffix, _picture(stream, suffix, megabytes * 1e6)))
    lines = []
    for i in range(count):
        suffix, content = drawn[i % len(drawn)]
        name = f"{i:05d}.{suffix}"
        (folder / name).write_bytes(content + i.to_bytes(4, "big"))
        lines.append(json.dumps({"file_name": name, "question": f"{i}?", "answer": "yes"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def _picture(stream: np.random.Generator, suffix: str, size: float) -> bytes:
    """Smooth colours with grain, in the largest size that a file of `size` bytes holds to within 5 %."""
    import io

    side, content = 900, b""
    for _ in range(6):
        small = stream.integers(0, 256, (side // 40 + 2, side // 30 + 2, 3), np.uint8)
        smooth = Image.fromarray(small).resize((side * 4 // 3, side), Image.Resampling.BICUBIC)
        grain = stream.normal(0, 6 if suffix == "jpg" else 2, (side, side * 4 // 3, 3))
        picture = Image.fromarray((np.asarray(smooth) + grain).clip(0, 255).astype(np.uint8))
        file = io.BytesIO()
        picture.save(
            file, "JPEG" if suffix == "jpg" else "PNG", **({"quality": 90} if suffix == "jpg" else {})
        )
        content = file.getvalue()
        if abs(len(content) / size - 1) < 0.05:
            break
        side = round(side * (size / len(content)) ** 0.5)
    return content


class _Transform:
    """The processor on a batch of rows, in the DataLoader's workers."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        pixels = [
            self.processor(p.convert("RGB"), do_rescale=False, do_normalize=False, return_tensors="pt")[
                "pixel_values"
            ][0]
            for p in rows["image"]
        ]
        return {"pixels": pixels}


def _rival(folder: Path, processor: Any, workers: int, batch: int) -> Callable[[], Iterable[torch.Tensor]]:
    from datasets import load_dataset
    from torch.utils.data import DataLoader

    os.environ["HF_DATASETS_OFFLINE"] = "1"
    rows = load_dataset(
        "imagefolder", data_dir=str(folder), split="train", cache_dir=str(folder.parent.parent / "hf")
    )
    rows = rows.select_columns(["image"]).with_transform(_Transform(processor))

    def batches() -> Iterable[torch.Tensor]:
        for made in DataLoader(rows, batch, num_workers=workers, prefetch_factor=2 if workers else None):
            yield made["pixels"]

    return batches


def _ours(loader: Loader, samples: list[Sample], batch: int) -> Iterable[torch.Tensor]:
    examples = Examples(samples, lambda sample, inputs: inputs, loader, "client")
    for start in range(0, len(samples), batch):
        yield torch.stack([example["image"] for example in examples[start : start + batch]])


def _seconds(batches: Iterable[torch.Tensor]) -> tuple[float, int]:
    began, total = clock(), 0
    for batch in batches:
        total += int(batch.long().sum())
    seconds = clock() - began
    print(f"a pass: {seconds:.1f} s", flush=True)
    return seconds, total


def main(arguments: list[str]) -> list[Row]:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks samples")
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--megabytes", type=float, default=1.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--cold", action="store_true", help="start the workers' server in the first pass")
    parser.add_argument("--folder", type=Path, default=None)
    chosen = parser.parse_args(arguments)
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    place = Path(tempfile.mkdtemp(dir=chosen.folder))
    try:
        write_pictures(place / "silos" / "client", chosen.pictures, chosen.megabytes)
        sizes = [f.stat().st_size for f in (place / "silos" / "client").glob("0*")]
        print(f"{len(sizes)} pictures of {sum(sizes) / len(sizes) / 1e6:.2f} MB", flush=True)
        processor = CLIPImageProcessorPil()
        time.sleep(SETTLED)  # a file just written is not cached
        if chosen.workers and not chosen.cold:
            start_server()
        began = time.perf_counter()
        [client] = load_folder(place / "silos")
        samples = [*client.train, *client.test]
        print(
            f"check of all files, once: {len(samples) / (time.perf_counter() - began):.0f} a second",
            flush=True,
        )
        rival = _rival(place / "silos" / "client", processor, chosen.workers, chosen.batch)
        reading = MediaReading(TowerPreprocessing({"image": PictureReader(processor, "CLIP", "-")}))
        first: list[float] = []
        second: list[float] = []
        theirs: list[float] = []
        sums: set[int] = set()

        def of_rival() -> None:
            seconds, total = _seconds(rival())
            theirs.append(seconds)
            sums.add(total)

        def of_ours(number: int) -> None:
            os.environ["FEDLOOM_CACHE"] = str(place / f"cache-{number}")
            loader = Loader(chosen.workers, 10**11, 0)
            loader.use(reading)
            for taken in (first, second):
                seconds, total = _seconds(_ours(loader, samples, chosen.batch))
                taken.append(seconds)
                sums.add(total)
            loader.close()
            shutil.rmtree(place / f"cache-{number}")

        for number in range(chosen.repetitions):
            turns: list[Callable[[], None]] = [of_rival, partial(of_ours, number)]
            for turn in turns if number % 2 == 0 else reversed(turns):
                turn()
        if len(sums) > 1:
            sys.exit("the two sides read different pixels")
        for name, taken in (
            ("datasets + DataLoader", theirs),
            ("first pass", first),
            ("second pass", second),
        ):
            each = ", ".join(f"{chosen.pictures / s:.1f}" for s in taken)
            print(f"{name}: {each} pictures a second", flush=True)
        what = f"{chosen.pictures} pictures of {chosen.megabytes:g} MB, {chosen.workers} workers"
        rows = [
            Row("samples, first pass", what, "datasets + DataLoader", "1", first, theirs, 0.0),
            Row("samples, second pass", what, "datasets + DataLoader", "", second, theirs, 0.0),
        ]
        print("\n" + table(rows) + "\n\n" + surroundings())
        return rows
    finally:
        shutil.rmtree(place, ignore_errors=True)
