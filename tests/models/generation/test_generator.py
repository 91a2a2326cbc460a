"""The server's generator: what diffusers computes, only the denoiser learns, and the same pictures whatever the batch."""

import json

import pytest
import torch
from torch.nn.functional import mse_loss

from fedloom.core.errors import ExperimentError
from fedloom.models.generation.generator import Generator
from tests.models.generation.tiny_generation import TOKENS, generator

PROMPTS = ["a picture of a seven", "no loop", "", "an eight, seen", "a picture of a seven"]


def stream(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 8, 8), generator=stream(9), dtype=torch.uint8)


def frozen(model: Generator) -> dict[str, torch.Tensor]:
    parts = {"text": model.text_encoder, "vae": model.autoencoder}
    return {
        f"{name}/{n}": t.clone()
        for name, m in parts.items()
        if m is not None
        for n, t in m.state_dict().items()
    }


@pytest.mark.parametrize("latent", [False, True])
def test_samples_do_not_depend_on_the_batch_but_on_the_stream(latent) -> None:
    model = generator(latent=latent)
    assert (model.channels, model.size) == (3, 8)
    state = torch.get_rng_state()
    samples = model.sample(PROMPTS, stream(), steps=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert samples.shape == (5, 3, 8, 8)
    assert samples.dtype == torch.uint8
    assert torch.equal(samples, model.sample(PROMPTS, stream(), steps=3))
    for batch in (1, 2):
        again = model.sample(PROMPTS, stream(), steps=3, batch=batch)
        assert (again.int() - samples.int()).abs().max() <= 1  # rounding
    assert torch.equal(model.sample(PROMPTS[:2], stream(), steps=3), samples[:2])
    assert not torch.equal(samples, model.sample(PROMPTS, stream(2), steps=3))
    assert not torch.equal(samples[0], samples[4])  # each has noise of its own
    assert model.sample([], stream()).shape == (0, 3, 8, 8)


def test_a_latent_sample_is_what_the_pipeline_of_diffusers_makes(tmp_path) -> None:
    from diffusers import StableDiffusionPipeline

    model = generator(latent=True)
    model.save(tmp_path)
    theirs = StableDiffusionPipeline.from_pretrained(tmp_path)
    theirs.set_progress_bar_config(disable=True)
    noise = torch.randn(4, 4, 4, generator=stream())
    for guidance in (1.0, 2.5):
        options = {"num_inference_steps": 3, "guidance_scale": guidance, "output_type": "np"}
        expected = theirs("a picture of a seven", latents=noise[None], **options).images[0]
        samples = model.sample(["a picture of a seven"], stream(), guidance=guidance, steps=3)[0]
        expected = torch.from_numpy((expected * 255).round()).permute(2, 0, 1)
        assert (samples.float() - expected).abs().max() <= 1


@pytest.mark.parametrize(
    ("latent", "predicts"), [(False, "epsilon"), (True, "epsilon"), (True, "v_prediction")]
)
def test_11_only_the_denoiser_learns(latent, predicts) -> None:
    model = generator(latent=latent, prediction=predicts)
    before, start = frozen(model), {n: t + 0.01 for n, t in model.start.items()}
    kept, loaded = {n: t.clone() for n, t in start.items()}, {n: t.clone() for n, t in model.start.items()}
    settings = {"lr": 1e-3, "batch_size": 2, "passes": 2}
    tuned, loss = model.tune(start, pictures(5), PROMPTS, torch.ones(5), stream(), **settings)
    assert tuned.keys() == model.tensors.keys() == start.keys()
    assert all(name.startswith("denoiser/") for name in tuned)
    assert loss > 0
    changed = [n for n in tuned if not torch.equal(tuned[n], start[n])]
    assert len(changed) > 0.9 * len(tuned)
    for one, other in ((before, frozen(model)), (kept, start), (loaded, model.start)):
        assert all(torch.equal(one[n], other[n]) for n in one)
    again, same = model.tune(start, pictures(5), PROMPTS, torch.ones(5), stream(), **settings)
    assert same == loss
    assert all(torch.equal(again[n], tuned[n]) for n in tuned)
    model.load_tensors({})
    assert all(torch.equal(p, model.start[n]) for n, p in model.tensors.items())
    with pytest.raises(KeyError):
        model.load_tensors({"denoiser/nothing": torch.zeros(1)})


def test_the_loss_is_the_weighted_noise_error_of_diffusers_own_parts() -> None:
    model = generator(latent=True)
    shown, weights = pictures(3), torch.tensor([0.5, 1.0, 0.0])
    _, loss = model.tune({}, shown, PROMPTS[:3], weights, stream(), batch_size=3, drop=0.0)
    draw, parts = stream(), model.parts
    order = torch.randperm(3, generator=draw)
    x = parts.autoencoder.encode(shown[order].float() / 127.5 - 1).latent_dist.mode() * 0.7
    noise = torch.randn(x.shape, generator=draw)
    times = torch.randint(1000, (3,), generator=draw)
    options = {"padding": "max_length", "max_length": TOKENS, "truncation": True, "return_tensors": "pt"}
    ids = parts.tokenizer([PROMPTS[i] for i in order], **options)["input_ids"]
    model.load_tensors({})
    with torch.no_grad():
        noisy = parts.scheduler.add_noise(x, noise, times)
        predicted = parts.denoiser(noisy, times, parts.text_encoder(ids)[0]).sample
    each = mse_loss(predicted, noise, reduction="none").mean((1, 2, 3))
    assert loss == pytest.approx(float((weights[order] * each).sum() / 3), rel=1e-5)


def test_without_weight_nothing_moves_but_the_decay_and_an_anchor_holds_back() -> None:
    model = generator(latent=False)
    lr, settings = 1e-2, {"batch_size": 5, "steps": 4}
    still, loss = model.tune({}, pictures(5), PROMPTS, torch.zeros(5), stream(), lr=lr, **settings)
    assert loss == 0
    decayed = (1 - lr * 0.01) ** 4
    assert all(torch.allclose(t, decayed * model.start[n], atol=1e-7) for n, t in still.items())

    def moved(anchor: float) -> float:
        tuned, _ = model.tune(
            {}, pictures(5), PROMPTS, torch.ones(5), stream(), lr=lr, anchor_weight=anchor, **settings
        )
        model.load_tensors(tuned)
        x = pictures(5).float() / 127.5 - 1
        states = torch.zeros(5, TOKENS, 24)
        with torch.no_grad():
            now = model.denoiser(x, 300, states).sample
            model.load_tensors({})
            return float((now - model.denoiser(x, 300, states).sample).square().mean())

    assert moved(100.0) < 0.5 * moved(0.0)


def test_an_anchor_adds_its_weight_times_the_distance_to_the_loaded_denoisers_prediction() -> None:
    """mse(eps, noise) + w mse(eps, eps_0), from a denoiser that has moved; one step, by the same draws."""
    model, shown = generator(latent=False), pictures(3)
    start = {n: t + 0.02 * torch.randn(t.shape, generator=stream(4)) for n, t in model.start.items()}
    losses = [
        model.tune(
            start, shown, PROMPTS[:3], torch.ones(3), stream(), batch_size=3, drop=0.0, anchor_weight=w
        )[1]
        for w in (0.0, 0.3)
    ]
    draw, parts = stream(), model.parts
    order = torch.randperm(3, generator=draw)
    x = shown[order].float() / 127.5 - 1
    noise = torch.randn(x.shape, generator=draw)
    times = torch.randint(1000, (3,), generator=draw)
    options = {"padding": "max_length", "max_length": TOKENS, "truncation": True, "return_tensors": "pt"}
    ids = parts.tokenizer([PROMPTS[i] for i in order], **options)["input_ids"]
    predicted = []
    with torch.no_grad():
        noisy = parts.scheduler.add_noise(x, noise, times)
        for tensors in (start, {}):
            model.load_tensors(tensors)
            predicted.append(parts.denoiser(noisy, times, parts.text_encoder(ids)[0]).sample)
    far = float(mse_loss(*predicted))
    assert far > 1e-4
    assert losses[0] == pytest.approx(float(mse_loss(predicted[0], noise)), rel=1e-5)
    assert losses[1] == pytest.approx(losses[0] + 0.3 * far, rel=1e-5)


def test_steps_passes_and_emptied_prompts() -> None:
    model = generator(latent=False)
    shown, ones = pictures(5), torch.ones(5)

    def tuned(prompts, **settings) -> dict[str, torch.Tensor]:
        return model.tune({}, shown, prompts, ones, stream(), batch_size=2, lr=1e-3, **settings)[0]

    def equal(one, other) -> bool:
        return all(torch.equal(one[n], other[n]) for n in one)

    assert equal(tuned(PROMPTS, passes=2), tuned(PROMPTS, steps=6))
    assert not equal(tuned(PROMPTS, passes=2), tuned(PROMPTS, steps=5))
    assert equal(tuned(PROMPTS, drop=1.0), tuned([""] * 5, drop=0.0))
    assert not equal(tuned(PROMPTS, drop=0.0), tuned([""] * 5, drop=0.0))
    nothing, loss = model.tune({}, shown[:0], [], ones[:0], stream())
    assert loss != loss
    assert equal(nothing, model.start)
    with pytest.raises(ValueError, match="the generator's are"):
        model.tune({}, shown[:, :, :4], PROMPTS, ones, stream())


@pytest.mark.parametrize("latent", [False, True])
def test_what_is_saved_predicts_the_same_in_plain_diffusers(latent, tmp_path) -> None:
    from diffusers import UNet2DConditionModel

    model = generator(latent=latent, prediction="v_prediction")
    tuned, _ = model.tune({}, pictures(4), PROMPTS[:4], torch.ones(4), stream(), lr=1e-3)
    model.save(tmp_path)
    plain = UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet")
    again = Generator.load(tmp_path)
    x, states = (
        torch.randn(2, *again._shape, generator=stream()),
        torch.randn(2, TOKENS, 24, generator=stream(3)),
    )
    with torch.no_grad():
        expected = model.denoiser(x, 500, states).sample
        assert torch.equal(plain(x, 500, states).sample, expected)
        assert torch.equal(again.denoiser(x, 500, states).sample, expected)
    assert all(torch.equal(again.start[n], tuned[n]) for n in tuned)
    sampled = [m.sample(PROMPTS[:2], stream(), steps=2) for m in (model, again)]
    assert torch.equal(*sampled)


def test_no_path_of_this_machine_is_saved(tmp_path) -> None:
    generator(latent=True).save(tmp_path / "one")
    Generator.load(str(tmp_path / "one"), torch.device("cpu")).save(tmp_path / "two")
    for file in (tmp_path / "two").rglob("*.json"):
        assert str(tmp_path) not in file.read_text(encoding="utf-8"), file


def test_what_cannot_be_loaded_is_said_in_a_sentence(tmp_path) -> None:
    with pytest.raises(ExperimentError, match="no folder unet"):
        Generator.load(tmp_path)
    with pytest.raises(ExperimentError, match="there is no generator"):
        Generator.load(tmp_path / "missing")
    generator(latent=False).save(tmp_path)
    config = json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({**config, "prediction_type": "sample"})
    )
    with pytest.raises(ExperimentError, match="predicts sample"):
        Generator.load(tmp_path)
    (tmp_path / "unet" / "config.json").write_text("{}")
    with pytest.raises(ExperimentError, match="cannot be loaded"):
        Generator.load(tmp_path)
