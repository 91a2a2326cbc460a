"""Published key names on disk: conversion, strict and partial loading."""

import hashlib
import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from fedloom.cli.main import app
from fedloom.core.errors import ExperimentError
from fedloom.models.imagebind import checkpoint as disk
from fedloom.models.imagebind.convert import convert_official
from fedloom.models.imagebind.imagebind import ImageBind, ImageBindConfig

KEYS = "37260864f15473a93a1bc38f5d85dd2d25fdefbb4f85137317ed11afb295db69"


@pytest.fixture(scope="module")
def tiny() -> ImageBind:
    return ImageBind(ImageBindConfig.tiny(), seed=4)


def random_official(config: ImageBindConfig) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {
        k: torch.randn(s, generator=rng) * 0.1 for k, s in disk.official_shapes(ImageBind, config).items()
    }


def test_published_keys_and_shapes() -> None:
    shapes = disk.official_shapes(ImageBind, ImageBindConfig.huge())
    lines = sorted(f"{key} {'x'.join(map(str, shape))}" for key, shape in shapes.items())
    assert len(lines) == 1311
    assert sum(torch.Size(s).numel() for s in shapes.values()) == 1_200_786_990
    assert lines[0] == "modality_heads.audio.0.bias 768"
    assert lines[-1] == "modality_trunks.vision.pre_transformer_layer.0.weight 1280"
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == KEYS


def test_published_parameters_and_buffers() -> None:
    with torch.device("meta"):
        model = ImageBind(ImageBindConfig.huge())
    parameters = disk.to_official(dict(model.named_parameters()))
    buffers = set(disk.official_shapes(ImageBind, model.config)) - set(parameters) | {
        "modality_preprocessors.text.mask"
    }
    assert len(set(parameters) - buffers) == 1306
    assert buffers == {
        "modality_preprocessors.text.mask",
        *(f"modality_postprocessors.{m}.1.log_logit_scale" for m in ("audio", "depth", "thermal", "imu")),
    }


@pytest.mark.identities
def test_conversion_is_lossless_both_ways(tiny: ImageBind) -> None:
    state = tiny.state_dict()
    back = disk.from_official(disk.to_official(state))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[k], v) for k, v in state.items())
    official = random_official(tiny.config)
    official["modality_preprocessors.text.mask"] = torch.full((48, 48), -torch.inf).triu(1)
    again = disk.to_official(disk.from_official(official))
    assert again.keys() == official.keys()
    assert all(torch.equal(again[k], v) for k, v in official.items())


def test_fused_rows_are_q_k_v_in_order(tiny: ImageBind) -> None:
    fused = disk.to_official(tiny.state_dict())["modality_trunks.vision.blocks.1.attn.in_proj_weight"]
    attention = tiny.trunks["image"].blocks[1].attn
    assert torch.equal(fused[96:192], attention.k_proj.weight)
    assert torch.equal(fused[192:], attention.v_proj.weight)


def test_save_and_load(tiny: ImageBind, tmp_path: Path) -> None:
    tiny.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "imagebind"
    loaded = ImageBind.from_pretrained(tmp_path)
    assert loaded.config == tiny.config
    assert all(torch.equal(v, tiny.state_dict()[k]) for k, v in loaded.state_dict().items())
    assert all(p.requires_grad and not p.is_meta for p in loaded.parameters())
    attention = loaded.trunks["image"].blocks[0].attn
    q, v = attention.q_proj.weight, attention.v_proj.weight
    assert v.data_ptr() - q.data_ptr() == 2 * q.nbytes  # views into the stored matrix, not copies
    loaded.save_pretrained(tmp_path)  # over the file that is mapped
    again = ImageBind.from_pretrained(tmp_path, dtype=torch.float16)
    assert torch.equal(again.heads["imu"].proj.weight, tiny.heads["imu"].proj.weight.half())
    x = torch.randn(1, 6, 200)
    assert again.encode("imu", x).dtype == torch.float16


def test_random_official_file_loads_strictly(tiny: ImageBind, tmp_path: Path) -> None:
    tiny.save_pretrained(tmp_path)
    official = random_official(tiny.config)
    save_file(official, tmp_path / "model.safetensors")
    model = ImageBind.from_pretrained(tmp_path)
    weight = official["modality_trunks.imu.blocks.0.attn.in_proj_weight"]
    assert torch.equal(model.trunks["imu"].blocks[0].attn.v_proj.weight, weight[64:])
    assert torch.equal(model.heads["imu"].proj.weight, official["modality_heads.imu.3.weight"])


@pytest.mark.parametrize("only", [None, ["audio"]])
@pytest.mark.parametrize("damage", ["missing", "unknown", "shape"])
def test_damaged_files_name_the_key(
    tiny: ImageBind, tmp_path: Path, damage: str, only: list[str] | None
) -> None:
    tiny.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    key = "modality_heads.vision.2.weight"
    if damage == "missing":
        del state[key]
    elif damage == "unknown":
        key = "modality_heads.vision.9.weight"
        state[key] = torch.zeros(2)
    else:
        state[key] = state[key].T.contiguous()
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ExperimentError, match=key):
        ImageBind.from_pretrained(tmp_path, only)


def test_missing_files_are_one_clear_sentence(tiny: ImageBind, tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"config\.json is missing"):
        ImageBind.from_pretrained(tmp_path)
    tiny.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ExperimentError, match="not a readable safetensors"):
        ImageBind.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ExperimentError, match=r"model\.safetensors is missing"):
        ImageBind.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ExperimentError, match="out_dim"):
        ImageBind.from_pretrained(tmp_path)


