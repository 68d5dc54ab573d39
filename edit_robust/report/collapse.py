"""The break of a model in words: which edit, by which warning sign, and what would have prevented it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from edit_robust.core.signs import BY_KEY
from edit_robust.report.numbers import amount, finite

Summary = Mapping[str, Any]


def collapse_lines(
    summary: Summary,
    config: Mapping[str, Any],
    questions: pd.DataFrame | None = None,
    command: str = "",
    name: str = "",
) -> list[str]:
    """Two or three lines about the edit that broke the model; [] where none did, one where every edit was refused.

    questions: the run's, to show what the edit was about.   command: that made the run, to name the one that would have
    kept the model whole.   name: of the run, for the autopsy that is still to be done.
    """
    if (edit := finite(summary, "inflection_edit")) is None:
        return [line] if (line := all_refused(summary, config)) else []
    if finite(summary, "culprit_edit") is None:
        until = finite(summary, "inflection_until")
        where = f"at edit {edit:.0f}" if until is None or until == edit else f"about edit {edit:.0f}"
        text = f"The model broke {where}; no edit there sticks out by its size."
        return [text, _autopsy(name)] if name else [text]
    kind = summary.get("culprit_kind")
    lines = [_who(summary, questions, kind)]
    if options := prevented(summary):
        lines.append(f"{_would(options, command)} would have prevented it{_caught(summary)}.")
    if kind is None and name:
        lines.append(_autopsy(name))
    return lines


def _who(summary: Summary, questions: pd.DataFrame | None, kind: Any) -> str:
    number, id_ = finite(summary, "culprit_edit"), summary.get("culprit_id")
    about = f' ("{asked}")' if (asked := _question(questions, id_)) else ""
    edit = f"edit {number:.0f}, request {id_}{about}"
    text = f"The model broke at {edit}" if kind else f"The model broke; the suspect is {edit}"
    if (sign := BY_KEY.get(str(summary.get("culprit_sign")))) is not None:
        value, usual = finite(summary, "culprit_sign_value"), finite(summary, "culprit_sign_median")
        text += f": its {sign.label} is {amount(value)}, where the median edit has {amount(usual)}"
    words = {
        None: "",
        "accumulation": ". Alone it is harmless: the edits before it had used the model up (accumulation)",
    }
    return f"{text}{words.get(kind, f'. Alone in the unedited model it breaks it, too: a {kind}')}."


def _question(questions: pd.DataFrame | None, id_: Any) -> str:
    """The edit's own prompt."""
    if questions is None or not {"probe", "group", "x"} <= set(questions.columns):
        return ""
    own = questions[(questions.probe == "edit") & (questions.group == id_)]
    return str(own.x.iloc[0]) if len(own) else ""


def prevented(summary: Summary) -> list[str]:
    """Options that would have prevented the break: the guard, and the repaired method of the sign."""
    guard, sign = summary.get("prevented_by"), BY_KEY.get(str(summary.get("culprit_sign")))
    if summary.get("culprit_kind") == "accumulation":
        return []
    return [one for one in (guard, sign.cure if sign else "") if one]


