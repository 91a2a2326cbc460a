"""The section on synthetic data: pictures by class and round, vote, generator and fusion."""

import base64
import io
import json
import re

import pytest
import torch
from PIL import Image

from fedloom.core.errors import ExperimentError
from fedloom.experiment.report import write_report
from fedloom.experiment.report.columns import default_columns
from fedloom.experiment.report.load_study import read
from fedloom.experiment.report.transfer import BETWEEN, collapses, galleries, parts, weights
from fedloom.tasks.image_grid import write_grid
from tests.experiment.report.report_folders import make_run, write_lines

CLASSES = ["red disc", "blue disc", "<b>red</b> square"]


def drawn(seed: int, columns: int = 4) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(256, (3, columns, 3, 10, 12), generator=g, dtype=torch.uint8)


def told(folder, rounds=3, every=1, effective=(3.2, 1.2, 1.1)):
    """A run of FedMMKT as the report finds it."""
    make_run(folder, row="FedMMKT", rounds=rounds)
    for r in range(0, rounds + 1, every):
        write_grid(drawn(r), folder / "generated" / f"round-{r:06d}.png")
    write_grid(drawn(99), folder / "generated" / "real.png")
    (folder / "generated" / "classes.json").write_text(json.dumps(CLASSES))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    figures = {
        "vote/coverage": 0.5,
        "vote/precision": 0.875,
        "generator/agreement": 0.75,
        "generator/fid": 2.5,
    }
    for r in range(1, rounds + 1):
        fused = {"fusion/image-00/weight": 0.75 - 0.1 * r, "fusion/image-01/weight": 0.25 + 0.1 * r}
        at = figures | fused | {"fusion/image/effective_clients": effective[min(r, len(effective)) - 1]}
        lines += [{"round": r, "name": n, "value": v} for n, v in at.items()]
    write_lines(folder / "metrics.jsonl", lines)
    return folder


def test_before_after_and_real_stand_beside_the_names_of_the_classes(tmp_path) -> None:
    folder = told(tmp_path / "run", rounds=20)
    (gallery,) = galleries(read(folder))
    titles = [p.title for p in gallery.shown]
    assert titles == ["before training, round 0", "after the last round, round 20", "real"]
    assert gallery.classes == tuple(CLASSES)
    assert len(gallery.between) <= BETWEEN
    assert [p.title for p in gallery.between[:2]] == ["round 4", "round 8"]
    data = base64.b64decode(gallery.shown[1].uri.partition(",")[2])
    assert data == (folder / "generated" / "round-000020.png").read_bytes()
    page = write_report(folder).read_text(encoding="utf-8")
    assert page.count("&lt;b&gt;red&lt;/b&gt; square</li>") == 3 + len(gallery.between)
    assert "<b>red</b> square" not in page
    assert Image.open(io.BytesIO(data)).size[1] == 3 * 64


def test_figures_by_group_with_their_units(tmp_path) -> None:
    study = read(told(tmp_path / "run"))
    generator, vote, fusion = parts(study)
    assert (generator.title, vote.title, fusion.title) == ("Generator", "Vote", "Fusion")
    assert generator.grid.header == ["row", "agreement\u00a0↑", "FID\u00a0↓"]
    assert generator.grid.lines == [["FedMMKT", "75.0 %", "2.5000"]]
    assert vote.grid.lines == [["FedMMKT", "50.0 %", "87.5 %"]]
    assert fusion.grid.header == ["row", "image: effective clients"]
    assert fusion.grid.lines == [["FedMMKT", "1.1000"]]
    assert [len(p.plots) for p in (generator, vote, fusion)] == [2, 2, 1]
    (bars,) = weights(study)
    assert "image-00: first 65.0 %, last 45.0 %; image-01: first 35.0 %, last 55.0 %" in bars.svg
    assert not any(k.startswith(("vote", "fusion", "generator")) for k in default_columns(study))


def test_a_collapse_is_said_in_a_sentence(tmp_path) -> None:
    folder = told(tmp_path / "run")
    (said,) = collapses(read(folder))
    assert said == (
        "FedMMKT: the fusion weights collapsed, fewer than 1.5 clients counted in rounds 2–3 (lowest 1.10)."
    )
    assert said in write_report(folder).read_text(encoding="utf-8")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"round": 3, "name": "fusion/cosine", "value": 0.987}\n')
    assert "nearly one in round 3 (mean cosine up to 0.987)" in collapses(read(folder))[1]
    assert collapses(read(told(tmp_path / "sound", effective=(3.0,)))) == []


def test_the_only_client_of_a_modality_is_no_collapse(tmp_path) -> None:
    folder = told(tmp_path / "run", effective=(3.0,))
    with (folder / "metrics.jsonl").open("a") as file:
        for r in (1, 2):
            file.write(f'{{"round": {r}, "name": "fusion/text/effective_clients", "value": 1.0}}\n')
            file.write(f'{{"round": {r}, "name": "fusion/text-00/weight", "value": 1.0}}\n')
        file.write('{"round": 2, "name": "fusion/text-01/weight", "value": 0.0}\n')
    (said,) = collapses(read(folder))
    assert "round 2 (lowest 1.00)" in said


def test_other_runs_have_no_such_section(tmp_path) -> None:
    folder = make_run(tmp_path / "run")
    study = read(folder)
    assert (galleries(study), parts(study), weights(study), collapses(study)) == ([], [], [], [])
    assert not re.search("synthetic", write_report(folder).read_text(encoding="utf-8"), re.IGNORECASE)


def test_a_broken_picture_is_named(tmp_path) -> None:
    folder = told(tmp_path / "run")
    (folder / "generated" / "real.png").write_bytes(b"<svg onload=alert(1)>")
    with pytest.raises(ExperimentError, match=r"real\.png is no PNG picture"):
        write_report(folder)
