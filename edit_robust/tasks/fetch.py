"""Public files, downloaded once and checked at every use."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path

from edit_robust.core.errors import UserError
from edit_robust.core.files import atomic_path, write_text
from edit_robust.core.locks import held

_CHUNK = 1 << 20


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits."""
    h = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            h.update(chunk)
    return h.hexdigest()


def fetch(
    url: str, dest: str | Path, sha256: str | None = None, option: str = "task.path", timeout: float = 30.0
) -> Path:
    """The file at `url`, kept at `dest`; downloaded only when `dest` is absent.

    Its SHA-256 is written to `dest` + ".sha256" and compared at every later call, and with `sha256` where that is
    known. `option` is the config key that names a local file instead; `timeout` is in seconds, per read.

    Raises UserError when the address cannot be reached, when fewer bytes came than were announced, or when the
    content is not the expected one.
    """
    dest = Path(dest)
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        with held(f"{dest}.lock"):
            if dest.is_file():
                _verify(dest, sha256)
            else:
                _download(url, dest, sha256, timeout)
    except UserError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        # urllib's own errors are OSErrors, a malformed address is a ValueError; an HTTPError's text has its number.
        cause = error if isinstance(error, urllib.error.HTTPError) else getattr(error, "reason", None) or error
        reason = " ".join(str(cause).split()) or type(error).__name__
        raise UserError(
            f"cannot download {url} ({reason}); download it elsewhere and name the local file: {option}=FILE"
        ) from error
    return dest


def _sidecar(dest: Path) -> Path:
    return dest.with_name(dest.name + ".sha256")


def _verify(dest: Path, sha256: str | None) -> None:
    found, note = file_sha256(dest), _sidecar(dest)
    words = note.read_text(encoding="utf-8").split() if note.is_file() else []
    expected = sha256 or (words[0] if words else None)
    if expected is None:
        write_text(note, f"{found}  {dest.name}\n")
    elif found != expected.lower():
        raise UserError(
            f"{dest} is not the file that was downloaded (SHA-256 {found[:12]}..., expected {expected[:12]}...); "
            "delete it to download it again"
        )


def _download(url: str, dest: Path, sha256: str | None, timeout: float) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "edit-robust"})
    with urllib.request.urlopen(request, timeout=timeout) as answer, atomic_path(dest) as temporary:
        announced = answer.headers.get("Content-Length")
        h, size = hashlib.sha256(), 0
        with temporary.open("wb") as out:
            while chunk := answer.read(_CHUNK):
                out.write(chunk)
                h.update(chunk)
                size += len(chunk)
        if announced is not None and size != int(announced):
            raise UserError(f"{url}: the connection broke after {size} of {announced} bytes; run the command again")
        if sha256 is not None and h.hexdigest() != sha256.lower():
            raise UserError(
                f"{url}: the content has SHA-256 {h.hexdigest()[:12]}..., expected {sha256[:12]}...; it was not kept"
            )
        # Before the file takes its name: a file that is there always has its hash beside it.
        write_text(_sidecar(dest), f"{h.hexdigest()}  {dest.name}\n")
