"""Any task of lm-evaluation-harness, asked of the model in memory: its own prompts, metrics and groups.

The harness asks three things of a model: how likely a continuation is after a text, how likely a text is, and what the
model says next; `lm_eval_model` answers them.
"""

from __future__ import annotations

import importlib.util
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from edit_robust.core.data import Column, Record
from edit_robust.core.errors import UserError, nearest
from edit_robust.core.options import DataFile
from edit_robust.evaluate.base import Measure, Measured, Needs, Recorder, Results, Setting
from edit_robust.evaluate.columns import END, UNEDITED
from edit_robust.evaluate.every import due
from edit_robust.evaluate.statistics.walks import at_the_end

if TYPE_CHECKING:
    from edit_robust.models.base import HarnessModel
    from edit_robust.trajectories import Point

_PREFIX = "lm-eval:"


class LmEval(Measure):
    """Tasks of lm-evaluation-harness, by its names; needs the extra `lm-eval`.

    tasks:        names of tasks, groups or tags.      include: folder of own tasks (yaml), as its --include_path.
    num_fewshot:  examples before each question; null: as each task has it.
    limit:        questions of each task; null: all.   every:   of how many edits; also before the first and at the end.
    """

    needs = Needs(model=("scorer_of_tokens", "generate"))

    def __init__(
        self,
        tasks: list[str],
        include: DataFile | None = None,
        num_fewshot: int | None = None,
        limit: int | None = None,
        every: int = 50,
    ) -> None:
        if importlib.util.find_spec("lm_eval") is None:
            raise UserError('measure=lm-eval needs lm-evaluation-harness: pip install "edit-robust[lm-eval]"')
        if not tasks:
            raise UserError("measure.lm-eval.tasks is empty: name at least one task, such as [sst2]")
        for option, value in {"limit": limit, "every": every}.items():
            if value is not None and value < 1:
                raise UserError(f"measure.lm-eval.{option}={value} must be at least 1")
        self.tasks, self.include = tasks, include
        self.num_fewshot, self.limit, self.every = num_fewshot, limit, every

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        with _quiet(), _generators_kept():
            self._manager = _manager(self.tasks, self.include)
            from edit_robust.evaluate.lm_eval_model import InMemory  # the harness is optional, and slow to import

        self._lm = InMemory(cast("HarnessModel", setting.model), setting.changes, setting.work.seed)

    def at(self, point: Point, found: Mapping[str, Measured]) -> Measured:
        if not due(point, self.every, len(self.setting.requests)):
            return Measured()
        import lm_eval

        with _quiet(), _generators_kept():
            results = lm_eval.simple_evaluate(
                model=self._lm,
                tasks=list(self.tasks),
                task_manager=self._manager,
                num_fewshot=self.num_fewshot,
                limit=self.limit,
                bootstrap_iters=0,
                log_samples=False,
                random_seed=self.setting.work.seed,
                numpy_random_seed=self.setting.work.seed,
                torch_random_seed=self.setting.work.seed,
                fewshot_random_seed=self.setting.work.seed,
            )
        return Measured(list(_records(cast("Mapping[str, Any]", results), self.setting.recorder(point))))

    @classmethod
    def columns(cls, results: Results) -> list[Column]:
        """Every metric of every task, unedited and at the end, as the harness gives it."""
        table = results.records
        table = table[table.probe.fillna("").str.startswith(_PREFIX)]
        found = []
        for (probe, metric), rows in table.groupby(["probe", "metric"], sort=False):
            key = f"{probe}_{metric}".replace(":", "_").replace("-", "_").replace(",", "_")
            label = f"{str(probe).removeprefix(_PREFIX)}: {metric} (lm-eval)"
            before, later = rows[rows.step == 0].value, rows[rows.step > 0].value
            if len(before):
                found.append(Column(f"unedited_{key}", float(before.iloc[0]), label, UNEDITED))
            if len(later):
                short = f"{str(probe).removeprefix(_PREFIX)} {metric}"
                found.append(Column(key, at_the_end(later, results.records), label, END, short=short))
        return found


def _records(results: Mapping[str, Any], record: Recorder) -> Iterator[Record]:
    """A record a metric of a task or group; the probe tells the number of shots, the metric its filter if any."""
    for task, numbers in results["results"].items():
        shots = results.get("n-shot", {}).get(task)
        n = results.get("n-samples", {}).get(task, {}).get("effective")
        n = numbers.get("sample_len", 0) if n is None else n
        probe = f"{_PREFIX}{task}" + (f"-{shots}" if isinstance(shots, int) else "")
        for key, value in numbers.items():
            name, _, kind = key.partition(",")
            if isinstance(value, int | float) and kind and not name.endswith("_stderr"):
                yield record("model", probe, name if kind == "none" else f"{name},{kind}", value, n)


def _manager(tasks: Sequence[str], include: str | None) -> Any:
    """What finds and loads tasks, each once; the harness's own thousands are looked through only where needed."""
    from lm_eval.tasks import TaskManager

    class Once(TaskManager):
        """Loads tasks with their data at the first time."""

        def load(self, task_list: Any) -> Any:
            if not hasattr(self, "_loaded"):
                self._loaded = super().load(task_list)
            return self._loaded

    manager = Once(include_path=include, include_defaults=False) if include else None
    if manager is None or not set(tasks) <= set(manager.all_tasks):
        manager = Once(include_path=include)
    for task in tasks:
        if task not in manager.all_tasks:
            raise UserError(
                f"measure.lm-eval.tasks: there is no task {task!r}; {nearest(task, manager.all_tasks, 'tasks')}"
            )
    try:
        manager.load(list(tasks))
    except Exception as error:  # data sets that cannot be read raise dozens of unrelated types
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"measure.lm-eval.tasks={','.join(tasks)} cannot be loaded: {reason[:200]}") from error
    return manager


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Inside the block the global generators may be seeded; afterwards they are as they were."""
    import torch

    own, numpy, torchs = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(own)
        np.random.set_state(numpy)
        torch.set_rng_state(torchs)


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside the block the harness shows no bars and says nothing but errors."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "lm-eval", "datasets")]
    before = [one.level for one in loggers]
    try:
        for one in loggers:
            one.setLevel(logging.ERROR)
        with redirect_stderr(StringIO()):
            yield
    finally:
        for one, level in zip(loggers, before, strict=True):
            one.setLevel(level)
