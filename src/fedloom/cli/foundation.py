"""`fedloom foundation`: list the shipped pre-trained models, and build them."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from fedloom.cli.output import out, plain_table
from fedloom.core.errors import ExperimentError

app = typer.Typer(no_args_is_help=True, help="Frozen pre-trained models: list them, or build the small ones.")


@app.command("list", epilog="Example: fedloom foundation list")
def foundation_list() -> None:
    """List the foundations that ship with the package."""
    from fedloom.models.load import shipped

    rows = [(name, f"{size / 1e6:.1f} MB", str(folder)) for name, size, folder in shipped()]
    out.print(plain_table(("name", "size", "folder"), rows))


@app.command("build", epilog="Example: fedloom foundation build mllm --out runs/tiny-mllm")
def foundation_build(
    what: Annotated[
        str,
        typer.Argument(
            help="mllm: the tiny multimodal LLM; text: RoBERTa; clip: CLIP; t2i: text-to-image; captioner: BLIP; "
            "resnet, vit, bert, distilbert: encoders of clients with models of their own"
        ),
    ],
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="folder for the foundation; runs/tiny-... if none")
    ] = None,
    seed: Annotated[int, typer.Option(help="the one seed", min=0)] = 0,
    steps: Annotated[
        int | None, typer.Option(help="training steps; fewer are quicker and worse", min=2)
    ] = None,
    device: Annotated[str, typer.Option(help="auto | cpu | cuda")] = "auto",
    classes: Annotated[
        str | None, typer.Option(help='t2i only: the digits that it shall know, such as "zero,one,two"')
    ] = None,
) -> None:
    """Pre-train a small foundation on public data of the small worlds; the shipped one was made by this command."""
    from fedloom.federation.run_folder import RunFolder
    from fedloom.models.generation.checkpoint import need_diffusers
    from fedloom.models.load import choose_device
    from fedloom.models.pretraining import captioner as build_captioner
    from fedloom.models.pretraining import client_encoders as build_client
    from fedloom.models.pretraining import clip as build_clip
    from fedloom.models.pretraining import generator as build_generator
    from fedloom.models.pretraining import mllm as build_mllm
    from fedloom.models.pretraining import roberta as build_roberta

    builders: dict[str, tuple[Any, str]] = {
        "mllm": (build_mllm.build, "tiny-mllm"),
        "text": (build_roberta.build, "tiny-roberta"),
        "clip": (build_clip.build, "tiny-clip"),
        "t2i": (build_generator.build, "tiny-t2i"),
        "captioner": (build_captioner.build, "tiny-captioner"),
        **{
            name.removeprefix("tiny-"): (partial(build_client.build, name), name)
            for name in build_client.STEPS
        },
    }
    if what not in builders:
        raise ExperimentError(f"unknown foundation {what}; what can be built are {', '.join(builders)}")
    options: dict[str, Any] = {} if steps is None else {"steps": steps}
    if classes is not None:
        if what != "t2i":
            raise ExperimentError(f"--classes is for t2i, not for {what}; leave it out")
        options["classes"] = build_generator.known_classes(classes)
    if what == "t2i":
        need_diffusers()
    build, name = builders[what]
    folder = out_dir or Path("runs") / name
    RunFolder(folder).create()
    build(
        folder,
        seed=seed,
        device=str(choose_device(device)),
        log=lambda line: out.print(Text(line)),
        **options,
    )


@app.command(
    "import-imagebind",
    epilog="Example: fedloom foundation import-imagebind imagebind_huge.pth --modalities image,audio --out models/imagebind",
)
def foundation_import_imagebind(
    checkpoint: Annotated[Path, typer.Argument(help="the published imagebind_huge.pth")],
    folder: Annotated[Path, typer.Option("--out", help="the folder to write; it must be new or empty")],
    modalities: Annotated[
        str | None, typer.Option(help='the encoders to keep, such as "image,audio"; all if none')
    ] = None,
) -> None:
    """Turn the published ImageBind checkpoint into a folder for model.encoder; nothing in the file is run."""
    from fedloom.models.imagebind.convert import convert_official

    names = None if modalities is None else [m.strip() for m in modalities.split(",") if m.strip()]
    convert_official(checkpoint, folder, modalities=names)
    out.print(Text(f"encoder {folder}"), soft_wrap=True)
