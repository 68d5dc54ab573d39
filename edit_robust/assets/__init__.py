"""Small models that we trained ourselves, shipped with the package."""

from pathlib import Path

from edit_robust.core.errors import UserError, nearest


def asset_dir(name: str) -> Path:
    """Folder of a shipped model."""
    here = Path(__file__).parent
    if not (here / name / "config.json").is_file():
        known = [p.parent.name for p in here.glob("*/config.json")]
        raise UserError(f"no built-in model {name!r}; {nearest(name, known)}")
    return here / name
