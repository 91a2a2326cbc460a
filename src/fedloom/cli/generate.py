"""`fedloom generate`: samples of a text-to-image model as one labelled grid."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from fedloom.core.errors import ExperimentError
from fedloom.core.streams import torch_stream
from fedloom.experiment.yaml_rows import read_yaml
from fedloom.tasks.image_grid import write_grid


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

    `source` is a run's folder (its `model/generator`, or with `start` the generator before training) or a name for
    `Generator.load`. Raises ExperimentError without a prompt, for a run without a generator, and for a file that cannot be
    written.
    """
    from fedloom.models.generation.generator import Generator
    from fedloom.models.load import choose_device

    if not prompts or not all(p.strip() for p in prompts):
        raise ExperimentError('there is no prompt; say what to show, such as "a seven"')
    name = generator_of(source, start)
    _check_writable(picture)
    generator = Generator.load(name, choose_device(device))
    repeated = [prompt for prompt in prompts for _ in range(count)]
    samples = generator.sample(repeated, torch_stream(seed, "generate"), guidance=guidance, steps=steps)
    samples = samples.expand(-1, 3, -1, -1)  # grey pictures have one channel
    write_grid(samples.reshape(len(prompts), count, *samples.shape[1:]), picture, prompts)


def generator_of(source: str, start: bool = False) -> str:
    """The name or folder to load for a run's folder or a generator's name. Raises ExperimentError for a run that has none."""
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
        settings = read_yaml(run / "experiment.yaml")
        try:
            return str(settings["model"]["synthesis"]["generator"])
        except (KeyError, TypeError) as error:
            raise ExperimentError(
                f"{run / 'experiment.yaml'} names no generator (model.synthesis)"
            ) from error
    return str(run / "model" / "generator")


def _check_writable(picture: Path) -> None:
    """Raise ExperimentError before anything is sampled, for a path that cannot be written."""
    if Image.registered_extensions().get(picture.suffix.lower()) not in ("PNG", "JPEG", "WEBP"):
        raise ExperimentError(
            f"--out: {picture} is no picture file that can be written; end its name with .png"
        )
    probe = picture.with_name(f".{picture.name}.part")
    try:
        if picture.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        picture.parent.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ExperimentError(f"--out: cannot write {picture}: {error.strerror}") from error
