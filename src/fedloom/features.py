"""What a frozen encoder makes of test samples, kept from one client and round to the next within a memory budget."""

from collections.abc import Sequence
from typing import Any

from fedloom.model import AdaptedModel
from fedloom.prepared import nbytes


class Features:
    """Keeps a model's features by the sample's uid, up to `limit` bytes, where they are frozen; what came first stays."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: dict[str, Any] = {}
        self._held = 0

    def of(self, model: AdaptedModel, uids: Sequence[str], examples: Sequence[Any]) -> Sequence[Any]:
        """The features of these examples, one each."""
        if not model.frozen_features:
            return model.features(examples)
        due = [i for i, uid in enumerate(uids) if uid not in self._kept]
        made = dict(zip(due, model.features([examples[i] for i in due]), strict=True)) if due else {}
        found = [made[i] if i in made else self._kept[uid] for i, uid in enumerate(uids)]
        for i, features in made.items():
            size = nbytes(features)
            if self._held + size <= self._limit:
                self._kept[uids[i]] = features
                self._held += size
        return found
