"""What became of each job of a sweep: outputs/sweeps/NAME.json. The same command writes the same file on."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edit_robust.core.files import write_text
from edit_robust.sweeps.jobs import Job, Outcome

FOLDER = "sweeps"
#: Options that say how a sweep is done, not what it is.
_ASIDE = re.compile(r"[+~]*(hydra|paths|tracker|threads|figures|force|device)\b(?!/sweeper|[.]sweeper[.]params)")


def sweep_name(overrides: Sequence[str]) -> str:
    """`experiment-HASH`, or `sweep-HASH`: the same for the same options, in any order, on any launcher."""
    said = sorted(o for o in overrides if not _ASIDE.match(o))
    digest = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:8]
    of = [o.partition("=")[2] for o in said if o.startswith("experiment=")]
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '_', of[0]) if of else 'sweep'}-{digest}"


@dataclass
class Journal:
    """A sweep's file. jobs: number -> its overrides, state (waiting, done, failed, lost), run, error, tries."""

    path: Path
    overrides: list[str]
    jobs: dict[int, dict[str, Any]] = field(default_factory=dict)

    @staticmethod
    def of(overrides: Sequence[str], outputs: Path) -> Journal:
        """The journal of these options; what an earlier process of the same sweep wrote stands in it."""
        path = outputs / FOLDER / f"{sweep_name(overrides)}.json"
        return Journal(path, list(overrides), {job["number"]: job for job in read(path).get("jobs", [])})

    @property
    def total(self) -> int:
        return len(self.jobs)

    @property
    def done(self) -> int:
        return sum(job["state"] == "done" for job in self.jobs.values())

    def begin(self, jobs: Sequence[Job]) -> None:
        """Jobs that wait to be run; the run that an earlier process made of one is still known."""
        for job in jobs:
            known = self.jobs.get(job.number, {})
            run = known.get("run", "") if known.get("overrides") == list(job.overrides) else ""
            self.jobs[job.number] = self._entry(job, "waiting", run)
        self._write()

    def ended(self, outcome: Outcome) -> None:
        """What became of a job."""
        more = {"tries": outcome.tries, **({"error": outcome.error} if outcome.error else {})}
        if outcome.value is not None:
            more["value"] = outcome.value
        run = outcome.run or self.jobs.get(outcome.job.number, {}).get("run", "")
        self.jobs[outcome.job.number] = self._entry(outcome.job, outcome.state, run) | more
        self._write()

    @staticmethod
    def _entry(job: Job, state: str, run: str) -> dict[str, Any]:
        return {"number": job.number, "state": state, "run": run, "overrides": list(job.overrides)}

    def _write(self) -> None:
        jobs = [self.jobs[n] for n in sorted(self.jobs)]
        write_text(self.path, json.dumps({"overrides": self.overrides, "jobs": jobs}, indent=1, default=str))


def read(path: Path) -> dict[str, Any]:
    """A journal's content; {} where there is none, or none that can be read."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
