import pytest
import torch

from fedloom.core.errors import ExperimentError
from fedloom.data.tabletop import PRIVATE_STYLES, PUBLIC_STYLES, Scene, Thing, render_image, render_thing
from fedloom.data.tabletop.render import render_depth, render_imu, render_thermal
from fedloom.data.tabletop.scene import COLOURS, MOTIONS, SHAPES
from fedloom.data.tabletop.shapes import masks
from fedloom.data.tabletop.styles import PALETTE


def thing(
    shape: str = "cube", colour: str = "red", texture: str = "plain", size: str = "large", warmth: str = "hot"
):
    return Thing(shape, colour, texture, size, warmth)


def scene(left: Thing | None = None, right: Thing | None = None, motion: str = "still") -> Scene:
    return Scene(left or thing(), right or thing("ball", "blue", size="small", warmth="cold"), motion)


def test_masks_have_the_areas_of_geometry() -> None:
    """With no turn and radius r: square (1.72 r)^2, disc pi (0.98 r)^2, triangle (3 sqrt 3 / 4)(1.16 r)^2."""
    r = 10.8
    areas = {s: float(masks(s, "plain", "large", 1, 3, 48 * 4).cover.sum()) / 16 for s in SHAPES}
    assert areas["cube"] == pytest.approx((1.72 * r) ** 2, rel=0.02)
    assert areas["ball"] == pytest.approx(3.14159 * (0.98 * r) ** 2, rel=0.01)
    assert areas["cone"] == pytest.approx(1.299038 * (1.16 * r) ** 2, rel=0.01)
    assert areas["ring"] == pytest.approx(3.14159 * (1.02**2 - 0.44**2) * r**2, rel=0.01)
    assert areas["cross"] == pytest.approx((2 * 0.72 * 2.04 - 0.72**2) * r**2, rel=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_textures_are_a_part_of_the_object_and_differ(shape: str) -> None:
    for size in ("small", "large"):
        tiles = {t: masks(shape, t, size, 0, 0) for t in ("plain", "striped", "dotted")}
        assert tiles["plain"].texture.sum() == 0
        for name in ("striped", "dotted"):
            share = tiles[name].texture.sum() / tiles[name].cover.sum()
            assert 0.2 < share < 0.6
            assert (tiles[name].texture <= tiles[name].cover + 1e-6).all()
        assert (
            abs(tiles["striped"].texture - tiles["dotted"].texture).sum() > 0.15 * tiles["plain"].cover.sum()
        )


@pytest.mark.parametrize("style", PUBLIC_STYLES + PRIVATE_STYLES)
def test_the_nearest_palette_colour_of_a_middle_is_right_in_hue_order(style: str) -> None:
    """Six plain balls in a style: the six mean colours stay apart from each other and from the table."""
    means = []
    for colour in COLOURS:
        picture = torch.stack([render_thing(thing("ball", colour), style, s).float() for s in range(4)])
        means.append(picture[:, :, 20:28, 20:28].mean((0, 2, 3)))
        table = picture[:, :, :, :8].mean((0, 2, 3))
        assert (means[-1] - table).norm() > 40, colour
    gaps = torch.pdist(torch.stack(means))
    assert gaps.min() > 35


@pytest.mark.parametrize("style", PUBLIC_STYLES + PRIVATE_STYLES)
def test_images_change_with_the_seed_and_scale_with_pixels(style: str) -> None:
    a, b = render_image(scene(), style, 1), render_image(scene(), style, 2)
    assert a.dtype == torch.uint8
    assert not torch.equal(a, b)
    assert torch.equal(a, render_image(scene(), style, 1))
    large = render_image(scene(), style, 1, pixels=144).float()
    assert large.shape == (3, 144, 144)
    small = torch.nn.functional.avg_pool2d(large[None], 3)[0]
    assert (small - a.float()).abs().mean() < 25  # the same picture, drawn finer


def test_left_is_left_and_large_is_large() -> None:
    picture = render_image(scene(), "studio", 0).float()
    red = (picture[0] - picture[2]) > 60
    blue = (picture[2] - picture[0]) > 60
    assert red[:, :24].sum() > 250
    assert red[:, 24:].sum() == 0
    assert 80 < blue[:, 24:].sum() < 220
    assert blue[:, :24].sum() == 0


def test_every_object_keeps_inside_the_picture() -> None:
    for shape in SHAPES:
        other = "ball" if shape != "ball" else "cube"
        for seed in range(20):
            picture = render_depth(scene(thing(shape), thing(other, "blue")), seed)[0]
            raised = picture < 0.93
            border = torch.cat([raised[0], raised[-1], raised[:, 0], raised[:, -1]])
            assert border.sum() <= 3  # a corner may touch the picture's edge


def test_depth_shows_reliefs_and_no_colours() -> None:
    red, green = scene(thing(colour="red")), scene(thing(colour="green"))
    assert torch.equal(render_depth(red, 3), render_depth(green, 3))
    depth = render_depth(scene(), 0)[0]
    assert depth.dtype == torch.float32
    assert depth[0, 0].item() == pytest.approx(1.0, abs=0.006)
    assert depth[:, :24].min().item() == pytest.approx(
        1 - 0.9 * 10.2 / 60, abs=0.01
    )  # a cube, 0.9 radii high


def test_thermal_orders_warmth() -> None:
    for seed in range(10):
        levels = [
            render_thermal(scene(thing(warmth=w)), seed)[0, :, 8:16].amax().item() for w in ("warm", "hot")
        ]
        cold = render_thermal(scene(thing(warmth="cold")), seed)[0, :, 8:16].amin().item()
        assert cold < 0.24 < 0.42 < levels[0] < 0.68 < levels[1]
    plain, dotted = scene(thing("cube", "red")), scene(thing("star", "green", "dotted"))
    assert torch.equal(render_thermal(plain, 3), render_thermal(dotted, 3))


def test_motions_have_their_signatures() -> None:
    for seed in range(20):
        traces = {m: render_imu(scene(motion=m), seed) for m in MOTIONS}
        assert all(t.shape == (6, 200) for t in traces.values())
        sway = {m: t[:2].norm(dim=0).max().item() for m, t in traces.items()}
        bounce = {m: (t[2] - 9.81).abs().max().item() for m, t in traces.items()}
        turn = {m: t[5].abs().max().item() for m, t in traces.items()}
        assert max(sway["still"], bounce["still"], turn["still"]) < 0.3
        assert min(sway["push"], sway["shake"]) > 1.5
        assert turn["spin"] > 2.5 > max(v for m, v in turn.items() if m != "spin")
        assert 2 < bounce["lift"] < 5 < bounce["drop"]
        assert traces["drop"][2].min() < 0.5  # free fall weighs nothing
        crossings = {
            m: int((t[0].sign().diff().abs() > 0)[t[0][1:].abs() > 0.3].sum()) for m, t in traces.items()
        }
        assert crossings["push"] <= 4


def test_mistakes_are_named() -> None:
    with pytest.raises(ExperimentError, match="style 'neon'"):
        render_image(scene(), "neon", 0)
    with pytest.raises(ExperimentError, match="8 pixels"):
        render_image(scene(), "studio", 0, pixels=4)
    assert set(PALETTE) == set(COLOURS)
