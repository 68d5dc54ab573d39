"""What broke the model? The suspect of a finished walk is found to the edit, and replayed alone on the unedited model.

Broken there, too, it is a disabling edit, one fact that ends the model by itself; else it was the last of many, and the
model broke by accumulation (arXiv 2401.07453, section 4 and table 2).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from edit_robust.config.compose import choices, own_nodes
from edit_robust.config.nodes import build
from edit_robust.core import Request, UserError
from edit_robust.core.files import write_text
from edit_robust.core.signs import BY_KEY
from edit_robust.core.threads import Threads, prepare_environment
from edit_robust.core.work import ShowProgress, Workspace, silent
from edit_robust.editors.base import Edit, Editor, State, edit_or_refuse, resolve_layers
from edit_robust.evaluate.collapse import Collapse, Diagnosis, Suspect, described, diagnose, edits, piles_up, prevention
from edit_robust.evaluate.standing import Observer, Standing, harm
from edit_robust.evaluate.statistics.inflection import OverOrders, over_orders
from edit_robust.evaluate.summary import flat
from edit_robust.models.base import Model
from edit_robust.runs.files import read_json
from edit_robust.runs.ledger import kept_edit, settled
from edit_robust.runs.reader import Run
from edit_robust.runs.status import lock

DISABLING, ACCUMULATION = "disabling edit", "accumulation"
#: A stretch of so many edits is looked at edit by edit; a longer one is halved before.
STRETCH = 12
#: Of the edits that a guard refused, so many are made after all, to see what it saved.
WORST = 3
#: Of so many past edits, spread evenly, is asked what became of them.
PAST = 60
#: Of a batch, so many requests are replayed alone, those with the worst signs.
SINGLES = 8


@dataclass(frozen=True)
class Saved:
    """What an edit that a guard refused would have done where it stood in the walk.

    edit: its number.   id: of its request.   sign, value: what it was refused by.   before, after: the model there
    without it, and with it.
    """

    edit: int
    id: str
    sign: str
    value: float
    before: Standing
    after: Standing

    def to_dict(self) -> dict[str, Any]:
        """As it stands in autopsy.json."""
        own = {"edit": self.edit, "id": self.id, "sign": self.sign, "value": self.value}
        return {**own, "before": self.before.to_dict(), "after": self.after.to_dict()}


@dataclass(frozen=True)
class Finding:
    """What an autopsy has found; see `to_dict` for what the run keeps of it.

    diagnosis: where the records say that the model broke.   suspect: the edit, with its signs beside their medians.
    request: what it was about.   before, after: the model around the edit in the walk (None: its change was not kept).
    unedited, alone: the unedited model, and with this edit alone.   distance: ||dW||_F / numel of the edit alone, and
    `usual`, the median of the walk's edits.   prevented: options that prevent it, and what is known about each.
    saved: what the worst edits that a guard refused would have done.
    """

    diagnosis: Diagnosis
    kind: str | None = None
    suspect: Suspect | None = None
    request: Request | None = None
    before: Standing | None = None
    after: Standing | None = None
    unedited: Standing = field(default_factory=Standing)
    alone: Standing = field(default_factory=Standing)
    distance: float | None = None
    usual: float | None = None
    prevented: Mapping[str, str] = field(default_factory=dict)
    saved: tuple[Saved, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """What stands in autopsy.json: the summary's own keys, and the numbers behind the verdict."""
        found = replace(self.diagnosis, suspect=self.suspect).to_dict() | {"culprit_kind": self.kind}
        if self.suspect is not None:
            found["inflection_edit"] = self.suspect.edit
        sides = {"before": self.before, "after": self.after, "unedited": self.unedited, "alone": self.alone}
        return {
            **found,
            "subject": self.request.subject if self.request else None,
            "signs": dict(self.suspect.values) if self.suspect else {},
            **{name: side.to_dict() if side else None for name, side in sides.items()},
            "normalised_distance": self.distance,
            "normalised_distance_median": self.usual,
            "prevented": dict(self.prevented),
            "saved": [one.to_dict() for one in self.saved],
        }


