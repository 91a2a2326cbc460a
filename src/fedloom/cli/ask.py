"""`fedloom ask`: one question to a finished run's model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fedloom.cli.output import echo
from fedloom.core.errors import ExperimentError


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
    from fedloom.data.media import MediaSettings
    from fedloom.experiment.run import held, load, read_experiment
    from fedloom.tasks.base import Question

    paths = {"image": image, "audio": audio, "video": video, "depth": depth, "thermal": thermal, "imu": imu}
    model = load(run_dir, client)
    experiment = read_experiment(run_dir)
    task, settings = experiment.task, getattr(experiment.data, "media", MediaSettings())
    asked = {**paths, "text": question, "pair": pair, "max_new_tokens": max_new_tokens}
    for part, value in asked.items():
        if value is not None and part not in task.inputs:
            option = "question" if part == "text" else part.replace("_", "-")
            raise ExperimentError(
                f"the run trained {task.title}, which reads {_options(task.inputs)}; leave --{option} out"
            )
    inputs = _media({name: path for name, path in paths.items() if path is not None}, settings)
    if unseen := [modality for modality in inputs if modality not in held(run_dir)]:
        raise ExperimentError(
            f"no client of the run held data of the kind {unseen[0]}, so that its model was not trained on it; "
            f"leave --{unseen[0]} out"
        )
    echo(task.answer(model, Question(inputs, question, pair, max_new_tokens or 32)))


def _options(inputs: Sequence[str]) -> str:
    """The options for these parts of a question."""
    return ", ".join("--" + ("question" if part == "text" else part.replace("_", "-")) for part in inputs)


def _media(paths: Mapping[str, Path], settings: Any) -> Any:
    """The files given on the command line, checked and decoded as the run's files were. Raises ExperimentError."""
    from fedloom.data.media import Media, check_media
    from fedloom.data.media.sample_files import MediaFiles

    def fault(media: Media, says: object) -> ExperimentError:
        return ExperimentError(f"--{media.modality}: {media.source} cannot be read: {says}")

    media = {modality: Media(modality, path, settings) for modality, path in paths.items()}
    for modality, path in paths.items():
        if not path.is_file():
            raise ExperimentError(f"--{modality}: there is no file {path}")
        try:
            check_media(modality, path, settings)
        except Exception as error:  # decoders raise anything; the user needs the file and the reason
            raise fault(media[modality], error) from error
    return MediaFiles(media, fault)
