"""`fedloom ask`: one question to a finished run's model."""

from pathlib import Path
from typing import Annotated

import typer

from fedloom.cli.output import echo


def ask(
    run_dir: Annotated[Path, typer.Argument(help="the folder of a finished run")],
    image: Annotated[Path | None, typer.Option(help="a picture")] = None,
    audio: Annotated[Path | None, typer.Option(help="a sound file; it may be the spoken question")] = None,
    video: Annotated[Path | None, typer.Option(help="a video, for a model that takes its frames")] = None,
    depth: Annotated[Path | None, typer.Option(help="a depth map: a 16-bit PNG in millimetres")] = None,
    thermal: Annotated[Path | None, typer.Option(help="a thermal picture: a grey PNG")] = None,
    imu: Annotated[Path | None, typer.Option(help="a motion trace: CSV or NPY")] = None,
    question: Annotated[
        str | None,
        typer.Option(help="the question in words, or the text to classify; not needed if it is spoken"),
    ] = None,
    pair: Annotated[
        str | None, typer.Option(help="the second text, for a classifier that compares two")
    ] = None,
    client: Annotated[str | None, typer.Option(help="ask this client's personal model")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="length limit of a generated answer; 32 if not given", min=1)
    ] = None,
) -> None:
    """Ask the trained model about a picture, a sound or another file, or a text."""
    from fedloom.experiment.finished_run import load

    model = load(run_dir, client)
    asked = {"image": image, "audio": audio, "video": video, "depth": depth, "thermal": thermal, "imu": imu}
    texts = {"text": question, "pair": pair, "max_new_tokens": max_new_tokens}
    given = {name: value for name, value in {**asked, **texts}.items() if value is not None}
    assert model.asker is not None  # noqa: S101 - `load` connects it
    echo(model.asker([given])[0])
