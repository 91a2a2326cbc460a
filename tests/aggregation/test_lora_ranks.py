"""Spec fedlora.md section 5: unequal ranks (identities 12, 35)."""

import pytest
import torch

from fedloom.aggregation import lora

precisions = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["f64", "f32"]
)


def product(pair):
    A, B = pair
    return B.double() @ A.double()


def same(got, want, tolerance, zero=1.0) -> None:
    torch.testing.assert_close(got.double(), want.double(), rtol=tolerance, atol=zero * tolerance)


def padded(A, B, r):
    A_pad = torch.stack([torch.nn.functional.pad(a, (0, 0, 0, r - len(a))) for a in A])
    return A_pad, torch.stack([torch.nn.functional.pad(b, (0, r - b.shape[1])) for b in B])


@pytest.mark.identities
@precisions
def test_12_dilution_of_rows_is_a_gauge_change_without_ridge(make_ragged, dtype, tolerance) -> None:
    A, B, p, _ = make_ragged(0, dtype=dtype)
    results = [
        product(lora.feda2(A, B, p, 0.0, mode, tail=tail))
        for mode in ("strict", "centred")
        for tail in ("pad", "rescale")
    ]
    for other in results[1:]:
        same(other, results[0], tolerance)
    with_ridge = [product(lora.feda2(A, B, p, 0.5, tail=tail)) for tail in ("pad", "rescale")]
    assert (with_ridge[0] - with_ridge[1]).norm() > 1e-3


@pytest.mark.identities
@precisions
@pytest.mark.parametrize("mode", ["strict", "always", "relative", "centred"])
def test_12_rows_that_nobody_holds_take_no_part(make_ragged, mode, dtype, tolerance) -> None:
    A, B, p, U = make_ragged(1, dtype=dtype)
    _, B_own = lora.feda2(A, B, p, mode=mode)
    A_out, B_out = lora.feda2(A, B, p, mode=mode, rank=9)
    assert A_out.shape == (9, 37)
    assert torch.count_nonzero(A_out[6:]) == torch.count_nonzero(B_out[:, 6:]) == 0
    same(B_out[:, :6], B_own, tolerance, 0.01)
    if mode == "strict":  # the active-row solve is the pseudo-inverse; ridge 1 would keep a quarter
        same(B_out, U @ torch.linalg.pinv(A_out.double()), tolerance)


@pytest.mark.identities
@precisions
def test_35_zero_padding_dilutes_the_mean_product_twice_and_u_once(dtype, tolerance) -> None:
    g = torch.Generator().manual_seed(2)
    a, b = (torch.randn(*s, generator=g, dtype=torch.float64).to(dtype) for s in ((4, 37), (24, 4)))
    A, B, p = [a, a[:2], a], [b, b[:, :2], b], [0.3, 0.6, 0.1]  # agreeing clients; rows 2 and 3 have h = 0.4
    tail, head = product((a[2:], b[:, 2:])), product((a[:2], b[:, :2]))
    same(lora.dense(A, B, p), head + 0.4 * tail, tolerance)
    for option, share in (("pad", 0.16), ("rescale", 0.4), ("keep", 1.0)):
        same(product(lora.fedavg(A, B, p, tail=option)), head + share * tail, tolerance)
    same(product(lora.feda2(A, B, p, tail="keep")), head + tail, tolerance)


@precisions
def test_lists_of_unequal_ranks_equal_their_zero_padding(make_ragged, dtype, tolerance) -> None:
    A, B, p, U = make_ragged(3, dtype=dtype)
    A_pad, B_pad = padded(A, B, 6)
    for got, want in zip(lora.fedavg(A, B, p, tail="pad"), lora.fedavg(A_pad, B_pad, p), strict=True):
        same(got, want, tolerance)
    same(lora.dense(A, B, p), U, tolerance)
    same(product(lora.flexlora(A, B, p, rank=16)), U, tolerance)
    assert lora.flexlora(A, B, p)[0].shape == (6, 37)
    means = lora.fedavg(A_pad, B_pad, p)
    want = float((U - product(means)).norm() / U.norm())
    assert lora.restoration_error(A, B, *means, p) == pytest.approx(want, rel=tolerance / 100)


def test_unequal_ranks_centred_is_never_worse_than_the_mean(make_ragged) -> None:
    for seed in range(5):
        A, B, p, _ = make_ragged(seed)
        mean = lora.restoration_error(A, B, *lora.fedavg(A, B, p), p)
        for ridge in (0.0, 0.01, 1.0, 100.0):
            assert lora.restoration_error(A, B, *lora.feda2(A, B, p, ridge), p) <= mean * (1 + 1e-12)


def test_equal_lists_are_stacks_and_fedex_refuses_unequal_ones(make_cohort, make_ragged) -> None:
    c = make_cohort(4)
    for got, want in zip(lora.feda2(list(c.A), list(c.B), c.p), lora.feda2(c.A, c.B, c.p), strict=True):
        assert torch.equal(got, want)
    A, B, p, _ = make_ragged(5)
    with pytest.raises(ValueError, match="unequal ranks"):
        lora.fedex(A, B, p)
