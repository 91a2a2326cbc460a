"""`fedloom data`: the clients of an experiment, their sample counts, and some samples."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from fedloom.cli.deal_picture import show_deal
from fedloom.cli.options import Overrides, Quick
from fedloom.cli.output import out, plain_table


def data(
    experiment: Annotated[Path, typer.Argument(help="the experiment's YAML file")],
    overrides: Overrides = None,
    show: Annotated[int, typer.Option(help="how many samples of each kind to show", min=0)] = 3,
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="write the shown samples' pictures and sounds here")
    ] = None,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="load the model, and count the samples that it will cut to fit")
    ] = False,
    quick: Quick = False,
) -> None:
    """Inspect an experiment's clients: what each holds, how much, and samples. Also checks the data."""
    from fedloom.cli.progress import file_checks
    from fedloom.experiment.settings import load_rows

    rows = load_rows(experiment, overrides or ())
    distinct = [row for i, row in enumerate(rows) if _reads(row) not in map(_reads, rows[:i])]
    for number, row in enumerate(distinct):
        if len(distinct) > 1:
            out.print(Text(_title(row), style="bold"))
        with file_checks(out, quick=quick):
            clients = row.task.clients(row.setup)
            row.data.check_read(clients)
            notes = row.task.notes(row.setup)
        over = getattr(getattr(row.data, "partition", None), "over", None)
        _show_clients(row.task, clients, notes, over)
        if tokens:
            _show_cut(row, clients)
        place = out_dir if out_dir is None or len(distinct) == 1 else out_dir / f"{number:02d}"
        _show_samples(clients, show, place)


def _reads(row: Any) -> tuple[Any, int]:
    """The settings that decide which samples a row's clients hold."""
    return row.data, row.seed


def _title(row: Any) -> str:
    parts = [row.row or row.name, *([] if row.across is None else [row.across]), f"seed {row.seed}"]
    return ", ".join(parts)


def _show_clients(task: Any, clients: Any, notes: list[str], over: str | None) -> None:
    table = []
    for client in clients:
        kinds = Counter(s.kind for part in (client.train, client.test) for s in part)
        samples = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items())) + task.described(client)
        counts = (str(len(client.train)), str(len(client.test)))
        table.append((client.name, ", ".join(client.holds) or "text", *counts, samples))
    out.print(plain_table(("client", "holds", "train", "test", "samples"), table))
    show_deal(clients, over)
    for note in notes:
        out.print(Text(note))
    for note in dict.fromkeys(note for client in clients for note in client.notes):
        out.print(Text(note), soft_wrap=True)
    for client in clients:
        for sentence in client.skipped:
            out.print(Text(f"skipped: {sentence}"), soft_wrap=True)


def _show_cut(row: Any, clients: Any) -> None:
    """Count the samples that lose text to `model.max_text_tokens`, or input to the encoder."""
    from fedloom.models.loading.examples import was_cut

    model = row.task.model({c.name: c.holds for c in clients}, row.setup)
    for part in ("train", "test"):
        samples = [sample for client in clients for sample in getattr(client, part)]
        cut = sum(was_cut(model.prepare(sample)) for sample in samples)
        out.print(Text(f"{cut} of {len(samples)} {part} samples will be cut to fit the model"))


def _show_samples(clients: Any, show: int, folder: Path | None) -> None:
    """Print some samples of each kind; with a folder, write their media there."""
    from fedloom.experiment.sample_gallery import choose, save_media
    from fedloom.tasks.evaluation import TestSet

    pairs = [(c.name, s) for c in clients for s in (*c.train, *c.test)]
    picked = choose(TestSet([c for c, _ in pairs], [s for _, s in pairs], [None] * len(pairs)), show)
    for number, (client_name, sample) in enumerate(picked):
        out.print(Text(f"{client_name}  {sample.kind}  {sample.uid}", style="bold"))
        if sample.meta.get("spoken"):
            out.print(Text(f"  spoken: {sample.meta['spoken']}"))
        spoken = {"system": "S", "user": "Q", "assistant": "A"}
        said = [f"  {spoken[turn.role]}: {turn.text.strip()}" for turn in sample.conversation if turn.text]
        out.print(Text("\n".join(said)))
        if folder is not None:
            for file in save_media(sample, folder, f"{number:03d}").values():
                out.print(Text(f"  {folder / file}"))
