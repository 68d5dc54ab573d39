"""Any task of lm-evaluation-harness, asked of the model in memory: its own prompts, metrics and groups.

The harness asks three things of a model: how likely a continuation is after a text, how likely a text is, and what the
model says next. `InMemory` answers them as the harness's own adapter of Hugging Face models does, with the same tokens
in the same windows, but keeps between two points of a walk what the edits cannot change.
"""

from __future__ import annotations

import importlib.util
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from functools import cache
from io import StringIO
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from edit_robust.core.data import Column, Example, Record
from edit_robust.core.errors import UserError, nearest
from edit_robust.core.options import DataFile
from edit_robust.evaluate.base import Measure, Measured, Needs, Recorder, Results, Setting
from edit_robust.evaluate.columns import END, UNEDITED
from edit_robust.evaluate.downstream import end_of
from edit_robust.evaluate.every import due
from edit_robust.evaluate.statistics.walks import at_the_end

if TYPE_CHECKING:
    from edit_robust.models.base import HarnessModel
    from edit_robust.trajectories import Point

_PREFIX = "lm-eval:"
#: Tokens that a text may be continued with where a task does not say.
_NEW_TOKENS = 256


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
        self._lm = _in_memory()(cast("HarnessModel", setting.model), setting.changes, setting.work.seed)

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


@cache
def _in_memory() -> type[Any]:
    """The class that answers the harness; made when it is first used, for the harness is optional."""
    from lm_eval.api.model import TemplateLM
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    class InMemory(TemplateLM):  # type: ignore[misc]
        """A model of ours as the harness sees it. changes: names of all parameters that may change."""

        def __init__(self, model: HarnessModel, changes: Sequence[str], seed: int) -> None:
            super().__init__()
            self.model, self.changes, self.seed = model, tuple(changes), seed
            self.tokenizer = model.text.tokenizer
            self._scorers: dict[int, Any] = {}

        @property
        def eot_token_id(self) -> int:
            return int(self.model.text.begin if self.tokenizer.eos_token_id is None else self.tokenizer.eos_token_id)

        @property
        def prefix_token_id(self) -> int:
            own = self.tokenizer.bos_token_id
            return self.eot_token_id if own is None else int(own)

        @property
        def tokenizer_name(self) -> str:
            return str(self.model.name)

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
            begins = string.startswith(self.tokenizer.decode(self.prefix_token_id) or "\0")
            if add_special_tokens is None and not begins:
                return list(self.tokenizer.encode(string))
            return list(self.tokenizer.encode(string, add_special_tokens=bool(add_special_tokens)))

        def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> list[tuple[float, bool]]:
            """(log-probability of the continuation, whether it is what the model says by itself) of each request."""
            pairs = []
            for _, context, continuation in requests:
                ids = [*context, *continuation][-(self.model.max_tokens + 1) :]
                pairs.append((ids, max(len(ids) - len(continuation), 1)))
            scores = self._scorer(pairs).score()
            return [
                (float(logp * n), bool(hits == 1))
                for logp, hits, n in zip(scores.logp[:, 0], scores.hits[:, 0], scores.tokens[:, 0], strict=True)
            ]

        def _scorer(self, pairs: Sequence[tuple[list[int], int]]) -> Any:
            """Made at the first point: the same questions come again at the others."""
            key = hash(tuple((tuple(ids), n) for ids, n in pairs))
            if key not in self._scorers:
                examples = [Example(str(i), "", ("",)) for i in range(len(pairs))]
                self._scorers[key] = self.model.scorer_of_tokens(examples, [[p] for p in pairs], self.changes)
            return self._scorers[key]

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
            """Log-probability of whole texts, each token in a window of its own past."""
            windows: list[tuple[None, list[int], list[int]]] = []
            counts = []
            for request in requests:
                found = [
                    make_disjoint_window(w)
                    for w in get_rolling_token_windows(
                        token_list=self.tok_encode(request.args[0]),
                        prefix_token=self.prefix_token_id,
                        max_seq_len=self.model.max_tokens,
                        context_len=1,
                    )
                ]
                windows += [(None, context, continuation) for context, continuation in found]
                counts.append(len(found))
            values = iter(v for v, _ in self._loglikelihood_tokens(windows))
            return [sum(next(values) for _ in range(n)) for n in counts]

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            """What follows each text, up to the first of its stop texts."""
            found = [""] * len(requests)
            alike: dict[str, list[int]] = {}
            for i, request in enumerate(requests):
                alike.setdefault(repr(sorted(request.args[1].items())), []).append(i)
            for which in alike.values():
                texts = self._continue([requests[i].args[0] for i in which], dict(requests[which[0]].args[1]))
                for i, text in zip(which, texts, strict=True):
                    found[i] = text
            return found

        def _continue(self, contexts: Sequence[str], options: dict[str, Any]) -> list[str]:
            import torch

            until = options.get("until") or []
            tokens = int(options.get("max_gen_toks") or options.get("max_new_tokens") or _NEW_TOKENS)
            room = self.model.max_tokens - tokens
            if room < 1:
                raise UserError(
                    f"lm-eval asks for {tokens} new tokens, and {self.model.name} reads {self.model.max_tokens}"
                )
            temperature = float(options.get("temperature") or 0.0)
            sample = bool(options.get("do_sample", temperature > 0)) and temperature > 0
            return self.model.generate(
                [end_of(c, self.model, room) for c in contexts],
                tokens,
                sample=sample,
                top_k=options.get("top_k") if sample else None,
                temperature=temperature if sample else 1.0,
                generator=torch.Generator().manual_seed(self.seed) if sample else None,
                stop=[until] if isinstance(until, str) else list(until),
            )

    return InMemory


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
