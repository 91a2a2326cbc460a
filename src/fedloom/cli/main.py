"""The command line. A fault ends in one sentence and an exit code.

2     a mistake in the input: settings, data, names
3     the disk: full or not writable, or a damaged file of a run
130   Ctrl-C; 143: SIGTERM
"""

import os
import sys
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.text import Text
from safetensors import SafetensorError

from fedloom.cli.ask import ask
from fedloom.cli.card import card
from fedloom.cli.compare import compare
from fedloom.cli.data import data
from fedloom.cli.experiments import app as experiments_app
from fedloom.cli.export import export
from fedloom.cli.foundation import app as foundation_app
from fedloom.cli.init import init
from fedloom.cli.ledger import app as ledger_app
from fedloom.cli.methods import methods
from fedloom.cli.options import Jobs, Overrides, Quick
from fedloom.cli.output import errors, out, plain_table
from fedloom.cli.plan import plan
from fedloom.cli.schema import schema
from fedloom.cli.stop import stoppable
from fedloom.cli.watch import watch
from fedloom.core.errors import DiskError, ExperimentError
from fedloom.core.files import disk_fault
from fedloom.core.hf_logging import quiet_process
from fedloom.core.new_folder import free_name
from fedloom.deploy.commands import app as deploy_app

app = typer.Typer(
    name="fedloom",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Weave what many private, multimodal data silos know into one model, without moving their data.",
)
app.add_typer(foundation_app, name="foundation")
app.add_typer(deploy_app, name="deploy")
app.add_typer(ledger_app, name="ledger")
app.add_typer(experiments_app, name="experiments")


def main() -> None:
    """Run the command line; the console script's entry point."""
    quiet_process()
    try:
        app()
    except ExperimentError as error:
        _end(str(error), error.exit_code)
    except (OSError, SafetensorError) as error:
        fault = disk_fault(error)
        _end(fault or f"a file of tensors cannot be used: {error}", DiskError.exit_code if fault else 2)
    except (
        UnicodeEncodeError
    ) as error:  # half a surrogate pair: how Python reads a file name that is not UTF-8
        _end(f"{error.object!r} is not UTF-8; give the file or folder another name", 2)
    except KeyboardInterrupt:
        _end("interrupted", 130)


def _end(sentence: str, code: int) -> NoReturn:
    printable = sentence.encode("utf-8", "backslashreplace").decode()  # names of files need not be UTF-8
    errors.print(Text(f"fedloom: {printable}"), style="red", soft_wrap=True)
    sys.exit(code)


@app.command(epilog="Example: fedloom demo --out runs/demo")
def demo(
    overrides: Overrides = None,
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="folder for the results; a new one in runs/ if none")
    ] = None,
    seed: Annotated[int, typer.Option(help="the one seed", min=0)] = 0,
    jobs: Jobs = None,
) -> None:
    """Train federated clients on images and speech, side by side with the bounds; show a table and a report."""
    if out_dir is not None:
        _refuse_used(out_dir)
    from fedloom.experiment.settings import load_rows

    rows = load_rows(Path(str(files("fedloom"))) / "cli" / "demo.yaml", [f"seed={seed}", *(overrides or ())])
    _run(rows, out_dir or free_name(Path("runs/demo")), resume=False, jobs=jobs)


@app.command(epilog="Example: fedloom run experiments/uniflow/quickstart.yaml training.lr=0.002 --out runs/q")
def run(
    experiment: Annotated[
        Path | None, typer.Argument(help="the experiment's YAML file, or a name of `fedloom experiments`")
    ] = None,
    overrides: Overrides = None,
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="folder for the results; a new one in runs/ if none")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="go on with the run in this folder, from its last finished round")
    ] = None,
    row: Annotated[list[str] | None, typer.Option(help="only this row of the file; may be repeated")] = None,
    jobs: Jobs = None,
    quick: Quick = False,
    accept_changes: Annotated[
        bool,
        typer.Option(
            "--accept-changes",
            help="with --resume: go on although settings, data, threads or versions differ; the status names them",
        ),
    ] = False,
) -> None:
    """Run an experiment: one run, or every row and seed that its file names."""
    if out_dir is not None:
        _refuse_used(out_dir)  # before anything is loaded
    from fedloom.experiment.settings import load_rows

    if resume is not None:
        if experiment is not None or overrides or out_dir is not None or row:
            raise ExperimentError(
                "--resume FOLDER stands alone: the folder holds the experiment as it was begun"
            )
        from fedloom.experiment.study import begun_in, planned  # slow import: mistakes above come before it

        if (begun := begun_in(resume)) is not None and begun != Path.cwd():
            resume = resume.absolute()
            os.chdir(begun)  # relative paths in the experiment mean what they meant
        _run(planned(resume), resume, resume=True, jobs=jobs, quick=quick, accept_changes=accept_changes)
        return
    if accept_changes:
        raise ExperimentError("--accept-changes goes with --resume FOLDER")
    if experiment is None:
        raise ExperimentError(
            "name an experiment file, such as experiments/uniflow/quickstart.yaml, or --resume FOLDER"
        )
    rows = load_rows(experiment, overrides or (), only=row or ())
    _run(rows, out_dir or free_name(Path("runs") / rows[0].name), resume=False, jobs=jobs, quick=quick)


