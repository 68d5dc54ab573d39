"""Real data that lie beside the repository and may be absent."""

from __future__ import annotations

from pathlib import Path

import pytest

DATA = Path(__file__).parents[3] / "shared" / "data"

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no real data beside the repository")


def real(path: str) -> Path:
    """The file or folder of that name among the real data; without it the test is skipped."""
    if not (DATA / path).exists():
        pytest.skip(f"{path} is not here")
    return DATA / path
