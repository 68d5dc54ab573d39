"""A mirror of the run in Weights & Biases. It never asks, never waits for long, and never fails a run."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from edit_robust.trackers.base import key_of

log = logging.getLogger(__name__)

MODES = ("auto", "online", "offline", "disabled")
#: Seconds that W&B may take to begin, and to send what is left at the end; what was not sent stays on disk.
START_SECONDS = 15.0
FINISH_SECONDS = 60.0
#: What the curves are drawn against, by trajectory; anything else is drawn against the step.
AXES = {"sequential": "n_edits", "interpolate": "alpha"}


class WandbTracker:
    """Writes metrics, config, summary and figures to W&B, below `<run_dir>/wandb`.

    `mode`: auto (the environment's WANDB_MODE, else online when logged in, else offline), online, offline, disabled.
    Whatever goes wrong becomes one warning, and the run goes on without this mirror.
    Raises UserError for a mode that does not exist.
    """

    def __init__(
        self,
        project: str = "edit-robust",
        entity: str | None = None,
        mode: str = "auto",
        group: str | None = None,
        tags: Iterable[str] = (),
    ) -> None:
        """Remember the settings. W&B itself is imported when a run starts."""
        if mode not in MODES:
            from edit_robust.core.errors import UserError, nearest

            raise UserError(f'tracker.mode cannot be "{mode}": {nearest(mode, MODES, "modes")}')
        self.project, self.entity, self.mode, self.group, self.tags = project, entity, mode, group, tuple(tags)
        self._run: Any = None
        self._wandb: Any = None

    def start(self, run_id: str, run_dir: Path, config: Mapping[str, Any]) -> None:
        """Begin the mirror of a run; one that is taken up again goes on under the same id."""
        self._guarded("start", lambda: self._start(run_id, Path(run_dir), config))

    def point(self, step: int, records: Sequence[Mapping[str, Any]]) -> None:
        """Send one step's records under readable names."""
        self._guarded("take a point", lambda: self._run.log(row_of(step, records)), running=True)

    def finish(self, summary: Mapping[str, Any], figures: Sequence[Path]) -> None:
        """Send the summary and the figures (PNG files only), and end the mirror."""
        self._guarded("take the summary", lambda: self._finish(summary, figures), running=True)
        self.close()

    def close(self, failed: bool = False) -> None:
        """End the mirror; after `finish` there is nothing left to do."""
        run = self._run
        if run is not None:
            self._guarded("end", lambda: run.finish(exit_code=1 if failed else 0), running=True)
        self._run = None

    def _guarded(self, what: str, action: Callable[[], None], running: bool = False) -> None:
        """Do it, or warn once and stop mirroring."""
        if running and self._run is None:
            return
        try:
            action()
        except Exception as error:
            self._run = None
            log.warning("W&B could not %s (%s); the run goes on without it", what, brief(error))

    def _start(self, run_id: str, run_dir: Path, config: Mapping[str, Any]) -> None:
        """Import W&B, settle the mode, and begin; where going online fails, begin offline."""
        mode = os.environ.get("WANDB_MODE", "auto") if self.mode == "auto" else self.mode
        if mode in ("disabled", "dryrun", ""):
            mode = "offline" if mode == "dryrun" else "disabled"
        if mode == "disabled":
            return
        # Read by W&B's own messages before any run has settings.
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        self._wandb = wandb
        if mode != "offline" and not logged_in(wandb):
            if mode == "online":
                log.warning("W&B is not logged in (see `wandb login`); its files are kept in %s", run_dir / "wandb")
            mode = "offline"
        if mode != "offline":
            try:
                self._run = self._begin("online", run_id, run_dir, config)
                return
            except Exception as error:
                log.warning("W&B could not go online (%s); its files are kept in %s", brief(error), run_dir / "wandb")
            # The failed attempt still holds the id in W&B's service, so that the second one needs another.
            self._run = self._begin("offline", f"{run_id}-offline", run_dir, config)
            return
        self._run = self._begin("offline", run_id, run_dir, config)

    def _begin(self, mode: str, run_id: str, run_dir: Path, config: Mapping[str, Any]) -> Any:
        """Open a run of its own, silent and without looking at the machine, the code or the console."""
        (run_dir / "wandb").mkdir(parents=True, exist_ok=True)
        settings = self._wandb.Settings(
            console="off",
            silent=True,
            quiet=True,
            show_info=False,
            disable_git=True,
            disable_code=True,
            disable_job_creation=True,
            symlink=False,
            init_timeout=START_SECONDS,
            finish_timeout=FINISH_SECONDS,
            x_service_wait=START_SECONDS,
            x_disable_stats=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )
        run = self._wandb.init(
            project=self.project,
            entity=self.entity,
            mode=mode,
            id=run_id,
            name=run_id,
            group=self.group,
            tags=list(self.tags),
            dir=str(run_dir),
            config=plain(config),
            resume="allow" if mode == "online" else None,
            reinit="create_new",
            settings=settings,
        )
        trajectory = config.get("trajectory")
        name = trajectory.get("name") if isinstance(trajectory, Mapping) else None
        axis = AXES.get(str(name), "step")
        run.define_metric(axis)
        run.define_metric("*", step_metric=axis)
        return run

    def _finish(self, summary: Mapping[str, Any], figures: Sequence[Path]) -> None:
        """Summary values as they are; figures as images."""
        self._run.summary.update(plain(summary))
        pictures = [Path(file) for file in figures if Path(file).suffix == ".png"]
        if pictures:
            self._run.log({f"figures/{file.stem}": self._wandb.Image(str(file)) for file in pictures})


def import_early(tracker: Mapping[str, Any]) -> None:
    """Import what `wandb.init` imports, where this is the tracker of a config. tracker: its node.

    Its classes look through all modules that are loaded: with PyTorch and transformers among them that takes four
    seconds, and half a second before them.
    """
    ours = tracker.get("_target_") == f"{__name__}.{WandbTracker.__name__}"
    if not ours or "disabled" in (tracker.get("mode"), os.environ.get("WANDB_MODE")):
        return
    try:
        os.environ.setdefault("WANDB_SILENT", "true")
        import_module("wandb.sdk.launch.inputs.internal")
    except Exception as error:
        log.debug("W&B has no such part: %s", error)  # another release: it is imported when a run starts


def logged_in(wandb: Any) -> bool:
    """Whether W&B has credentials, from wherever it takes them; never asks for any."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return bool(wandb.login(prompt=False))
    except Exception as error:
        log.debug("W&B could not tell whether it is logged in: %s", error)
        return False


def row_of(step: int, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One step's records as one row: readable names, and the places it may be drawn against. Of several edits made at
    one step, what their editor tells of them is averaged."""
    row: dict[str, Any] = {"step": step}
    values: dict[str, list[float]] = {}
    for record in records:
        row |= {name: record[name] for name in ("n_edits", "alpha") if record.get(name) is not None}
        value = record.get("value")
        if value is not None and not math.isnan(value):
            values.setdefault(key_of(record), []).append(float(value))
    return row | {key: sum(some) / len(some) for key, some in values.items()}


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same as JSON would hold it; what JSON does not know becomes text."""
    return dict(json.loads(json.dumps(dict(values), default=str)))


def brief(error: BaseException) -> str:
    """An error in one line."""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"[:200] if first else type(error).__name__
