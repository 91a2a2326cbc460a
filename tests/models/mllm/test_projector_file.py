"""A projector that a run starts from."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedloom.core.errors import ExperimentError
from fedloom.models.mllm.load import load_model
from fedloom.models.settings import Foundation
from tests.models.mllm.tiny_llms import made


def projector_of(folder, change=lambda name, tensor: (name, tensor)):
    model = made(folder)
    state = {n: torch.full_like(t, 0.5) for n, t in model.mllm.projector.state_dict().items()}
    return dict(change(n, t) for n, t in state.items())


def test_a_projector_comes_from_a_file_with_names_of_its_own(llms, tmp_path) -> None:
    own = projector_of(llms["llama"], lambda n, t: (f"model.mm_projector.{n}", t))
    save_file({**own, "other": torch.zeros(1)}, tmp_path / "p.safetensors")
    names = [[f"model.mm_projector.{n}", n] for n in ("weight", "bias")]
    model = made(llms["llama"], projector_from={"file": str(tmp_path / "p.safetensors"), "names": names})
    assert all((t == 0.5).all() for n, t in model.start.items() if n.startswith("projector"))
    assert not any("random" in note for note in model.notes)
    assert any("the projector starts from random weights" in n for n in made(llms["llama"]).notes)


def test_a_run_with_a_projector_per_modality_gives_it_on(llms, tmp_path) -> None:
    from tests.models.encoders.tiny_encoders import write as encoder

    towers = {"encoder": {"image": str(encoder("siglip", tmp_path))}, "tokens": 2}
    first = made(llms["llama"], **towers)
    (tmp_path / "run" / "model").mkdir(parents=True)
    first.save_adapters(tmp_path / "run" / "model")
    assert "projector.image/weight" in load_file(tmp_path / "run" / "model" / "projector.safetensors")
    second = load_model(
        Foundation(llm=str(llms["llama"]), projector_from=tmp_path / "run", encoder_lora=None, **towers),
        ["image"],
        "cpu",
        seed=5,
    )
    assert torch.equal(second.start["projector.image/weight"], first.start["projector.image/weight"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda n, t: (f"x.{n}", t), "has no weight for this model's projector; it has x.bias, x.weight"),
        (lambda n, t: (n, t[..., :3]), "has other sizes"),
        (lambda n, t: (n, t * float("nan")), "holds numbers that are not finite"),
    ],
)
def test_a_projector_that_does_not_fit_is_one_sentence(change, says, llms, tmp_path) -> None:
    save_file(
        {n: t.contiguous() for n, t in projector_of(llms["llama"], change).items()},
        tmp_path / "p.safetensors",
    )
    with pytest.raises(ExperimentError, match=says):
        made(llms["llama"], projector_from=tmp_path / "p.safetensors")


def test_a_file_that_holds_no_tensors_and_names_that_it_lacks_are_one_sentence(llms, tmp_path) -> None:
    (tmp_path / "p.safetensors").write_text("nothing")
    with pytest.raises(ExperimentError, match="is no readable safetensors file"):
        made(llms["llama"], projector_from=tmp_path / "p.safetensors")
    save_file({"weight": torch.zeros(2)}, tmp_path / "q.safetensors")
    with pytest.raises(ExperimentError, match="has no w; it has weight"):
        made(
            llms["llama"],
            projector_from={"file": str(tmp_path / "q.safetensors"), "names": [["w", "weight"]]},
        )
