"""The sample gallery: some test samples of a run as PNG and WAV, with the answers before and after training."""

import json
from collections import Counter, defaultdict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image, ImageDraw
from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.core.files import write_atomic
from fedloom.data.conversation import exchanges
from fedloom.data.sample import SAMPLE_RATE, Sample, modality_of
from fedloom.federation.run_folder import RunFolder
from fedloom.tasks.evaluation import TestSet

SHOWN = ("image", "video", "audio", "depth", "thermal", "imu")
"""Modalities that can be shown or played."""
FRAMES, WIDTH, HEIGHT = 8, 480, 120
"""Frames of a video side by side, at most, and the largest size of each in pixels."""
AXES = ("#c0392b", "#27ae60", "#2962c4")
"""Colours of x, y and z."""


def write_gallery(folder: RunFolder, tests: TestSet, per_kind: int) -> None:
    """Write `samples/samples.json` and its media: up to `per_kind` samples of each kind, in turn from every client."""
    place = folder.path / "samples"
    place.mkdir(exist_ok=True)
    before, after = folder.predictions("start"), folder.predictions("end")
    entries = []
    for number, (client, sample) in enumerate(choose(tests, per_kind)):
        entry: dict[str, Any] = {
            "uid": sample.uid,
            "client": client,
            "kind": sample.kind,
            "question": _question(sample),
            "reference": sample.answer,
            "before": before.get(sample.uid),
            "after": after.get(sample.uid),
            "spoken": sample.meta.get("spoken"),
        }
        counts = Counter(map(modality_of, sample.modalities))
        if several := {m: n for m, n in counts.items() if n > 1}:
            entry["counts"] = several
        if (answers := exchanges(sample.conversation)) > 1:
            entry["exchanges"] = answers
        entries.append(entry | dict.fromkeys(SHOWN) | save_media(sample, place, f"{number:03d}"))
    write_atomic(place / "samples.json", (json.dumps(entries, indent=1, ensure_ascii=False) + "\n").encode())


def _question(sample: Sample) -> str:
    """The question; for a sentence pair, both sentences."""
    pair = sample.meta.get("pair")
    return sample.question if pair is None else f"{sample.question} | {pair}"


def save_media(sample: Sample, folder: Path, stem: str) -> dict[str, str]:
    """Write the first medium of each modality; returns file names by modality. Raises ExperimentError where none can be."""
    held = {m: sample.modalities[m] for m in SHOWN if m in sample.modalities}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return {m: write_media(raw, m, folder, f"{stem}-{m}") for m, raw in held.items()}
    except (OSError, soundfile.SoundFileError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ExperimentError(f"cannot write pictures and sounds to {folder}: {reason}") from error


def choose(tests: TestSet, per_kind: int) -> list[tuple[str, Sample]]:
    """Up to `per_kind` samples of each kind, taken from the clients in turn."""
    by_kind: dict[str, dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for client, sample in zip(tests.of, tests.samples, strict=True):
        by_kind[sample.kind][client].append(sample)
    chosen = []
    for kind in sorted(by_kind):
        queues = [(client, iter(samples)) for client, samples in sorted(by_kind[kind].items())]
        count = 0
        while queues and count < per_kind:
            client, samples = queues.pop(0)
            if (candidate := next(samples, None)) is not None:
                chosen.append((client, candidate))
                queues.append((client, samples))
                count += 1
    return chosen


def write_media(raw: Tensor, modality: str, folder: Path, stem: str) -> str:
    """Write one raw input as PNG or WAV; returns the file's name. Depth and thermal are scaled to their own range.

    A video is its first frames side by side; a motion trace two plots, acceleration above rotation.
    """
    if modality == "audio":
        sound = BytesIO()  # soundfile's own error does not say that a disk is full
        soundfile.write(sound, raw.numpy(), SAMPLE_RATE, format="WAV", subtype="PCM_16")
        (folder / f"{stem}.wav").write_bytes(sound.getvalue())
        return f"{stem}.wav"
    if modality == "image":
        shown = Image.fromarray(raw.permute(1, 2, 0).numpy())
    elif modality == "video":
        shown = _strip(raw[:FRAMES])
    elif modality == "imu":
        shown = _plot(raw)
    else:
        low, high = float(raw.min()), float(raw.max())
        scaled = ((raw[0] - low) / max(high - low, 1e-9) * 255).round()
        shown = Image.fromarray(scaled.numpy().astype(np.uint8))
    shown.save(folder / f"{stem}.png")
    return f"{stem}.png"


def _strip(frames: Tensor) -> Image.Image:
    """Frames (N, 3, H, W) side by side."""
    height, width = frames.shape[2:]
    scale = min(HEIGHT / height, WIDTH / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    strip = Image.new("RGB", (len(frames) * size[0], size[1]))
    for i, frame in enumerate(frames):
        strip.paste(Image.fromarray(frame.permute(1, 2, 0).numpy()).resize(size), (i * size[0], 0))
    return strip


def _plot(trace: Tensor) -> Image.Image:
    """A motion trace (6, T): x, y and z of acceleration above those of rotation, each three on their own range."""
    plot = Image.new("RGB", (WIDTH, 2 * HEIGHT), "white")
    draw = ImageDraw.Draw(plot)
    across = np.linspace(0, WIDTH - 1, trace.shape[1])
    for half in (0, 1):
        values = trace[3 * half : 3 * half + 3].numpy()
        low, high = float(values.min()), float(values.max())
        for axis, colour in zip(values, AXES, strict=True):
            down = HEIGHT * half + (HEIGHT - 5) - (axis - low) / max(high - low, 1e-9) * (HEIGHT - 10)
            draw.line(list(zip(across.tolist(), down.tolist(), strict=True)), fill=colour, width=1)
    draw.line([(0, HEIGHT), (WIDTH, HEIGHT)], fill="#bbbbbb", width=1)
    return plot
