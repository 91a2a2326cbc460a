"""`fedloom plan`: what a run will load, train, send and take."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from fedloom.cli.options import Overrides, Quick
from fedloom.cli.output import echo, errors, out


def plan(
    experiment: Annotated[Path, typer.Argument(help="the experiment's YAML file")],
    overrides: Overrides = None,
    row: Annotated[list[str] | None, typer.Option(help="only this row of the file; may be repeated")] = None,
    probe: Annotated[
        bool, typer.Option("--probe/--no-probe", help="measure time and memory by a few real steps")
    ] = True,
    limit: Annotated[float, typer.Option(help="seconds for one row's probe", min=1)] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON list instead of tables")] = False,
    quick: Quick = False,
) -> None:
    """Show what a run will load, train, send, and take of memory and time, before it begins; nothing is written."""
    from fedloom.cli.plan_tables import WIDTH, show, whole_file
    from fedloom.experiment.parallel_runs import shared_out, suggested
    from fedloom.experiment.plan import distinct
    from fedloom.experiment.plan import plan as plan_run
    from fedloom.experiment.settings import load_rows

    experiments = load_rows(experiment, overrides or (), only=row or ())
    jobs = suggested(experiments)
    runs = distinct(shared_out(experiments, jobs) if jobs > 1 else experiments)
    plans = []
    for position, (settings, count) in enumerate(runs):
        if len(runs) > 1:
            errors.print(
                Text(
                    f"{position + 1} of {len(runs)}: {settings.row or settings.name} {settings.across or ''}"
                )
            )
        plans.append((plan_run(settings, probe=probe, limit=limit, quick=quick), count))
        if not as_json:
            show(plans[-1][0], count)
    if as_json:
        echo(json.dumps([asdict(p) | {"runs": count} for p, count in plans], ensure_ascii=False, indent=2))
    elif sum(count for _, count in plans) > 1:
        out.print(Text(whole_file(plans, jobs)), width=WIDTH)
