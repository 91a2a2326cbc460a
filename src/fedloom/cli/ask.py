"""`fedloom ask`: one question to a finished run's model."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fedloom.cli.output import echo
from fedloom.core.errors import ExperimentError


def ask(
    run_dir: Annotated[Path, typer.Argument(help="the folder of a finished run")],
    image: Annotated[Path | None, typer.Option(help="a picture")] = None,
    audio: Annotated[Path | None, typer.Option(help="a sound file; it may be the spoken question")] = None,
    question: Annotated[
        str | None,
        typer.Option(help="the question in words, or the text to classify; not needed if it is spoken"),
    ] = None,
    pair: Annotated[
        str | None, typer.Option(help="the second text, for a classifier that compares two")
    ] = None,
    client: Annotated[str | None, typer.Option(help="ask this client's personal model")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="length limit of the answer", min=1)] = 32,
) -> None:
    """Ask the trained model about a picture, a sound, or a text."""
    from fedloom.experiment.run import load, read_experiment
    from fedloom.tasks.base import Question

    paths = {"image": image, "audio": audio}
    inputs = {name: _media(name, path) for name, path in paths.items() if path is not None}
    model = load(run_dir, client)
    task = read_experiment(run_dir).task
    echo(task.answer(model, Question(inputs, question, pair, max_new_tokens)))


def _media(modality: str, path: Path) -> Any:
    """Decode a file given on the command line. Raises ExperimentError."""
    from fedloom.data.media import check_media, decode_media

    if not path.is_file():
        raise ExperimentError(f"--{modality}: there is no file {path}")
    try:
        check_media(modality, path)
        return decode_media(modality, path)
    except Exception as error:  # decoders raise anything; the user needs the file and the reason
        raise ExperimentError(f"--{modality}: {path} cannot be read: {error}") from error
