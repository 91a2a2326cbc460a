"""Split of a cohort's batch rows among its clients."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear

from fedloom.models.precision import moved


@dataclass(frozen=True)
class Split:
    """Split of R rows among K clients.

    `owners` (R,): client of each row, not decreasing; `members`: the P clients with rows, `present` the same as a tensor, None
    for all K. Equal shares are reshaped; unequal ones are gathered into (P, longest) by `take` and back by `back` (R,).
    """

    owners: Tensor
    members: Sequence[int]
    present: Tensor | None
    take: Tensor | None
    back: Tensor | None

    @classmethod
    def of(cls, owners: Sequence[int], stacked: int, device: torch.device) -> "Split":
        """The split of rows with these owners among `stacked` clients."""
        rows = torch.tensor(owners)
        if (rows.diff() < 0).any():
            raise ValueError("the rows of a cohort must stand client by client")
        present, counts = torch.unique_consecutive(rows, return_counts=True)
        take = back = None
        longest = int(counts.max())
        if not bool((counts == longest).all()):
            first = counts.cumsum(0) - counts
            within = torch.arange(longest)[None].minimum(counts[:, None] - 1)
            take = (first[:, None] + within).flatten()
            own = torch.arange(len(present)).repeat_interleave(counts)
            back = own * longest + torch.arange(len(rows)) - first[own]
        everyone = len(present) == stacked
        there = [None if t is None else moved(t, device) for t in (None if everyone else present, take, back)]
        return cls(moved(rows, device), present.tolist(), *there)

    def pick(self, stack: Tensor) -> Tensor:
        """(K, ...) to (P, ...)."""
        return stack if self.present is None else stack.index_select(0, self.present)

    def apart(self, x: Tensor) -> Tensor:
        """Rows (R, ..., d) to (P, n, d), one slice a client."""
        x = x if self.take is None else x.index_select(0, self.take)
        return x.reshape(len(self.members), -1, x.shape[-1])

    def joint(self, y: Tensor, like: Tensor) -> Tensor:
        """(P, n, d_out) back to rows (R, ..., d_out), in the shape of the input `like`."""
        y = y.reshape(-1, *like.shape[1:-1], y.shape[-1])
        return y if self.back is None else y.index_select(0, self.back)

    def times(self, rows: Tensor, stack: Tensor | None, common: Tensor) -> Tensor:
        """(P, n, d_in) to (P, n, d_out): every client's rows by its weight (K, d_out, d_in), or all by the common one."""
        return linear(rows, common) if stack is None else torch.bmm(rows, self.pick(stack).transpose(1, 2))

    def plus(self, out: Tensor, rows: Tensor, stack: Tensor | None, common: Tensor) -> Tensor:
        """`out` (R, ..., d_out) plus `times` of these rows, in one operation for equal shares."""
        if stack is None or self.take is not None:
            return out + self.joint(self.times(rows, stack, common), out)
        weight = self.pick(stack).transpose(1, 2)
        return torch.baddbmm(self.apart(out), rows, weight).view(out.shape)

    def rows(self, stack: Tensor | None, common: Tensor, dims: int) -> Tensor:
        """A vector for each row, (R, 1, ..., d) with `dims` dimensions, from a stack (K, d); or the common one (d,)."""
        return common if stack is None else stack[self.owners].view(len(self.owners), *(1,) * (dims - 2), -1)
