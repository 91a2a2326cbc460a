"""Texts behind a learned context: the common beginning passes the tower once, with the features of whole texts."""

import pytest
import torch

from fedloom.models.clip.causal_texts import features_after
from tests.models.clip.tiny_clip import towers

pytestmark = pytest.mark.identities
NAMES = ["cup.", "red cup on a table.", "a.", "photo of a cup."]


def parts(on, length, count=3):
    """Contexts (N, m, d_text), and the texts' embeddings and ends."""
    draw = torch.Generator().manual_seed(length)
    contexts = torch.randn(count, length, on.text_width, generator=draw, dtype=on.like.dtype)
    tokens = on.tokens(NAMES, gap=length)
    return contexts.requires_grad_(), on.embed(tokens.ids), tokens.end


def whole(on, contexts, embeds, end):
    """Every text through the whole tower by itself."""
    rows = []
    for context in contexts:
        filled = [torch.cat([text[: on.lead], context, text[on.lead + len(context) :]]) for text in embeds]
        rows.append(torch.cat([on.text_features(t[None], e[None]) for t, e in zip(filled, end, strict=True)]))
    return torch.stack(rows)


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("length", [1, 4, 7])
def test_the_features_are_those_of_whole_texts(dtype, close, length) -> None:
    on = towers(dtype=dtype)
    contexts, embeds, end = parts(on, length)
    expected = whole(on, contexts, embeds, end)
    torch.testing.assert_close(features_after(on, contexts, embeds, end), expected, rtol=close, atol=close)


def test_the_gradients_are_those_of_whole_texts() -> None:
    on = towers(dtype=torch.float64)
    contexts, embeds, end = parts(on, 4)
    weight = torch.randn(
        3, len(NAMES), on.width, generator=torch.Generator().manual_seed(1), dtype=contexts.dtype
    )
    (features_after(on, contexts, embeds, end) * weight).sum().backward()
    found, contexts.grad = contexts.grad, None
    (whole(on, contexts, embeds, end) * weight).sum().backward()
    torch.testing.assert_close(found, contexts.grad, rtol=1e-10, atol=1e-10)


def test_the_gap_of_the_texts_is_not_read() -> None:
    on = towers(dtype=torch.float64)
    contexts, embeds, end = parts(on, 4)
    other = embeds.clone()
    other[:, 1:5] = 9.0
    assert torch.equal(features_after(on, contexts, embeds, end), features_after(on, contexts, other, end))


def test_the_common_beginning_passes_once_for_all_names() -> None:
    """The first block's MLP sees start and context once for each context, and the names; the last block's what is read."""
    on = towers(dtype=torch.float64)
    contexts, embeds, end = parts(on, 7, count=2)
    seen: list[list[int]] = [[] for _ in range(on.text_depth)]
    handles = [
        on.block("text", n).mlp.register_forward_hook(
            lambda _m, inputs, _o, n=n: seen[n].append(inputs[0][..., 0].numel())
        )
        for n in range(on.text_depth)
    ]
    features_after(on, contexts, embeds, end)
    for handle in handles:
        handle.remove()
    count, classes, tail = len(contexts), len(NAMES), embeds.shape[1] - 8
    assert sum(seen[0]) == count * 8 + count * classes * tail
    assert sum(seen[-1]) == count * classes
