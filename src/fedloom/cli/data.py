"""`fedloom data`: the clients of an experiment, their sample counts, and some samples."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from fedloom.cli.options import Overrides
from fedloom.cli.output import out, plain_table


def data(
    experiment: Annotated[Path, typer.Argument(help="the experiment's YAML file")],
    overrides: Overrides = None,
    show: Annotated[int, typer.Option(help="how many samples of each kind to show", min=0)] = 3,
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="write the shown samples' pictures and sounds here")
    ] = None,
) -> None:
    """Inspect an experiment's clients: what each holds, how much, and samples. Also checks the data."""
    from fedloom.experiment.sample_gallery import choose, save_media
    from fedloom.experiment.settings import load_rows
    from fedloom.tasks.evaluation import TestSet

    first = load_rows(experiment, overrides or ())[0]
    task = first.task
    clients = task.clients(first.setup)
    rows = []
    for client in clients:
        kinds = Counter(s.kind for part in (client.train, client.test) for s in part)
        samples = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items())) + task.described(client)
        counts = (str(len(client.train)), str(len(client.test)))
        rows.append((client.name, ", ".join(client.holds) or "text", *counts, samples))
    out.print(plain_table(("client", "holds", "train", "test", "samples"), rows))
    for note in task.notes(first.setup):
        out.print(Text(note))
    pairs = [(c.name, s) for c in clients for s in (*c.train, *c.test)]
    picked = choose(TestSet([c for c, _ in pairs], [s for _, s in pairs], [None] * len(pairs)), show)
    for number, (client_name, sample) in enumerate(picked):
        out.print(Text(f"{client_name}  {sample.kind}  {sample.uid}", style="bold"))
        if sample.meta.get("spoken"):
            out.print(Text(f"  spoken: {sample.meta['spoken']}"))
        out.print(Text(f"  Q: {sample.question}\n" * bool(sample.question) + f"  A: {sample.answer}"))
        if out_dir is not None:
            for file in save_media(sample, out_dir, f"{number:03d}").values():
                out.print(Text(f"  {out_dir / file}"))
