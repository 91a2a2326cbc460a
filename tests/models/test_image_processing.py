"""Preprocessing by the image processor that a checkpoint names."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTModel

from fedloom.core.errors import ExperimentError
from fedloom.models import image_processing
from fedloom.models.clip.checkpoint import load_clip_checkpoint
from fedloom.models.generation.captioner import Captioner
from fedloom.models.image_processing import Pixels, read_pixels
from fedloom.models.own.architectures import load_architecture

VIT = {
    "do_normalize": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "ViTImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
}
"""Like the files of published ViTs: no crop is named."""
SHAPES = ((3, 48, 31), (3, 17, 40), (3, 20, 20), (3, 1, 5))


def folder(path, **changes):
    (path / "preprocessor_config.json").write_text(json.dumps(VIT | changes), encoding="utf-8")
    return path


def picture(*shape: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(sum(shape))
    return torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)


def resized(image: torch.Tensor, height: int, width: int, resample: int) -> torch.Tensor:
    small = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((width, height), resample)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)


@pytest.mark.parametrize("side", [16, 384])
@pytest.mark.parametrize("as_number", [False, True])
def test_a_processor_without_crop_gives_its_own_size(tmp_path, side, as_number) -> None:
    size = side if as_number else {"height": side, "width": side}
    pixels = read_pixels(folder(tmp_path, size=size))
    for shape in SHAPES:
        image = picture(*shape)
        small = pixels.sized(image)
        assert small.dtype == torch.uint8
        assert torch.equal(small, resized(image, side, side, Image.Resampling.BILINEAR))
        normal = pixels.normal(small[None])
        assert torch.equal(normal, (small[None].float() * (1 / 255) - 0.5) / 0.5)


def test_a_shortest_edge_keeps_the_shape_of_the_picture(tmp_path) -> None:
    pixels = read_pixels(folder(tmp_path, size={"shortest_edge": 20}))
    image = picture(3, 48, 31)
    assert torch.equal(pixels.sized(image), resized(image, 30, 20, Image.Resampling.BILINEAR))
    assert pixels.sized(picture(3, 20, 25)).shape == (3, 20, 25)


def test_what_a_file_does_not_name_is_the_default_of_its_class(tmp_path) -> None:
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "ViTImageProcessor"}')
    pixels = read_pixels(tmp_path)
    assert pixels.sized(picture(3, 48, 31)).shape == (3, 224, 224)
    assert (pixels.factor, pixels.mean, pixels.std) == (1 / 255, (0.5,) * 3, (0.5,) * 3)
    off = read_pixels(folder(tmp_path, do_resize=False, do_rescale=False, do_normalize=False))
    image = picture(3, 48, 31)
    assert torch.equal(off.sized(image), image)
    assert torch.equal(off.normal(image[None]), image[None].float())


def test_a_processor_with_a_resize_of_its_own_is_followed(tmp_path) -> None:
    changes = {"image_processor_type": "ConvNextImageProcessor", "crop_pct": 0.5, "resample": 3}
    image = picture(3, 48, 48)
    small = read_pixels(folder(tmp_path, size={"shortest_edge": 16}, **changes)).sized(image)
    assert torch.equal(small, resized(image, 32, 32, Image.Resampling.BICUBIC)[:, 8:24, 8:24])


@pytest.mark.parametrize(
    "text", [None, "{", "[]", '{"image_processor_type": "Nonsense"}', json.dumps(VIT | {"size": {"side": 3}})]
)
def test_a_missing_or_broken_file_is_one_sentence(tmp_path, text) -> None:
    if text is not None:
        (tmp_path / "preprocessor_config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ExperimentError, match=r"^model\.clip: .* preprocessor_config\.json: ") as caught:
        read_pixels(tmp_path)
    assert "\n" not in str(caught.value)


def vit(path, side: int):
    config = ViTConfig(
        image_size=side,
        patch_size=side // 4,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ViTModel(config).save_pretrained(path)
    return path


@pytest.mark.parametrize("side", [16, 384])
def test_an_own_model_reads_pictures_of_the_size_of_its_processor(tmp_path, side) -> None:
    source = str(folder(vit(tmp_path, side), size={"height": side, "width": side}))
    model = load_architecture(source, "image", 3, 5, (), 0)
    inputs = [model.read(picture(*shape)) for shape in SHAPES]
    batch = {"pixel_values": torch.stack([x["pixel_values"] for x in inputs])}
    assert batch["pixel_values"].shape == (len(SHAPES), 3, side, side)
    with torch.no_grad():
        logits, units = model.net(batch)
    assert logits.shape == (len(SHAPES), 3)
    torch.testing.assert_close(units.norm(dim=-1), torch.ones(len(SHAPES)))


def test_an_own_model_without_a_processor_names_the_field(tmp_path) -> None:
    with pytest.raises(ExperimentError, match=r"^model\.architectures: .* preprocessor_config\.json"):
        load_architecture(str(vit(tmp_path, 16)), "image", 3, 5, (), 0)


def test_shipped_preprocessing_is_resize_bicubic_then_centre_crop() -> None:
    clip, captioner = load_clip_checkpoint("tiny-clip")[1], Captioner.load("tiny-captioner").pixels
    plain = Pixels((16, 16), None)
    for shape in SHAPES[:3]:
        image, short = picture(*shape), min(shape[1:])
        height, width = (int(32 * n / short) for n in shape[1:])
        top, left = (height - 32) // 2, (width - 32) // 2
        wide = resized(image, height, width, Image.Resampling.BICUBIC)
        assert torch.equal(clip.sized(image), wide[:, top : top + 32, left : left + 32])
        square = resized(image, 16, 16, Image.Resampling.BICUBIC)
        assert torch.equal(captioner.sized(image), square)
        assert torch.equal(plain.sized(image), square)


def test_a_picture_of_the_final_size_is_resized_once_and_then_taken_as_it_is(monkeypatch) -> None:
    """The processor's own bits, of every picture; one that changes pictures of its size is always asked."""
    for pixels, shape, asked in (
        (Pixels((16, 16), None), (16, 16), 2),
        (Pixels((16, 16), None), (16, 24), 3),
        (Pixels((24, 24), (16, 16)), (16, 16), 4),
    ):
        calls, resize = [], pixels._resized
        images = [picture(3, *shape)] * 3
        images = [image.roll(n, -1) for n, image in enumerate(images)]
        want = [resize(image) for image in images]
        monkeypatch.setattr(pixels, "_resized", lambda x, r=resize, c=calls: c.append(1) or r(x))
        assert all(torch.equal(pixels.sized(x), y) for x, y in zip(images, want, strict=True))
        assert len(calls) == asked


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ({"shortest_edge": 16}, "gives pictures of several shapes; name a crop_size"),
        ({"height": 24, "width": 24}, "gives pictures of 24 x 24 pixels, and its model reads 16 x 16"),
    ],
)
def test_a_processor_that_does_not_fit_its_model_is_one_sentence(tmp_path, size, says) -> None:
    place = vit(tmp_path / "vit", 16)
    (place / "preprocessor_config.json").write_text(json.dumps(VIT | {"size": size}), encoding="utf-8")
    with pytest.raises(ExperimentError, match=says):
        load_architecture(str(place), "image", 3, 8, [], 0)


