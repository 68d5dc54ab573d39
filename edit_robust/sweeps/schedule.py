"""All jobs of a sweep, whatever becomes of single ones."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence

from edit_robust.core.errors import UserError
from edit_robust.sweeps.jobs import Job, Lost, Outcome, Pool, Reply, Task

#: Seconds until a run that another process is at is asked for again.
BUSY = 2.0
#: Seconds until pools are asked again what ended.
TURN = 1.0


def run_jobs(
    jobs: Sequence[Job],
    task: Task,
    pool: Pool,
    retries: int = 1,
    say: Callable[[str], None] = lambda line: None,
    ended: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Run every job in the pool -> what became of each, in the order of `jobs`.

    A job whose process is killed is begun again at the end of the queue, at most `retries` times, and is lost then; one
    that fails by itself would fail again, and does not begin again. The others go on either way. A job whose run is
    being made by another process waits for it to end, while others take its place.

    say: is told what a person should know at once.   ended: is given every outcome when it is known.
    Raises UserError for negative retries.
    """
    check_retries(retries)
    waiting, tries, found = deque(jobs), Counter[int](), dict[int, Outcome]()
    later: list[tuple[float, Job]] = []
    told: set[int] = set()
    running = 0
    orderly = False
    try:
        while len(found) < len(jobs):
            waiting.extend(job for due, job in later if due <= time.monotonic())
            later = [(due, job) for due, job in later if due > time.monotonic()]
            if begun := [waiting.popleft() for _ in range(min(len(waiting), pool.room()))]:
                pool.start(begun, task)
                running += len(begun)
            if not running:
                time.sleep(max(0.0, min((due for due, _ in later), default=0.0) - time.monotonic()))
                continue
            for job, answer in pool.finished(TURN):
                running -= 1
                if isinstance(answer, Reply) and answer.state == "busy":
                    later.append((time.monotonic() + BUSY, job))
                    if job.number not in told:
                        say(f"{job.title}: {answer.error}; waiting for it")
                        told.add(job.number)
                    continue
                tries[job.number] += 1
                if isinstance(answer, Lost) and tries[job.number] <= retries:
                    say(f"{job.title}: {answer.why}; it is begun again")
                    waiting.append(job)
                    continue
                found[job.number] = _outcome(job, answer, tries[job.number])
                ended(found[job.number])
        orderly = True
    finally:
        pool.close(now=not orderly)
    return [found[job.number] for job in jobs]


def check_retries(retries: int) -> None:
    """Raises UserError for a negative number."""
    if retries < 0:
        raise UserError(f"hydra.launcher.retries={retries} must be 0 or more")


def _outcome(job: Job, answer: Reply | Lost, tries: int) -> Outcome:
    if isinstance(answer, Lost):
        times = f" ({tries} times)" if tries > 1 else ""
        return Outcome(job, "lost", tries, error=f"{answer.why}{times}", code=1)
    state = "done" if answer.state == "done" else "failed"
    return Outcome(job, state, tries, answer.value, answer.run, answer.error, answer.code)  # type: ignore[arg-type]


def told(outcomes: Sequence[Outcome]) -> list[str]:
    """What to say at the end of a sweep that did not end well: a line for it, one a job, and the way on."""
    wrong = [o for o in outcomes if o.state != "done"]
    if not wrong:
        return []
    words = [f"{n} {what}" for state, what in (("failed", "failed"), ("lost", "lost")) if (n := _count(wrong, state))]
    lines = [f"The sweep has ended: of {len(outcomes)} jobs {_count(outcomes, 'done')} are done, {', '.join(words)}."]
    lines += [f"  {o.job.title}: {o.error}" for o in wrong]
    return [*lines, "What was measured is kept; the same command completes what is missing."]


def _count(outcomes: Sequence[Outcome], state: str) -> int:
    return sum(o.state == state for o in outcomes)