def _would(options: list[str], command: str) -> str:
    """The options, behind the command that made the run where it made this one alone."""
    words = command.split()
    many = "," in command or {"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(words)
    plain = words[:2] == ["edit-robust", "run"] and not many
    whole = []
    for option in options:
        key = option.strip("'").partition("=")[0]
        kept = [w for w in words if w.partition("=")[0] != key] if plain else []
        whole.append(" ".join([*kept, option]))
    return " or ".join(f"`{one}`" for one in whole)


def _caught(summary: Summary) -> str:
    caught, of = finite(summary, "prevented_catches"), finite(summary, "n_edits")
    if caught is None or of is None or not summary.get("prevented_by"):
        return ""
    return f" (the guard stops {caught:.0f} of these {of:.0f} edits)"


def _autopsy(name: str) -> str:
    return f"`edit-robust autopsy {name}` replays it alone: a disabling edit, or the last of too many?"


def all_refused(summary: Summary, config: Mapping[str, Any]) -> str:
    """One line where the guard stopped every edit: nothing was edited."""
    n, guarded = finite(summary, "n_edits"), finite(summary, "n_guarded")
    rescaled = finite(summary, "n_guard_rescaled") or 0
    if not n or guarded != n or rescaled:
        return ""
    guard = (config.get("editor") or {}).get("guard") or {}
    side = next((f"{s} {guard[s]:g}" for s in ("below", "above") if isinstance(guard.get(s), int | float)), "")
    line = f"{guard.get('sign', '')} {side}".strip()
    return f"The guard refused all {n:.0f} edits{f' ({line})' if line else ''}: the model is unedited. Move its line."


def autopsy_lines(found: Mapping[str, Any], n_edits: int | None = None) -> list[str]:
    """What an autopsy has found, in a few lines. found: as it stands in autopsy.json.

    The first line is the verdict: the edit and its kind, or that nothing broke.
    """
    saved = [_saved(one) for one in found.get("saved") or ()]
    if found.get("inflection_edit") is None:
        return ["none: no edit broke the model; what was lost, was lost gradually", *saved]
    of = f" of {n_edits}" if n_edits else ""
    subject = f', "{found["subject"]}"' if found.get("subject") else ""
    lines = [f"{found['culprit_kind']}: edit {found['culprit_edit']}{of}, request {found['culprit_id']}{subject}"]
    if (sign := BY_KEY.get(str(found.get("culprit_sign")))) is not None:
        value, usual = finite(found, "culprit_sign_value"), finite(found, "culprit_sign_median")
        lines.append(
            f"  warning sign, known before the edit: {sign.label} {amount(value)} (median edit: {amount(usual)})"
        )
    for key, other, words in (("before", "after", "in the walk"), ("unedited", "alone", "alone in the unedited model")):
        if found.get(key) and found.get(other):
            lines.append(f"  {words}: {_change(found[key], found[other])}")
    if not found.get("before"):
        lines.append("  in the walk: its changes were not kept one by one, so the edit is the one that sticks out")
    own, usual = finite(found, "normalised_distance"), finite(found, "normalised_distance_median")
    if own is not None and usual is not None:
        lines.append(f"  normalised distance: {own:.3e} (median edit: {usual:.3e})")
    for option, why in (found.get("prevented") or {}).items():
        lines.append(f"  prevented by {option}: {why}")
    return [*lines, *saved]


def _saved(one: Mapping[str, Any]) -> str:
    """What an edit that the guard refused would have done."""
    sign = f"{one['sign']} {amount(one['value'])}"
    return (
        f"  refused by the guard, edit {one['edit']} ({sign}) would have done: {_change(one['before'], one['after'])}"
    )


def _change(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What became of a model: each number that both standings have."""
    parts = []
    if finite(before, "perplexity") is not None:
        now = after.get("perplexity")
        parts.append(
            f"perplexity {amount(finite(before, 'perplexity'))} to {'not finite' if now is None else amount(now)}"
        )
    for key, words in (("neighbours", "neighbours' facts"), ("kept", "past edits")):
        was, now = finite(before, key), finite(after, key)
        if was is not None and now is not None:
            parts.append(f"{words} {100 * was:.0f} % to {100 * now:.0f} %")
    return "; ".join(parts) or "nothing to ask"


def orders_line(found: Mapping[str, Any]) -> str:
    """Where several walks broke. found: the fields of `statistics.inflection.OverOrders`."""
    if not found["broke"]:
        return f"none of the {found['n']} walks broke"
    low, high = (f"{end:.0f}" if (end := found[key]) is not None else "beyond the walk" for key in ("low", "high"))
    middle = "beyond the walk" if found["median"] is None else f"edit {found['median']:.0f}"
    return f"{found['broke']} of {found['n']} walks broke; median {middle} [95 % over orders: {low} to {high}]"