@pytest.mark.parametrize("shape", [(3, 10, 160), (3, 161, 10), (3, 1, 30)])
def test_a_long_picture_is_cut_before_it_is_resized_and_looks_the_same(shape, monkeypatch) -> None:
    y, x = np.mgrid[: shape[1], : shape[2]]
    smooth = 128 + 90 * np.sin(x / 4) * np.cos(y / 4)
    image = torch.from_numpy(np.stack([smooth] * 3).astype(np.uint8))
    cut = image_processing.middle(image)
    assert max(cut.shape[1:]) <= 8 * min(cut.shape[1:]) + 1
    pixels = Pixels.of({})
    now = pixels.sized(image)
    monkeypatch.setattr(image_processing, "middle", lambda image, aspect: image)
    assert (now.int() - pixels.sized(image).int()).abs().max() <= 3


def test_the_longest_picture_costs_little() -> None:
    import tracemalloc

    tracemalloc.start()
    sized = Pixels.of({}).sized(torch.zeros(3, 1, 20_000, dtype=torch.uint8))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sized.shape == (3, 224, 224)
    assert peak < 50e6


@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("top", [False, True])
def test_efficientnets_own_steps_are_followed(top, normalise, offset) -> None:
    from transformers.models.efficientnet.image_processing_pil_efficientnet import (
        EfficientNetImageProcessorPil,
    )

    processor = EfficientNetImageProcessorPil(
        size={"height": 8, "width": 8},
        include_top=top,
        do_normalize=normalise,
        rescale_offset=offset,
        rescale_factor=1 / 127.5,
        image_mean=[0.1, 0.2, 0.3],
        image_std=[0.5, 0.6, 0.7],
    )
    picture = torch.randint(
        0, 256, (3, 20, 30), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    pixels = Pixels(None, None, processor=processor)
    sized = pixels.sized(picture)
    assert sized.dtype == torch.uint8
    wanted = processor(picture.permute(1, 2, 0).numpy(), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels.normal(sized[None]), wanted.float(), atol=1e-4, rtol=1e-4)
