"""Data sets that torchvision knows how to download."""

from __future__ import annotations

from pathlib import Path

from edit_robust.core.errors import UserError

ROOT = Path("~/.cache/edit-robust/torchvision")


def torchvision_folder(name: str) -> Path:
    """The folder that torchvision keeps a data set in (MNIST or SVHN), downloaded once. UserError without a network."""
    from torchvision import datasets

    root = ROOT.expanduser()
    try:
        if name == "SVHN":
            for split in ("train", "test"):
                datasets.SVHN(str(root / name), split=split, download=True)
            return root / name
        datasets.MNIST(str(root), download=True)
        return root / name
    except Exception as error:  # torchvision tries several servers, and raises what the last one did
        raise UserError(
            f"{name} cannot be downloaded ({' '.join(str(error).split())[:120]}); give task.path=FOLDER"
        ) from error
