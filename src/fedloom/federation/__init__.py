"""The round loop, its clients, and the engines that ask clients and return their replies."""

from fedloom.federation.engine import Engine
from fedloom.federation.local_engine import LocalEngine

__all__ = ["Engine", "LocalEngine"]
