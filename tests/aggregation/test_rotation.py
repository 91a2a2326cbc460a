"""Rotations of a LoRA pair towards a reference (specification fedlora, identity 33)."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedloom.aggregation import rotation

R, D_OUT, D_IN = 4, 19, 31
pytestmark = pytest.mark.identities
seeds = st.integers(0, 2**20)
ROTATES = pytest.mark.parametrize("rotate", [rotation.rotate_a, rotation.rotate_b])


def draw(seed: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(*size, generator=g, dtype=dtype) for size in ((R, D_IN), (D_OUT, R), (R, R)))


def reference(rotate, A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    return A if rotate is rotation.rotate_a else B


@ROTATES
@given(seed=seeds, strength=st.floats(0, 1))
def test_33_the_product_stays(rotate, seed: int, strength: float) -> None:
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        A, B, _ = draw(seed, dtype)
        other = reference(rotate, *draw(seed + 1, dtype)[:2])
        A_new, B_new = rotate(A, B, other, strength)
        assert A_new.dtype == dtype
        assert float((B_new @ A_new - B @ A).norm() / (B @ A).norm()) < tolerance


@given(seed=seeds, strength=st.floats(0, 1))
def test_33_it_is_a_rotation(seed: int, strength: float) -> None:
    R_k = rotation.towards(rotation.procrustes(draw(seed)[2]), strength)
    torch.testing.assert_close(R_k @ R_k.T, torch.eye(R, dtype=torch.float64), rtol=0, atol=1e-10)
    assert float(torch.linalg.det(R_k)) == pytest.approx(1.0)


@ROTATES
@given(seed=seeds)
def test_33_a_whole_rotation_is_the_nearest_of_all(rotate, seed: int) -> None:
    A, B, turn = draw(seed)
    other = reference(rotate, *draw(seed + 1)[:2])

    def distance(pair: tuple[torch.Tensor, torch.Tensor]) -> float:
        return float((reference(rotate, *pair) - other).norm())

    best = distance(rotate(A, B, other))
    some = rotation.procrustes(turn)
    assert best <= distance((A, B)) + 1e-10
    assert best <= distance((some.T @ A, B @ some)) + 1e-10


@ROTATES
@given(seed=seeds)
def test_a_turned_pair_comes_back(rotate, seed: int) -> None:
    A, B, turn = draw(seed)
    turn = rotation.procrustes(turn)
    A_new, B_new = rotate(turn.T @ A, B @ turn, reference(rotate, A, B))
    torch.testing.assert_close(A_new, A, rtol=0, atol=1e-9)
    torch.testing.assert_close(B_new, B, rtol=0, atol=1e-9)


def test_a_rotation_of_no_strength_is_none_and_another_shape_is_refused() -> None:
    A, B, _ = draw(0)
    same = rotation.rotate_a(A, B, draw(1)[0], 0.0)
    torch.testing.assert_close(same, (A, B), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"cannot be rotated towards \(3, 31\)"):
        rotation.rotate_a(A, B, A[:3])
