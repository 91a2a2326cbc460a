"""The files of experiments/fedmmkt."""

from pathlib import Path

import pytest

from fedloom.data.sources import labelled, labelled_clients
from fedloom.experiment.settings import load_rows
from fedloom.experiment.study import place

FILES = Path("experiments/fedmmkt")


@pytest.mark.parametrize("size", ["tiny", "small", "paper"])
@pytest.mark.parametrize("name", sorted(p.stem for p in FILES.glob("*.yaml")))
def test_a_file_is_valid_in_every_size(name: str, size: str) -> None:
    text = (FILES / f"{name}.yaml").read_text()
    assert text.startswith(f"# fedloom run experiments/fedmmkt/{name}.yaml --out runs/")
    runs = load_rows(FILES / f"{name}.yaml", [f"size={size}"])
    assert len({place(run) for run in runs}) == len(runs)
    for run in runs:
        assert run.size == size
        assert run.data.source == "labelled"
    plain = [{**run.as_dict(), "row": None, "across": None} for run in runs]
    assert all(one != other for i, one in enumerate(plain) for other in plain[:i])


def test_the_digits_suffice_for_every_file_that_needs_no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        labelled_clients, "sample_of", lambda *told: told
    )  # who gets what, without its texts and sounds
    asked: dict[str, labelled.LabelledSource] = {}
    for file in sorted(FILES.glob("*.yaml")):
        for size in ("tiny", "small"):
            for run in load_rows(file, [f"size={size}", "seeds=[0]"]):
                asked[run.data.model_dump_json()] = run.data
    pool = labelled.open_pool("handwriting", None, 0, 0)
    assert len(asked) > 5
    for data in asked.values():
        dealt = labelled.labelled_clients(pool, data.clients, data.train, data.test, data.dirichlet, 0)
        assert len(dealt) == sum(data.clients.values())
