"""`fedloom generate`: pictures of a run's generator, or of any, as one labelled grid."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.core.files import write_atomic
from fedloom.core.streams import torch_stream

SHOWN = 64
"""Pictures of a shorter side are shown larger, by a whole factor, up to so many pixels."""
_GAP, _STRIP = 4, 16


def draw_grid(
    source: str,
    prompts: Sequence[str],
    picture: Path,
    *,
    count: int = 8,
    seed: int = 0,
    start: bool = False,
    guidance: float = 3.0,
    steps: int = 20,
    device: str = "auto",
) -> None:
    """Write `picture`: a row of `count` samples for each prompt, the prompt above it.

    `source` is a run's folder (then its `model/generator`, or with `start` what that run began with) or what `Generator.load`
    takes. Raises ExperimentError without a prompt, for a run without a generator, and for a file that cannot be written.
    """
    from fedloom.models.generation.generator import Generator
    from fedloom.models.load import choose_device

    if not prompts or not all(p.strip() for p in prompts):
        raise ExperimentError('there is no prompt; say what to show, such as "a seven"')
    where = generator_of(source, start)
    _check_writable(picture)
    generator = Generator.load(where, choose_device(device))
    asked = [prompt for prompt in prompts for _ in range(count)]
    taken = generator.sample(asked, torch_stream(seed, "generate"), guidance=guidance, steps=steps)
    buffer = io.BytesIO()
    grid(taken.reshape(len(prompts), count, *taken.shape[1:]), prompts).save(buffer, _format(picture))
    write_atomic(picture, buffer.getvalue(), durable=False)


def generator_of(source: str, start: bool = False) -> str:
    """What to load for a run's folder or a generator's name. Raises ExperimentError for a run that has none."""
    run = Path(source)
    if not (run / "experiment.yaml").is_file():
        if start:
            raise ExperimentError(
                f"--start: {source} is no run's folder; without --start it is taken as a generator"
            )
        return source
    if not (run / "model" / "generator").is_dir():
        raise ExperimentError(
            f"the run {source} has no generator in model/generator; name a finished run of a method that trains one, or tiny-t2i"
        )
    if start:
        settings = yaml.safe_load((run / "experiment.yaml").read_text(encoding="utf-8"))
        return str(settings["model"]["synthesis"]["generator"])
    return str(run / "model" / "generator")


def grid(pictures: Tensor, labels: Sequence[str]) -> Any:
    """A Pillow image of uint8 (rows, columns, 3, H, W), each row under its label."""
    rows, columns, _, height, width = pictures.shape
    factor = max(SHOWN // max(height, width), 1)
    tall, wide = height * factor + _GAP, width * factor + _GAP
    font = ImageFont.load_default()
    needed = max(int(font.getlength(label)) for label in labels) + 2 * _GAP
    sheet = Image.new("RGB", (max(columns * wide + _GAP, needed), rows * (tall + _STRIP) + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for row in range(rows):
        top = row * (tall + _STRIP)
        pen.text((_GAP, top + 2), labels[row], fill="black", font=font)
        for column in range(columns):
            pixels = pictures[row, column].expand(3, -1, -1).permute(1, 2, 0).numpy()
            tile = Image.fromarray(pixels).resize((width * factor, height * factor), Image.Resampling.NEAREST)
            sheet.paste(tile, (_GAP + column * wide, top + _STRIP))
    return sheet


def _format(picture: Path) -> str:
    kind = Image.registered_extensions().get(picture.suffix.lower())
    if kind not in ("PNG", "JPEG", "WEBP"):
        raise ExperimentError(
            f"--out: {picture} is no picture file that can be written; end its name with .png"
        )
    return kind


def _check_writable(picture: Path) -> None:
    """Find out before anything is sampled."""
    _format(picture)
    probe = picture.with_name(f".{picture.name}.part")
    try:
        if picture.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        picture.parent.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ExperimentError(f"--out: cannot write {picture}: {error.strerror}") from error
