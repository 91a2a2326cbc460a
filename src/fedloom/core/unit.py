"""Units of figures."""

from typing import Literal

Unit = Literal["percent", "bytes", "seconds", "count", "number"]
"""How a figure is shown: a share between 0 and 1 as `percent`, a `count` as a whole number, a `number` with four decimals."""
