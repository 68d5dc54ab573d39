"""Memory and disk of a plan, item by item, each with its formula: docs/scale.md says how far measurements agree.

d and f are the outputs and inputs of an edited matrix, L the edited matrices, n the edits, P the parameters. Bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edit_robust.estimate.plan import CONTEXTS, QUESTIONS, TAIL, TOKENS, Plan

#: Bytes of an answer that a check keeps, of an edit's answers right after it, and of a file's header (docs/scale.md).
ANSWER, AT_EDIT, HEADER = 9.2, 840, 3072
#: Bytes that are kept of an image, under a shift, of a model: class and log-probability, or all of so many logits.
KEPT_ANSWER, KEPT_LOGITS = 5.25, 2.0 * 1000
#: Changes of points that are measured together, and a shard of decoded images, take at most so much.
KEPT, SHARD = 2 << 30, 256 << 20
#: Dense changes of independent edits are kept as long as all of them take no more.
DENSE = 4 << 30
#: Checks of all questions in a run.
FULL = 10
Phase = str
ALWAYS, PREPARE, EDIT, MEASURE = "always", "prepare", "edit", "measure"


@dataclass(frozen=True)
class Item:
    """what: in words.   size: bytes.   how: the formula.   phase: when it is there.   limit: it is at most that."""

    what: str
    size: float
    how: str
    phase: Phase = ALWAYS
    limit: bool = False


def memory(plan: Plan, values: Mapping[str, Any]) -> list[Item]:
    """What lies in memory beside the program itself, by phase."""
    each, sizes, f2 = plan.sizes.bytes_each, plan.sizes, _squares(plan)
    largest = max(f * f for _, f in plan.edited)
    found = [
        Item("weights", each * sizes.parameters, f"{each} P"),
        Item("copies of what edits change", 2 * each * plan.changed, f"2 · {each} L d f"),
    ]
    if plan.moments:
        found.append(Item("second moments while summed", 8 * (f2 + 2 * largest), "(L + 2) · 8 f²", PREPARE))
        if plan.spectral:
            found.append(Item("null spaces while prepared", 8 * (2 * f2 + 9 * largest), "(2 L + 9) · 8 f²", PREPARE))
            found.append(Item("factors and bases, kept", 16 * f2, "at most 2 L · 8 f²", EDIT, True))
        else:
            found.append(Item("factoring", 8 * (f2 + 3 * largest), "(L + 3) · 8 f²", PREPARE))
            found.append(Item("factors, kept", 8 * f2, "L · 8 f²", EDIT))
        found.append(Item("a solve", 8 * largest, "8 f²", EDIT))
    n = plan.n or 0
    if plan.remembers:
        keys = sum(f for _, f in plan.edited)
        quarter = sum(4.5 * f * f for _, f in plan.edited)
        past = min(quarter, 4 * keys * 4 * n)
        found.append(Item("past keys in solves", past, "at most L · 4.5 f²", EDIT, True))
        found.append(Item("past keys as carried", 4 * n * keys, "4 n L f", EDIT))
    if plan.values:
        above = max(sizes.n_layers - max(plan.at), 1)
        d, f = plan.edited[-1]
        batch = int(values["editor"].get("value_batch") or 1)
        tape = batch * CONTEXTS * TAIL * above * (10 * d + 2 * f) * each
        found.append(
            Item("value optimisation", tape, f"about {CONTEXTS} · {TAIL} tokens · blocks above · (10 d + 2 f)", EDIT)
        )
    if plan.trains:
        found.append(Item("training", 16 * plan.trains, "gradient, weights in float32, two moments: 16 a number", EDIT))
    if sizes.image:
        changes = min(KEPT, 4.0 * plan.changed * plan.points)
        found.append(Item("changes measured together", changes, "at most 2 GiB", MEASURE, True))
        found.append(
            Item("decoded images", min(SHARD, _images(values) * 3 * sizes.image**2), "at most 256 MiB", MEASURE, True)
        )
    elif "cache_gb" in values["model"]:
        rows = QUESTIONS * max(n, 1) * TOKENS * 2 * (plan.edited[0][0] + plan.edited[0][1]) * each
        answers = min(1e9 * float(values["model"]["cache_gb"]), rows)
        found.append(Item("what edits cannot change", answers, "at most model.cache_gb", MEASURE, True))
    return found


def peak(items: list[Item]) -> float:
    """The largest sum over a phase of what is there in it: what preparing keeps stays while editing and measuring."""
    by = {phase: sum(i.size for i in items if i.phase == phase) for phase in (ALWAYS, PREPARE, EDIT, MEASURE)}
    preparing = max((i.size for i in items if i.phase == PREPARE), default=0.0)
    return by[ALWAYS] + max(preparing, by[EDIT] + by[MEASURE])


def disk(plan: Plan, values: Mapping[str, Any]) -> list[Item]:
    """What a run writes: once a model and text (in outputs/cache), and for itself."""
    f2, n, found = _squares(plan), plan.n or 0, []
    if plan.moments and not plan.sizes.image:
        found.append(Item("second moments, once", 8 * f2, "8 L f²"))
        if plan.spectral:
            found.append(Item("eigenvectors, once", 8 * f2, "8 L f²"))
    if plan.factors:
        one = 4 * plan.factors * sum(d + f for d, f in plan.edited) + HEADER
        found.append(Item("changes", n * one, "4 L (d + f) an edit, times the rank"))
    elif not plan.sequence:
        whole = n * 4.0 * plan.changed
        if whole <= DENSE:
            found.append(Item("changes", whole, "4 L d f an edit"))
    if plan.remembers:
        found.append(Item("keys", n * (4 * sum(f for _, f in plan.edited) + HEADER), "4 L f an edit"))
    if plan.sequence:
        found.append(Item("kept weights", 4.0 * plan.changed, "4 L d f, one file that is replaced", limit=True))
    if plan.sizes.image:
        found += _images_on_disk(plan, values)
    else:
        checks = ANSWER * n * n / (2 * plan.every) if plan.sequence else 0.0
        full = ANSWER * QUESTIONS * n * (FULL + 1) / 2 if plan.sequence else 0.0
        found.append(
            Item("answers", AT_EDIT * n + checks + full, "9.2 an answer: n² / (2 every) of checks, all ten times")
        )
    return found


def _images_on_disk(plan: Plan, values: Mapping[str, Any]) -> list[Item]:
    """Answers of every image under every shift, as they are kept, and the store of corrupted images."""
    asked = (values.get("measure") or {}).get("image-answers")
    if asked is None:
        return []
    images, variants = _images(values), variants_of(values)
    each, how = {
        "answers": (KEPT_ANSWER * (1 + variants), f"{KEPT_ANSWER} an image, shift and model"),
        "logits": (KEPT_LOGITS * (1 + variants), "2 a class, image, shift and model; of 1000 classes"),
    }.get(asked.get("keep"), (1 + (1 + variants) / 8, "a bit an image, shift and model, a byte a clean image"))
    store = min(1e9 * float(values["shifts"].get("store_gb") or 0), images * variants * 3.0 * plan.sizes.image**2)
    found = [Item("answers", images * each * (1 + plan.points), how, limit=True)]
    return [
        *found,
        *([Item("corrupted images, shared", store, "3 s² each, at most shifts.store_gb", limit=True)] if store else []),
    ]


def _images(values: Mapping[str, Any]) -> int:
    """About how many images are looked at: what the task's options say, 1000 of a set that they do not count."""
    task = values["task"]
    pairs = task.get("pairs")
    sets = len(pairs) if isinstance(pairs, list) else 1
    own = sum(int(task[k]) for k in ("n_validation", "n_original", "n_test") if isinstance(task.get(k), int))
    more = int(task["n_edit"]) * sets if isinstance(task.get("n_edit"), int) else 0
    natural = task.get("natural") or []
    more += len(natural) * int(task["n_natural"]) if isinstance(task.get("n_natural"), int) else 0
    return own + more or 1000


def variants_of(values: Mapping[str, Any]) -> int:
    """Corruptions times severities."""
    chosen = {k: v for k, v in (values.get("corruption") or {}).items() if v is not None}
    default = values["shifts"].get("severities") or []
    return sum(len(v) if isinstance(v, list) else len(default) for v in chosen.values())


def _squares(plan: Plan) -> float:
    """L f², over the edited matrices."""
    return float(sum(f * f for _, f in plan.edited))
