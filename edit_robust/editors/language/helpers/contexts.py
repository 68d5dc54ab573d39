"""Context templates: short beginnings under which an edit must hold, sampled from the model itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from edit_robust.core import UserError
from edit_robust.core.files import write_text
from edit_robust.core.work import Workspace
from edit_robust.models.language.causal_lm import CausalLM

Groups = list[list[str]]
#: (beginnings, texts sampled from each, total length in tokens)
Recipe = Sequence[tuple[Sequence[str], int, int]]

ROME_RECIPE: Recipe = (([""], 10, 5), ([""], 10, 10))
MEMIT_RECIPE: Recipe = ((["The", "Therefore", "Because", "I", "You"], 1, 10),)


def context_templates(model: CausalLM, source: str, names: Sequence[str], recipe: Recipe, work: Workspace) -> Groups:
    """Templates with one {} each, in groups: the bare prompt first, then the sampled ones.

    source: `sampled` (from the model, with the run's seed), `bare` (the prompt alone), or a JSON file: a list, or an
    object with a list under one of the editor's `names`. Those used are kept in the run's folder and read back from
    there when the run goes on.
    """
    kept = work.run / "contexts.json" if work.run else None
    if kept is not None and kept.exists():
        return _check(json.loads(kept.read_text()), str(kept))
    if source == "bare":
        groups: Groups = [["{}"]]
    elif source == "sampled":
        groups = [["{}"], _sample(model, recipe, work)]
    else:
        groups = _read(source, names)
    if kept is not None:
        write_text(kept, json.dumps(groups, indent=1, ensure_ascii=False))
    return groups


def _sample(model: CausalLM, recipe: Recipe, work: Workspace) -> list[str]:
    generator = work.generator()
    total = sum(len(starts) * n for starts, n, _ in recipe)
    templates: list[str] = []
    with work.progress("Sampling context templates", total) as advance:
        for starts, n, length in recipe:
            for start in starts:
                for text in model.sample(start, n, length, generator):
                    # braces would read as places for the prompt, and line breaks as the start of a new text
                    clean = " ".join(text.replace("{", " ").replace("}", " ").split())
                    templates.append(f"{clean}. {{}}")
                advance(n)
    return templates


def _read(source: str, names: Sequence[str]) -> Groups:
    path = Path(source).expanduser()
    if not path.is_file():
        raise UserError(f"editor.context_templates={source} is neither `sampled`, `bare` nor a file")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise UserError(f"{path} is not JSON: {e}") from e
    if isinstance(found, dict):
        key = next((n for n in names if n in found), None)
        if key is None:
            raise UserError(f"{path} has templates for {', '.join(found)}, and none for {names[0]}")
        found = found[key]
    return _check(found, str(path))


def _check(found: object, where: str) -> Groups:
    """Bring a flat list into groups and see that every template has its one place."""
    if not isinstance(found, list) or not found:
        raise UserError(f"{where} must hold a list of templates")
    if all(isinstance(t, str) for t in found):
        flat = [t for t in found if t != "{}"]
        found = [["{}"], flat] if "{}" in found and flat else [found]
    for group in found:
        if not isinstance(group, list) or not group:
            raise UserError(f"{where}: a group of templates must be a list that is not empty")
        for t in group:
            if not isinstance(t, str) or t.count("{}") != 1:
                raise UserError(f"{where}: the template {t!r} must be a text with exactly one {{}}")
    return found


def flatten(groups: Groups) -> list[str]:
    """All templates, group after group."""
    return [t for g in groups for t in g]
