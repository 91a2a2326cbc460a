"""The choices of a first experiment follow what the data hold."""

import json
from pathlib import Path

import pytest

from fedloom.core.errors import ExperimentError
from fedloom.data.inspection.inspect import inspect
from fedloom.experiment.starter.choices import choose, use_of
from tests.data.tables.tables import files


def table(path: Path, count: int, *, image: bool = False, audio: bool = False) -> Path:
    """Questions, with a picture for the first half of the rows and a sound for the second, if asked."""
    names: list[str] = [""] * count
    sounds = [""] * count
    if image:
        names[: count // 2] = files(path.parent, count // 2)
    if audio:
        sounds[count // 2 :] = files(path.parent, count - count // 2, "wav")
    rows = [f"q {i},a {i},{names[i]},{sounds[i]}" for i in range(count)]
    path.write_text("\n".join(["question,answer,image,audio", *rows]) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(("count", "clients", "batch"), [(4, 2, 4), (100, 5, 4), (400, 10, 8)])
def test_clients_and_batches_by_the_number_of_samples(
    tmp_path: Path, count: int, clients: int, batch: int
) -> None:
    chosen = choose(inspect(table(tmp_path / "x.csv", count)))
    assert len(chosen.clients) == chosen.data["clients"] == clients
    assert chosen.training == {"epochs": 1, "batch_size": batch}
    assert chosen.method == "fedavg-lora"


def test_pictures_and_sounds_of_different_samples_are_clients_of_their_own(tmp_path: Path) -> None:
    chosen = choose(inspect(table(tmp_path / "x.csv", 50, image=True, audio=True)))
    assert (chosen.method, chosen.data["clients"]) == ("feda2-lora", {"audio": 1, "image": 1})
    assert [c.holds for c in chosen.clients] == [("audio",), ("image",)]


def test_a_long_epoch_is_cut_into_steps(tmp_path: Path) -> None:
    chosen = choose(inspect(table(tmp_path / "x.csv", 12_000)))
    assert chosen.training == {"steps": 50, "batch_size": 16}


def model(folder: Path, model_type: str, architecture: str) -> str:
    folder.mkdir()
    config = {"model_type": model_type, "architectures": [architecture]}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(folder)


def test_named_models(tmp_path: Path) -> None:
    llm = model(tmp_path / "llm", "llama", "LlamaForCausalLM")
    eye = model(tmp_path / "eye", "dinov2", "Dinov2Model")
    ear = model(tmp_path / "ear", "whisper", "WhisperModel")
    clip = model(tmp_path / "clip", "clip", "CLIPModel")
    seen = inspect(table(tmp_path / "x.csv", 8, image=True, audio=True))
    assert choose(seen, [llm, eye, ear]).model == {
        "llm": llm,
        "encoder": {"image": eye, "audio": ear},
        "tokens": 8,
        "audio_seconds": 1,
    }
    for named, says in (
        ([llm], "reads text alone, and the data hold audio; name an encoder"),
        ([eye], "an encoder needs a causal language model beside it"),
        ([clip], r"goes to model\.clip, and a table need a language model"),
        ([llm, llm], "both go to model.llm; name one"),
    ):
        with pytest.raises(ExperimentError, match=says):
            choose(seen, named)


def test_a_modality_that_no_shipped_model_reads(tmp_path: Path) -> None:
    names = files(tmp_path, 4)
    rows = "\n".join(["depth,question,answer", *(f"{n},q,a" for n in names)])
    (tmp_path / "x.csv").write_text(rows + "\n", encoding="utf-8")
    import numpy as np
    from PIL import Image

    for i, name in enumerate(names):
        Image.fromarray(np.full((4, 6), 1000 + i, np.uint16)).save(tmp_path / name)
    with pytest.raises(
        ExperimentError, match="holds depth, which no shipped model reads; name a model that does"
    ):
        choose(inspect(tmp_path / "x.csv"))


def labelled(path: Path, kind: str, labels: list[str]) -> Path:
    cells = files(path.parent, len(labels)) if kind == "image" else [f"words {i}" for i in range(len(labels))]
    rows = [f"{cell},{label}" for cell, label in zip(cells, labels, strict=True)]
    path.write_text("\n".join([f"{kind},label", *rows]) + "\n", encoding="utf-8")
    return path


def test_rows_with_labels_alone_get_a_classifier(tmp_path: Path) -> None:
    for kind in ("text", "image"):
        (tmp_path / kind).mkdir()
    text, image = (
        inspect(labelled(tmp_path / k / "x.csv", k, ["cat", "dog"] * 6)) for k in ("text", "image")
    )
    assert (use_of(text), use_of(image)) == ("labels", "labels")
    assert "question" not in choose(image).data
    assert choose(text).model == {"classifier": "tiny-roberta"}
    roberta = model(tmp_path / "roberta", "roberta", "RobertaForMaskedLM")
    eye = model(tmp_path / "eye", "dinov2", "Dinov2Model")
    assert choose(text, [roberta]).model == {"classifier": roberta}
    assert choose(image, [eye]).model == {"encoder": {"image": eye}}
    for seen, wrong in ((text, eye), (image, roberta)):
        with pytest.raises(
            ExperimentError, match="need a text classifier, or an encoder of what the rows hold"
        ):
            choose(seen, [wrong])


def test_labels_that_are_no_classes_are_answers(tmp_path: Path) -> None:
    seen = inspect(labelled(tmp_path / "x.csv", "image", [f"name {i}" for i in range(30)]))
    assert (use_of(seen), choose(seen).data["question"]) == ("answers", "what is it?")
