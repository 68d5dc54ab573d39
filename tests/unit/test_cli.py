"""How the command line speaks, and how quickly it starts."""

from __future__ import annotations

import errno
import subprocess
import sys
import time

import pytest
from safetensors import SafetensorError

from edit_robust.cli import exit_code, explain
from edit_robust.core import UserError

KEPT = "What was measured is kept; the same command goes on from there."
FULL = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    "error, code, said",
    [
        (UserError("two\n  lines"), 2, "edit-robust: two lines"),
        (KeyboardInterrupt(), 130, f"edit-robust: stopped. {KEPT}"),
        (OSError(errno.ENOSPC, "full", "a/b"), 1, f"edit-robust: the disk is full (a/b). {KEPT}"),
        (FULL, 1, f"edit-robust: the disk is full. {KEPT}"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 1, "edit-robust: x cannot be written or read"),
        (MemoryError(), 1, "edit-robust: out of memory"),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, BaseException) else None,
)
def test_what_is_known_is_one_line(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    explain(error)
    err = capsys.readouterr().err
    assert err.startswith(said) and err.count("\n") == 1
    assert exit_code(error) == code


def test_what_is_not_known_shows_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise RuntimeError("why")
    except RuntimeError as e:
        explain(e)
        assert exit_code(e) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err and "RuntimeError: why" in err and KEPT in err


def test_help_is_quick_because_nothing_heavy_is_imported() -> None:
    look = "import sys; sys.argv = ['edit-robust', '--help']\nfrom edit_robust.cli import main\ntry: main()\nfinally: "
    look += "print(sorted({'torch', 'transformers', 'hydra', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)))"
    begin = time.monotonic()
    out = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True)
    assert out.returncode == 0 and out.stdout.rstrip().endswith("[]"), out.stdout + out.stderr
    assert time.monotonic() - begin < 5  # half a second when nothing else runs
    for verb in ("run", "ls", "check", "figure", "report", "export"):
        assert verb in out.stdout
