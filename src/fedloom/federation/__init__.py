"""Where clients run. An engine implements one thing: asking clients and returning their replies."""

from fedloom.federation.engine import Engine
from fedloom.federation.local_engine import LocalEngine

__all__ = ["Engine", "LocalEngine"]
