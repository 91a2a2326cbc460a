"""experiments/real/pfedmma.yaml: its rows, without a picture being read."""

from pathlib import Path

from fedloom.data.partition.settings import FewShot
from fedloom.experiment.settings import load_rows

FILE = Path("experiments/real/pfedmma.yaml")


def test_the_rows_are_those_of_the_main_table_and_adapters_that_share_nothing_or_all() -> None:
    runs = load_rows(FILE, ["seeds=[0]"])
    main = load_rows(Path("experiments/pfedmma/main.yaml"), ["seeds=[0]"])
    shares = [r.method.share for r in runs if r.method.name == "pfedmma"]
    assert sorted(shares) == ["all", "none", "s"]
    assert {r.method.name for r in runs} == {r.method.name for r in main}
    assert len(runs) == len(main) + 2
    assert {(r.method.name, r.training.lr) for r in runs} == {(r.method.name, r.training.lr) for r in main}
    assert all(isinstance(r.data.partition, FewShot) and r.model.clip == "real/models/pair" for r in runs)
    assert all((r.rounds == 0) == (r.method.name == "zero-shot") for r in runs)