app.command(epilog="Example: fedloom plan experiments/uniflow/quickstart.yaml training.batch_size=8")(plan)


app.command(epilog="Example: fedloom watch runs/q --open")(watch)


app.command(epilog="Example: fedloom compare runs/table3 --against LoRA")(compare)


@app.command(epilog="Example: fedloom report runs/demo")
def report(folder: Annotated[Path, typer.Argument(help="a run folder, or a folder of rows")]) -> None:
    """Write report.html anew: one page, no outside request."""
    from fedloom.experiment.report import write_report

    out.print(Text(str(write_report(folder))))


@app.command(epilog="Example: fedloom rescore runs/demo --bertscore minilm")
def rescore(
    folder: Annotated[Path, typer.Argument(help="a run folder, or a folder of rows")],
    bertscore: Annotated[
        str, typer.Option(help="also BERTScore by this embedder: minilm | Hugging Face id")
    ] = "off",
) -> None:
    """Measure metrics that were registered after a run, on the answers that it kept; nothing is trained or generated."""
    from fedloom.experiment.rescore import rescore as measure

    found = measure(folder, bertscore)
    names = list(dict.fromkeys(name for new in found.values() for name in new))
    if not names:
        out.print(
            Text("nothing new: the runs have every metric that is registered and that their answers give")
        )
        return
    out.print(
        plain_table(
            ("new figure", "runs"), [(n, str(sum(n in new for new in found.values()))) for n in names]
        )
    )
    out.print(Text(f"report   {folder / 'report.html'}"), soft_wrap=True)


app.command(epilog='Example: fedloom ask runs/q --image scene.png --question "what colour is the cube?"')(ask)


app.command(epilog="Example: fedloom export runs/q --merge --out models/q")(export)


app.command(epilog="Example: fedloom card runs/q --license apache-2.0")(card)


@app.command(epilog='Example: fedloom generate tiny-t2i "a seven" "a two" --count 8 --out grid.png')
def generate(
    source: Annotated[
        str,
        typer.Argument(help="folder of a finished run, a shipped generator, a folder, or a Hugging Face id"),
    ],
    prompts: Annotated[list[str] | None, typer.Argument(help="what to show; a row of pictures each")] = None,
    count: Annotated[int, typer.Option(help="pictures for each prompt", min=1, max=1000)] = 8,
    picture: Annotated[Path, typer.Option("--out", help="the picture file to write")] = Path("grid.png"),
    seed: Annotated[int, typer.Option(help="of the pictures' noise", min=0)] = 0,
    start: Annotated[bool, typer.Option("--start", help="the run's generator before any training")] = False,
    guidance: Annotated[
        float, typer.Option(help="how closely to follow the prompt; 1 is no guidance", min=0)
    ] = 3.0,
    steps: Annotated[int, typer.Option(help="denoising steps", min=1, max=1000)] = 20,
    device: Annotated[str, typer.Option(help="auto | cpu | cuda")] = "auto",
) -> None:
    """Draw pictures for prompts with a run's text-to-image model, or with one before training, as a labelled grid."""
    from fedloom.cli.generate import draw_grid

    draw_grid(
        source,
        prompts or (),
        picture,
        count=count,
        seed=seed,
        start=start,
        guidance=guidance,
        steps=steps,
        device=device,
    )
    out.print(Text(f"pictures {picture}"), soft_wrap=True)


