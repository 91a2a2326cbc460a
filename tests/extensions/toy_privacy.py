"""A privacy mechanism of one's own: a robust rule that listens to the first clients alone."""

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor

from fedloom.privacy.robust.stage import Combined, Keep, RobustRule
from fedloom.privacy.robust.updates import Update


class FirstClients(RobustRule):
    """Leaves out everybody but the first `count` clients."""

    kind: Literal["toy_first"] = "toy_first"
    count: int = Field(1, ge=1, description="how many clients are listened to")

    def apply(self, updates: Sequence[Update], server: Mapping[str, Tensor], keep: Keep) -> Combined:
        """The replies of the first clients; the ledger names the others."""
        left_out = {u.client: "toy_first: not among the first" for u in updates[self.count :]}
        return Combined([keep(u.reply) for u in updates[: self.count]], left_out)
