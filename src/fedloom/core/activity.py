"""The work under way, such as "evaluating, 64 of 240 samples", told to whoever shows it; by default nobody listens."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str], None]

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)
_stage: ContextVar[str] = ContextVar("stage", default="")


def tell(text: str) -> None:
    """Tell the listener what is being done, after the name of the stage if there is one."""
    if (listener := _listener.get()) is not None:
        stage = _stage.get()
        listener(f"{stage}, {text}" if stage else text)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Put a name, such as "round 2/4", before everything that is told inside, after the stage that it is in."""
    outer = _stage.get()
    token = _stage.set(f"{outer}, {name}" if outer else name)
    try:
        yield
    finally:
        _stage.reset(token)


@contextmanager
def told_to(listener: Listener | None) -> Iterator[None]:
    """Tell this listener inside; None tells nobody."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def also_told_to(listener: Listener) -> Iterator[None]:
    """Tell this listener, too, inside."""
    before = _listener.get()

    def both(text: str) -> None:
        if before is not None:
            before(text)
        listener(text)

    with told_to(both):
        yield