@app.command(epilog="Example: fedloom benchmark runs/fedma/fed-cmp/iid/seed-0 --tabletop 200")
def benchmark(
    run_dir: Annotated[Path, typer.Argument(help="the folder of a finished run")],
    tabletop: Annotated[int, typer.Option(help="so many scenes: yes or no questions, retrieval", min=0)] = 0,
    pope: Annotated[Path | None, typer.Option(help="POPE's file of JSON lines")] = None,
    mme: Annotated[Path | None, typer.Option(help="MME's folder of <category>.txt")] = None,
    mmbench: Annotated[Path | None, typer.Option(help="MMBench's TSV file")] = None,
    images: Annotated[Path, typer.Option(help="folder of POPE's and MME's pictures")] = Path(),
    client: Annotated[str | None, typer.Option(help="this client's personal model")] = None,
) -> None:
    """Measure a finished run's model: objects in pictures, retrieval between pictures and captions, public benchmarks."""
    from fedloom.experiment.finished_run import held, load_for_benchmark
    from fedloom.tasks.benchmark import Suites

    task, model = load_for_benchmark(run_dir, client)
    if model is not None and "image" not in held(run_dir):
        errors.print(
            "note: no client of the run held pictures; the figures are those of its untrained encoder"
        )
    figures = task.benchmark(model, Suites(tabletop, pope, mme, mmbench, images))
    out.print(plain_table(("figure", "value"), [(name, f"{value:.4f}") for name, value in figures.items()]))


app.command("exam", hidden=True)(benchmark)  # its name until 0.1


app.command(epilog="Example: fedloom methods feda2-lora")(methods)


app.command(epilog="Example: fedloom schema > fedloom.schema.json")(schema)


app.command(epilog="Example: fedloom init silos --out my.yaml")(init)


app.command(epilog="Example: fedloom data experiments/uniflow/quickstart.yaml --show 6 --out samples")(data)


@app.command(epilog="Example: fedloom doctor")
def doctor() -> None:
    """Check this installation: versions, device, shipped foundation, a place to write, optional parts."""
    from fedloom.cli.doctor import examine

    checks = examine()
    rows = [("ok" if c.ok else "optional" if c.optional else "MISSING", c.name, c.detail) for c in checks]
    out.print(plain_table(("", "what", "found"), rows))
    if failed := [c for c in checks if not c.ok and not c.optional]:
        raise ExperimentError(f"{failed[0].name}: {failed[0].detail}")


def _run(
    experiments: list[Any],
    folder: Path,
    *,
    resume: bool,
    jobs: int | None,
    quick: bool = False,
    accept_changes: bool = False,
) -> None:
    """Run one or several experiments into a folder, then print the table and the paths of the results."""
    from fedloom.cli.compare_grid import show_grids
    from fedloom.cli.progress import file_checks, watching
    from fedloom.experiment.parallel_runs import RunJob, suggested
    from fedloom.experiment.report.grid_cells import has_grid
    from fedloom.experiment.report.load_study import read
    from fedloom.experiment.report.table import table_of
    from fedloom.experiment.study import run_rows

    with (
        stoppable(folder),
        watching(experiments, out) as watch,
        file_checks(out, watch.bar, quick=quick),
    ):
        if len(experiments) == 1 and not (resume and (folder / "plan.json").exists()):
            job = RunJob(experiments[0], folder, resume, accept_changes)
            finished = [job.run(watch(experiments[0], 1, 1))]
        else:
            side_by_side = suggested(experiments) if jobs is None else jobs
            finished = run_rows(
                experiments, folder, watch, resume=resume, accept_changes=accept_changes, jobs=side_by_side
            )
    study = read(folder)
    if has_grid(study):
        show_grids(study, None, None)
    else:
        out.print(table_of(study).rich(out.width))
    for result in finished:
        if result.summary["status"] != "complete":
            errors.print(Text(f"{result.summary['row']}: {result.summary['status']}"), style="yellow")
        if result.folder is not None and (result.folder / "skipped.txt").is_file():
            out.print(Text(f"skipped  {result.folder / 'skipped.txt'}"), soft_wrap=True)
    out.print(Text(f"report   {folder / 'report.html'}"), soft_wrap=True)
    if len(finished) == 1:
        out.print(Text(f"model    {folder / 'model'}"), soft_wrap=True)


def _refuse_used(folder: Path) -> None:
    """Raise ExperimentError for a folder that already holds runs."""
    begun = (folder / "plan.json").exists() and (
        any(folder.glob("*/seed-*/experiment.yaml")) or any(folder.glob("*/*/seed-*/experiment.yaml"))
    )
    if begun or (folder / "rows.json").exists():
        held = "runs"
    elif (folder / "experiment.yaml").exists():
        held = "a run"
    else:
        return
    raise ExperimentError(
        f"{folder} already holds {held}; choose another --out, or go on with --resume {folder}"
    )
