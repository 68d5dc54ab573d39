"""What became of the jobs that this process has started: for the exit code, and for the sweep's journal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edit_robust.core.errors import UserError
from edit_robust.sweeps.journal import Journal

if TYPE_CHECKING:
    from edit_robust.sweeps.jobs import Outcome

#: What went wrong in jobs (a failed job does not stop the others of its sweep).
FAILURES: list[BaseException] = []
#: The options of the command line that runs now, by which its sweep is named.
COMMAND: list[str] = []


class JobError(Exception):
    """A job failed, or its process was killed, in another process."""


def failure(outcome: Outcome) -> BaseException:
    """As an exception, whose exit code is that of the job's."""
    return (UserError if outcome.code == 2 else JobError)(outcome.error)


def journal(config: Any) -> Journal:
    """The journal of this command's sweep, in the outputs folder of the config."""
    return Journal.of(COMMAND, Path(str(config.paths.outputs)))
