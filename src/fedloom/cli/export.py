"""`fedloom export`: a finished run's model for others."""

from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.text import Text

from fedloom.cli.output import out
from fedloom.core.errors import ExperimentError


def export(
    run_dir: Annotated[Path, typer.Argument(help="the folder of a finished run")],
    folder: Annotated[Path, typer.Option("--out", help="the folder to write; it must be new or empty")],
    client: Annotated[str | None, typer.Option(help="this client's personal model")] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="the whole model, its adapters merged, for transformers alone")
    ] = False,
    uniform: Annotated[
        bool,
        typer.Option("--uniform", help="adapters of one rank and the scale lora_alpha / r = 1, VeRA's, too"),
    ] = False,
    dtype: Annotated[
        str | None,
        typer.Option(help="of the stored weights: float32 | bfloat16 | float16; the base's if none"),
    ] = None,
    push: Annotated[
        str | None, typer.Option(help="upload to this model of the Hugging Face hub, ORG/NAME; private")
    ] = None,
    license: Annotated[
        str | None, typer.Option("--license", help="of the published model, for its card: apache-2.0")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="with --push: a public model")] = False,
) -> None:
    """Write a run's model for others: adapters for PEFT, uniform ones, or the whole model; with a model card."""
    from fedloom.core.new_folder import check_free
    from fedloom.experiment.export.push import check_push
    from fedloom.experiment.export.push import push as upload

    if merge and uniform:
        raise ExperimentError("--merge and --uniform are two forms of the model; give one")
    if public and push is None:
        raise ExperimentError("--public goes with --push ORG/NAME")
    if dtype is not None and not (merge or uniform):
        raise ExperimentError(
            "--dtype goes with --merge or --uniform; the run's own adapters stay as they are"
        )
    check_free(folder)
    if push is not None:
        check_push(push)
    from fedloom.experiment.export.export import DType
    from fedloom.experiment.export.export import export as write

    if dtype not in (None, *get_args(DType)):
        raise ExperimentError(f"--dtype: {dtype} is none of {', '.join(get_args(DType))}")
    form = "merged" if merge else "uniform" if uniform else "adapters"
    write(run_dir, folder, client=client, form=form, dtype=dtype, license=license)  # type: ignore[arg-type]
    out.print(Text(f"model {folder}"), soft_wrap=True)
    if push is not None:
        out.print(Text(f"pushed {upload(folder, push, public=public)}"), soft_wrap=True)
