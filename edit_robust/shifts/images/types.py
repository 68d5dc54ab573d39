"""What a corruption takes and gives."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8

Pixels = UInt8[np.ndarray, "height width 3"]
Corruption = Callable[[Pixels, int, np.random.RandomState], Pixels]
