"""Which example each row of a native model's encoder, projector and LLM belongs to: hooks that follow the forward pass."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from fedloom.models.batch_rows import RowMap
from fedloom.models.native.families import Family, Rows, Tower
from fedloom.models.native.prompt import NativeExample


class RowHooks:
    """`now` is the row map of the part at work; a projector inside its encoder gives the encoder's back when it is done."""

    def __init__(self, model: nn.Module, family: Family, placeholders: Mapping[str, int]) -> None:
        self.now = RowMap([])
        self._family, self._placeholders = family, placeholders
        self._maps: dict[str, RowMap] = {}
        self._outer: list[RowMap] = []
        self._follow(model, family.llm, "llm")
        for modality, tower in family.towers.items():
            self._follow(model, tower.path, modality)
            for path in tower.projector:
                self._follow(model, path, f"projector.{modality}")

    def start(self, examples: Sequence[NativeExample], *, answers: bool) -> None:
        """A new batch; its row maps live until the next one."""
        lengths = [len(e.ids) + (len(e.answer) if answers else 0) for e in examples]
        self._maps = {"llm": RowMap(range(len(examples)), lengths)}
        self._outer = []
        for modality, tower in self._family.towers.items():
            for name, rule in ((modality, tower.rows), (f"projector.{modality}", tower.rows_of_projector)):
                self._maps[name] = RowMap(self._of(examples, modality, tower, rule))

    def _of(
        self, examples: Sequence[NativeExample], modality: str, tower: Tower, rule: Rows | None
    ) -> list[int]:
        if rule is None:
            return []
        held = [i for i, e in enumerate(examples) if tower.input in e.media]
        return [
            i
            for i in held
            for _ in range(_count(examples[i], tower, rule, self._placeholders.get(modality, -1)))
        ]

    def _follow(self, model: nn.Module, path: str, name: str) -> None:
        module = model.get_submodule(path)
        for part in module if isinstance(module, nn.ModuleList) else [module]:
            part.register_forward_pre_hook(lambda module, args: self._enter(name))
            part.register_forward_hook(lambda module, args, output: self._leave())

    def _enter(self, name: str) -> None:
        self._outer.append(self.now)
        self.now = self._maps.get(name, self.now)

    def _leave(self) -> None:
        if self._outer:
            self.now = self._outer.pop()


def _count(example: NativeExample, tower: Tower, rule: Rows, placeholder: int) -> int:
    """Rows of one example."""
    main: Any = example.media[tower.input]
    if rule == "items":
        return len(main)
    if rule == "tiles":
        return _tiles(example, main)
    if rule == "tokens":
        return int(example.ids.eq(placeholder).sum())
    frames = example.media["feature_attention_mask"].sum(-1)
    return int(((frames - 1) // 2 + 1).sum())


def _tiles(example: NativeExample, main: Any) -> int:
    """Tiles that the encoder reads: those of padding, all zero, are dropped, and of several pictures OneVision reads one each."""
    if len(main) == 1:
        return int(main.shape[1])
    if "batch_num_images" in example.media:
        return len(main)
    return int(main.flatten(2).any(-1).sum())