def test_partial_loading_touches_no_other_tensor(
    tiny: ImageBind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors

    tiny.save_pretrained(tmp_path)
    read: list[str] = []
    true_open = safetensors.safe_open

    class Spy:
        def __init__(self, *args: object, **kwargs: object) -> None:
            self.file = true_open(*args, **kwargs)

        def __enter__(self) -> "Spy":
            self.open = self.file.__enter__()
            return self

        def __exit__(self, *args: object) -> None:
            self.file.__exit__(*args)

        def keys(self) -> list[str]:
            return self.open.keys()

        def get_slice(self, key: str) -> object:
            return self.open.get_slice(key)

        def get_tensor(self, key: str) -> Tensor:
            read.append(key)
            return self.open.get_tensor(key)

    monkeypatch.setattr(safetensors, "safe_open", Spy)
    model = ImageBind.from_pretrained(tmp_path, ["audio", "image"])
    assert model.modalities == ("image", "audio")
    assert {key.split(".")[1] for key in read} == {"vision", "audio"}
    part = ImageBind(tiny.config, ["audio", "image"])
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in part.parameters())
    model.save_pretrained(tmp_path / "part")
    assert ImageBind.from_pretrained(tmp_path / "part").modalities == ("image", "audio")


def test_one_time_conversion(tiny: ImageBind, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = tmp_path / "imagebind.pth"
    torch.save(disk.to_official(tiny.state_dict()), source)
    with caplog.at_level(logging.WARNING):
        convert_official(source, tmp_path / "out", tiny.config)
        assert "CC BY-NC-SA 4.0" in caplog.text
        caplog.clear()
        model = ImageBind.from_pretrained(tmp_path / "out")
    assert "CC BY-NC-SA 4.0" in caplog.text
    assert all(torch.equal(v, tiny.state_dict()[k]) for k, v in model.state_dict().items())
    with pytest.raises(ExperimentError, match="does not fit"):
        convert_official(source, tmp_path / "huge")
    with pytest.raises(ExperimentError, match="is missing"):
        convert_official(tmp_path / "nowhere.pth", tmp_path / "out")


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("executed",)


def test_conversion_never_runs_what_is_in_the_file(
    tiny: ImageBind, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"x": Payload()}, tmp_path / "bad.pth")
    with pytest.raises(ExperimentError, match="holds more than tensors, or is broken; nothing in it was run"):
        convert_official(tmp_path / "bad.pth", tmp_path / "out", tiny.config)
    assert "executed" not in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.pth"]


KEY = "modality_heads.vision.2.weight"
FAULTS = {
    "missing": (lambda s: s.pop(KEY), f"missing {KEY}"),
    "unknown": (lambda s: s.update(extra=torch.zeros(2)), "unknown extra"),
    "shape": (lambda s: s.update({KEY: s[KEY].T.contiguous()}), f"{KEY} has shape"),
    "dtype": (lambda s: s.update({KEY: s[KEY].long()}), f"{KEY} has numbers of the type torch.int64"),
    "nan": (lambda s: s[KEY].view(-1)[3:4].fill_(float("nan")), f"{KEY} holds numbers that are not finite"),
    "list": (lambda s: s.update({KEY: [1.0]}), "should hold tensors by name"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_of_another_content_is_one_sentence_and_leaves_nothing(
    tiny: ImageBind, tmp_path: Path, fault: str
) -> None:
    change, says = FAULTS[fault]
    state = {k: v.clone() for k, v in disk.to_official(tiny.state_dict()).items()}
    change(state)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(ExperimentError, match=says):
        convert_official(tmp_path / "a.pth", tmp_path / "out", tiny.config)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pth"]


def test_a_cut_file_is_one_sentence(tiny: ImageBind, tmp_path: Path) -> None:
    torch.save(disk.to_official(tiny.state_dict()), tmp_path / "a.pth")
    whole = (tmp_path / "a.pth").read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no checkpoint at all"):
        (tmp_path / "a.pth").write_bytes(content)
        with pytest.raises(ExperimentError, match=r"ownload imagebind_huge\.pth anew"):
            convert_official(tmp_path / "a.pth", tmp_path / "out", tiny.config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_the_command_converts_the_chosen_modalities_with_their_licence(
    tiny: ImageBind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legacy: bool
) -> None:
    monkeypatch.setattr(ImageBindConfig, "huge", classmethod(lambda cls: tiny.config))
    state = disk.to_official(tiny.state_dict())
    torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    arguments = ["foundation", "import-imagebind", str(tmp_path / "a.pth"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*arguments, "--modalities", "audio, image"])
    assert result.exit_code == 0, result.output
    assert "CC BY-NC 4.0" in (tmp_path / "out" / "LICENCE.txt").read_text()
    model = ImageBind.from_pretrained(tmp_path / "out")
    assert model.modalities == ("image", "audio")
    assert "CC BY-NC-SA 4.0" in str(model.config.licence)
    for modality in model.modalities:
        x = torch.rand(2, *tiny.config.modalities[modality].input_shape)
        x = x[:, None] if modality == "audio" else x
        assert torch.equal(model.eval().encode(modality, x), tiny.eval().encode(modality, x))
    again = CliRunner().invoke(app, arguments)
    assert isinstance(again.exception, ExperimentError)
    assert "is not empty; choose another folder" in str(again.exception)
    wrong = CliRunner().invoke(app, [*arguments[:-1], str(tmp_path / "b"), "--modalities", "smell"])
    assert "ImageBind has no modality 'smell'; it has image, text" in str(wrong.exception)
