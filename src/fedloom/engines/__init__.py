"""Where clients run. An engine implements one thing: asking clients and returning their replies."""

from fedloom.engines.engine import Engine
from fedloom.engines.local import LocalEngine

__all__ = ["Engine", "LocalEngine"]