def autopsy(run: Run, progress: ShowProgress = silent, model: Model | None = None) -> Finding:
    """Find the edit that broke the model of a finished walk, and say what kind of break it was.

    model: the run's, unedited, where it is loaded already. Where nothing broke, and no guard stopped anything, none is
    needed. The verdict is written
    into the run's folder, see `write`.
    Raises UserError for a run that is not complete, or whose edits were not made on top of each other.
    """
    if not run.complete:
        raise UserError(f"{run.id} is not complete: the same command goes on with it")
    if not piles_up(run.records):
        raise UserError(f"{run.id} made no edits upon edits; an autopsy needs trajectory=sequential")
    diagnosis = diagnose(run.records)
    finding, guarded = Finding(diagnosis), bool(run.summary.get("n_guarded"))
    if diagnosis.broke is not None or guarded:
        table = Table(run, progress, model)
        finding = finding if diagnosis.broke is None else table.examine(diagnosis)
        finding = replace(finding, saved=table.saved()) if guarded else finding
    write(run, finding)
    return finding


def examined(runs: Sequence[Run], progress: ShowProgress = silent, strict: bool = True) -> list[tuple[Run, Finding]]:
    """Autopsies of several runs. strict: one that cannot have any is an error, else it is left out."""
    prepare_environment()
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # parts of one's own are named by `_target_`
    found = []
    for run in runs if strict else [r for r in runs if piles_up(r.records)]:
        with Threads.of(run.config.get("threads", "auto")).applied():
            found.append((run, autopsy(run, progress)))
    if not found:
        raise UserError("none of these runs made edits upon edits; an autopsy needs trajectory=sequential")
    return found


def over_groups(runs: Sequence[Run]) -> dict[str, OverOrders]:
    """Where the runs of each group that differ in nothing but order or seed broke; of groups with several runs."""
    from edit_robust.figures.frame import RunData
    from edit_robust.figures.grouping import groups

    found = {}
    for group in groups([RunData.of(run) for run in runs]):
        if len(group.runs) > 1:
            found[group.label] = over_orders([one.summary.get("inflection_edit") for one in group.runs])
    return found


def write(run: Run, finding: Finding) -> None:
    """Keep the verdict: autopsy.json, and the columns about it in the run's own summary."""
    held = lock(run.path)
    try:
        write_text(run.path / "autopsy.json", json.dumps(finding.to_dict(), indent=1, allow_nan=False))
        verdict = list(Collapse.columns(run))
        new = {c.key: c.to_dict() for c in verdict}
        file = run.path / "columns.json"
        kept = json.loads(file.read_text()) if file.is_file() else []  # runs of older versions have none
        columns = [new.pop(c["key"], c) for c in kept]
        write_text(file, json.dumps([*columns, *new.values()], indent=1))
        summary = read_json(run.path / "summary.json") | flat(verdict)
        write_text(run.path / "summary.json", json.dumps(summary, indent=1))
    finally:
        held.release()


class Table:
    """A run's model, task and editor, made again, and an observer of the model."""

    def __init__(self, run: Run, progress: ShowProgress, model: Model | None = None) -> None:
        config = run.config
        self.run, self.config = run, config
        self.model: Model = build(config["model"], "model") if model is None else model
        self.model.progress = progress
        self.task = build(config["task"], "task")
        self.requests: Sequence[Request] = self.task.requests()
        self.editor: Editor = build(config["editor"], "editor")
        self.work = Workspace(run.path.parent.parent / "cache", run.path, config["seed"], progress)
        indices = resolve_layers(config["layer"]["index"], self.editor, self.model.n_layers)
        self.layers = [self.model.layer_at(i).name for i in indices]
        self.state: State[Any] = self.editor.prepare(self.model, self.layers, self.task, self.work)
        self.changes = self.state.changes(self.model)
        tokens = int(config.get("text_tokens") or 4096)
        self.observer = Observer(self.model, self.task, self.requests, self.changes, tokens)
        self.table = edits(run.records)

    def examine(self, diagnosis: Diagnosis) -> Finding:
        """The whole autopsy of a walk that broke."""
        unedited = self.observer.look()
        found = self._in_the_walk(diagnosis)
        if found is None:  # the walk's single changes were not kept
            step, before, after = self._step_of(diagnosis.edit), None, None
        else:
            step, before, after = found
        request, edit, alone = self._alone(step, unedited)
        row = self.table[self.table.id == request.id].iloc[-1]
        until = self.table[self.table.number <= max(int(diagnosis.broke.until), int(row.number))]  # type: ignore[union-attr]
        suspect = described(until, row)
        distance, usual = self._distances(edit)
        kind = DISABLING if harm(unedited, alone) >= 1 else ACCUMULATION
        diagnosis = replace(diagnosis, edit=suspect.edit, prevention=prevention(self.table, suspect))
        finding = Finding(diagnosis, kind, suspect, request, before, after, unedited, alone, distance, usual)
        return replace(finding, prevented=self._prevented(finding) if kind == DISABLING else {})

    # -- in the walk ---------------------------------------------------------------------------------------------------

    def _step_of(self, edit: int | None) -> int:
        return int(self.table[self.table.number == edit].step.iloc[0])

    def _in_the_walk(self, diagnosis: Diagnosis) -> tuple[int, Standing, Standing] | None:
        """(step, model before it, model after it): the step of the walk around the break that did the most harm.

        The kept changes are made again up to the check before the break; from there on the stretch is halved while it
        is long, by which half does more harm, and then looked at step by step. None where changes were not kept.
        """
        assert diagnosis.broke is not None
        numbers = self.table.groupby("step").number.max()
        steps = [int(s) for s in numbers.index[numbers <= diagnosis.broke.until]]
        made: dict[int, Edit] = {}
        for step in steps:
            kept = kept_edit(self.run.path, step)
            if kept is None:
                return None
            made[step] = settled(kept, self.model)
        first = made[steps[0]].delta.base
        if first not in (self.model.base, *self.model.older_bases):
            raise UserError(f"this is not the model that {self.run.id} edited: other weights, or another tokenizer")
        start = int(numbers[numbers <= diagnosis.broke.after].index.max()) if diagnosis.broke.after > 0 else 0
        with self.model.held(self.changes):
            for step in steps:
                if step <= start:
                    self.model.add(made[step].delta)
            past = self._past(start)
            return self._harmful([s for s in steps if s > start], made, past)

    def _past(self, step: int) -> list[int]:
        """Places of the requests edited until a step that the model still says: a sample of them."""
        ids = set(self.table[self.table.step <= step].id)
        past = [i for i, r in enumerate(self.requests) if r.id in ids]
        some = [past[round(i)] for i in np.linspace(0, len(past) - 1, min(PAST, len(past)))] if past else []
        return [i for i, right in zip(some, self.observer.right(some), strict=False) if right]

    def _harmful(
        self, steps: list[int], made: Mapping[int, Edit], past: Sequence[int]
    ) -> tuple[int, Standing, Standing]:
        """See `_in_the_walk`; the model stands before the first of `steps`."""
        here = self.observer.look(past)
        while len(steps) > STRETCH:
            half = len(steps) // 2
            begin = self.model.snapshot(self.changes)
            self._add(steps[:half], made)
            between, middle = self.observer.look(past), self.model.snapshot(self.changes)
            self._add(steps[half:], made)
            end = self.observer.look(past)
            if harm(here, between) >= harm(between, end):
                self.model.restore(begin)
                steps = steps[:half]
            else:
                self.model.restore(middle)
                steps, here = steps[half:], between
        found = []
        for step in steps:
            self._add([step], made)
            after = self.observer.look(past)
            found.append((step, here, after))
            here = after
        return max(found, key=lambda one: harm(one[1], one[2]))

    def _add(self, steps: Sequence[int], made: Mapping[int, Edit]) -> None:
        for step in steps:
            self.model.add(made[step].delta)

    # -- alone ---------------------------------------------------------------------------------------------------------

    def _alone(self, step: int, unedited: Standing) -> tuple[Request, Edit, Standing]:
        """The step's edit made alone in the unedited model; of a batch the request that does most harm by itself."""
        rows = self.table[self.table.step == step]
        if len(rows) > SINGLES:
            keys = [k for k in BY_KEY if k in rows]
            risk = rows[keys[0]].map(BY_KEY[keys[0]].risk) if keys else pd.Series(0.0, index=rows.index)
            rows = rows.loc[risk.sort_values(ascending=False, kind="stable").index[:SINGLES]]
        by_id = {r.id: r for r in self.requests}
        found = []
        for id_ in rows.id:
            edit, alone = self._by_itself(self.editor, by_id[id_])
            found.append((by_id[id_], edit, alone))
        return max(found, key=lambda one: harm(unedited, one[2]))

    def _by_itself(self, editor: Editor, request: Request) -> tuple[Edit, Standing]:
        with self.model.held(self.changes):
            edit = settled(edit_or_refuse(editor, self.model, [request], self.state), self.model)
        with self.model.patched(edit.delta):
            return edit, self.observer.look()

    def _distances(self, alone: Edit) -> tuple[float | None, float | None]:
        """||dW||_F / numel of the edit alone, the largest over its parameters, and the median over the walk's edits."""
        own = [norm / self.model.param(name).numel() for name, norm in alone.delta.norms().items()]
        told = self.run.records
        told = told[(told.metric == "layer_delta_norm") & (told.scope == "at-edit") & (told.step > 0)]
        usual = None
        if len(told):
            sizes = told.layer.map(lambda name: self.model.param(name).numel())
            usual = float((pd.to_numeric(told.value) / sizes).groupby(told.step).max().median())
        return (max(own) if own else None), usual

    # -- prevention ----------------------------------------------------------------------------------------------------

    def _prevented(self, finding: Finding) -> dict[str, str]:
        """Options that prevent the break: the guard that catches the edit, and a repaired method that was tried."""
        assert finding.suspect is not None and finding.request is not None
        found = {}
        if guard := finding.diagnosis.prevention:
            of = f"{guard.catches} of the {len(self.table)} edits" if guard.catches > 1 else "this edit alone"
            found[guard.option] = f"stops {of}"
        worst = finding.suspect.worst
        cure = worst.cure.partition("=")[2] if worst else ""
        own = str(self.config["editor"].get("name"))
        if cure and {cure, own} <= set(choices("editor")):
            repaired, original = own_nodes("editor", cure)[0], own_nodes("editor", own)[0]
            differs = {k: v for k, v in repaired.items() if v != original.get(k)}
            editor = build({**self.config["editor"], **differs}, "editor")
            _, stands = self._by_itself(editor, finding.request)
            if harm(finding.unedited, stands) < 1:
                found[worst.cure if worst else ""] = f"leaves perplexity at {stands.perplexity:.4g}"
        return found

    # -- what a guard saved --------------------------------------------------------------------------------------------

    def saved(self) -> tuple[Saved, ...]:
        """The `WORST` edits that the guard refused, by its sign, made where they stood in the walk by the bare editor.

        Nothing where a guard only rescales, or where the walk's single changes were not kept.
        """
        guard = self.config["editor"].get("guard") or {}
        sign = str(guard.get("sign"))
        refused = self.table[(self.table.get("guarded", 0.0) > 0) & (self.table.get("refused", 0.0) > 0)]
        if sign not in refused or refused.empty:
            return ()
        risk = BY_KEY[sign].risk if sign in BY_KEY else abs
        worst = refused.loc[refused[sign].map(risk).sort_values(ascending=False, kind="stable").index[:WORST]]
        bare = build({k: v for k, v in self.config["editor"].items() if k != "guard"}, "editor")
        by_id, state, found = {r.id: r for r in self.requests}, self.state, []
        with self.model.held(self.changes):
            for step in range(1, int(worst.step.max()) + 1):
                for _, row in worst[worst.step == step].iterrows():
                    before, request = self.observer.look(), by_id[str(row["id"])]
                    edit = settled(edit_or_refuse(bare, self.model, [request], state), self.model)
                    with self.model.patched(edit.delta):
                        after = self.observer.look()
                    found.append(Saved(int(row["number"]), request.id, sign, float(row[sign]), before, after))
                kept = kept_edit(self.run.path, step)
                if kept is None:
                    return ()
                edit = settled(kept, self.model)
                self.model.add(edit.delta)
                own = {name: tensor for name, tensor in edit.carry.items() if not name.startswith("guard.")}
                state = state.after(replace(edit, carry=own))
        return tuple(found)
