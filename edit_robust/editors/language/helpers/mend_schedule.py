"""A hypernetwork for a model and a task: trained once, stored under its origin, gone on with after a kill.

The task's training requests are shuffled by the run's seed; the first `n_validation` validate, and those about other
subjects than theirs train. Every request is used once before one is used again. What iteration i sees depends on the
seed and i alone. Between two steps the whole state is written now and then, so that a training that is killed goes on
to the same bits.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from edit_robust.core import Request, UserError
from edit_robust.core.files import atomic_path
from edit_robust.core.pace import Pace
from edit_robust.core.work import Workspace
from edit_robust.editors.base import continuation
from edit_robust.editors.helpers.cache import key_digest, learned
from edit_robust.editors.language.helpers.factors import edit_texts
from edit_robust.editors.language.helpers.hypernetwork import Hypernetwork, Target
from edit_robust.editors.language.helpers.hypernetwork_files import (
    about_tensor,
    as_tensors,
    from_tensors,
    statistics_as_tensors,
    statistics_from,
)
from edit_robust.editors.language.helpers.mend_plan import Plan
from edit_robust.editors.language.helpers.mend_training import Material, Recipe, Training
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.tasks.base import Task

log = logging.getLogger(__name__)
#: Seconds between two times of writing the state of a training, at least.
AT_LEAST = 20.0
#: Raised when the same recipe gives another hypernetwork.
VERSION = 1


def trained_hypernetwork(
    model: CausalLM, targets: tuple[Target, ...], task: Task, work: Workspace, recipe: Recipe
) -> Hypernetwork:
    """The hypernetwork of this recipe, trained now or before, on the CPU.

    UserError for a task without enough training requests, or without text.
    """
    training, validation = _split(list(task.training_requests()), recipe, work.seed, task.name)
    text, read = _locality(task, recipe)
    modules = [t.name for t in targets]
    requests = {"training": _requests_digest(training), "validation": _requests_digest(validation)}
    key = {"version": VERSION, "model": model.base, "modules": modules, "requests": requests, "text": text}
    key |= {"recipe": asdict(recipe), "seed": work.seed}
    partial = work.cache / "mend" / f"{key_digest(key)}.training.safetensors"

    def make() -> dict[str, Tensor]:
        if model.position != model.base:
            raise ValueError("a hypernetwork is trained on the unedited model; this one has been edited")
        material = _material(model, [*training, *validation], read(), recipe.loc_tokens)
        counts = tuple(len(r) for r in material.rephrasings)
        plan = Plan(len(training), counts, len(material.locality), recipe, work.seed)
        start = Hypernetwork.start(targets, recipe.rank, recipe.n_hidden, recipe.edit_lr, work.seed)
        found = train(Training(model, start, material, recipe), plan, work, partial)
        return found | {"about": about_tensor({"model": model.base, "model_name": model.name, "modules": modules})}

    tensors = learned(work, "mend", key, make)
    partial.unlink(missing_ok=True)
    return from_tensors(tensors, targets, f"the stored hypernetwork {key_digest(key)}", model)


# -- what is trained on --------------------------------------------------------------------------------------------


def _split(found: list[Request], recipe: Recipe, seed: int, name: str) -> tuple[list[Request], list[Request]]:
    """Requests to train and to validate on, no subject of the ones among the others."""
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed)).tolist()
    validation = [found[i] for i in order[: recipe.n_validation]]
    subjects = {r.subject for r in validation}
    training = [r for i in order[recipe.n_validation :] if (r := found[i]).subject not in subjects]
    least = recipe.accumulation * recipe.n_edits
    if len(training) < least:
        raise UserError(
            f"editor=mend has too few training requests: {name} leaves {len(found)} beside those to edit, of which "
            f"{len(validation)} validate (editor.n_validation), and {least} about other subjects are needed for one "
            "step; lower task.n_requests, or give editor.hypernetwork=FILE"
        )
    return training, validation


def _requests_digest(requests: Sequence[Request]) -> str:
    texts = [[r.prompt, str(r.target), list(_rephrasings(r))] for r in requests]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]


def _rephrasings(request: Request) -> tuple[str, ...]:
    """Other prompts for the same fact; where a request has none, its own."""
    return tuple(getattr(request, "paraphrases", ())) or (request.prompt,)


def _locality(task: Task, recipe: Recipe) -> tuple[dict[str, Any], Callable[[], list[str]]]:
    """What tells the locality texts from others, and a function that reads them."""
    from edit_robust.tasks.language.documents import SEED, sample, sampled_documents, source_key

    option, n = "editor.locality_dataset", recipe.locality_n_samples
    if recipe.locality_dataset != "task":
        key = source_key(recipe.locality_dataset, option)
        return {**key, "n": n, "seed": SEED}, lambda: sampled_documents(recipe.locality_dataset, n, option)
    corpus, own = getattr(task, "corpus", None), getattr(task, "corpus_key", None)
    if corpus is None:
        raise UserError(f"this task has no text to train MEND's locality on: give {option}=FILE")
    if own is not None:
        return {"corpus": own(), "n": n, "seed": SEED}, lambda: sample(corpus(), n)
    documents = sample(corpus(), n)
    return {"documents": hashlib.sha256("\x00".join(documents).encode()).hexdigest()[:16]}, lambda: documents


def _material(model: CausalLM, requests: Sequence[Request], documents: Sequence[str], loc_tokens: int) -> Material:
    texts = [model.text.encode(d)[: min(loc_tokens, model.max_tokens)] for d in documents]
    texts = [t for t in texts if len(t) > 1]
    if len(texts) < 2:
        raise UserError("the text to train MEND's locality on is empty: give editor.locality_dataset=FILE")
    rephrasings = [model.text.pairs([(p, continuation(r)) for p in _rephrasings(r)]) for r in requests]
    return Material(edit_texts(model, requests), rephrasings, texts)


# -- the loop ------------------------------------------------------------------------------------------------------


@dataclass
class Progress:
    """How far a training has come. done: iterations.  best: the lowest validation loss, found behind `best_at`.

    kept: the tensors of the network that gave it.
    """

    done: int = 0
    best: float = float("inf")
    best_at: int = 0
    kept: Mapping[str, Tensor] = field(default_factory=dict)


def train(training: Training, plan: Plan, work: Workspace, partial: Path) -> dict[str, Tensor]:
    """Train to the end of the plan, from the state in the file `partial` where there is one.

    -> tensors of the network with the lowest validation loss. Raises UserError where there is none.
    """
    recipe, validated = plan.recipe, -1
    progress = _read_state(partial, training) if partial.exists() else Progress()
    pace = Pace.for_bytes(2 * sum(t.nbytes for t in training.state().values()), at_least=AT_LEAST)
    written = time.monotonic()
    with work.progress("Training MEND's hypernetwork", recipe.max_iterations) as advance:
        advance(progress.done)
        while True:
            # as in the public loop, one iteration more goes into the first step
            end = progress.done + recipe.accumulation + (progress.done == 0)
            ends = end > recipe.max_iterations or progress.done - progress.best_at >= recipe.patience
            if ends:
                break
            training.accumulate([plan.iteration(i) for i in range(progress.done, end)])
            training.step()
            before, progress.done = progress.done, end
            advance(end - before)
            if end // recipe.validate_every > before // recipe.validate_every:
                _validate(training, plan, progress)
                validated = end
            if pace.due(time.monotonic() - written):
                with pace.writing():
                    _write_state(partial, training, progress)
                written = time.monotonic()
        if validated != progress.done:
            _validate(training, plan, progress)
    if training.skipped:
        log.warning("%d iterations of MEND's training were left out: their gradient was not finite", training.skipped)
    if not progress.kept:
        raise UserError("MEND's training never had a finite validation loss: lower editor.lr")
    return dict(progress.kept)


def _validate(training: Training, plan: Plan, progress: Progress) -> None:
    """Keep the network where its validation loss is the lowest so far."""
    losses = training.evaluate(plan.validation())
    loss = float(training.total(losses).mean())
    log.info(
        "MEND, %d iterations: validation loss %.4f (edits %.3f nats, locality %.4f nats)",
        progress.done,
        loss,
        float(losses.edit.mean()),
        float(losses.locality.mean()),
    )
    if loss < progress.best:
        progress.best, progress.best_at = loss, progress.done
        progress.kept = {n: t.detach().cpu().clone() for n, t in as_tensors(training.hypernetwork).items()}


def _write_state(partial: Path, training: Training, progress: Progress) -> None:
    """Everything that the rest of the training depends on, in one file."""
    tensors = training.state() | {f"best/{n}": t for n, t in progress.kept.items()}
    for (d_in, d_out), statistics in training.hypernetwork.statistics.items():
        own = statistics_as_tensors(statistics)
        tensors |= {f"statistics/{d_in}x{d_out}/{n}": t for n, t in own.items()}
    numbers = {"done": progress.done, "best": progress.best, "best_at": progress.best_at, "skipped": training.skipped}
    with atomic_path(partial) as temporary:
        plain = {n: t.detach().cpu().contiguous() for n, t in tensors.items()}
        save_file(plain, temporary, metadata={"progress": json.dumps(numbers)})


def _read_state(partial: Path, training: Training) -> Progress:
    """Put the training where the file says that it was."""
    try:
        with safe_open(str(partial), framework="pt") as f:
            numbers = json.loads((f.metadata() or {})["progress"])
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, KeyError, ValueError) as e:
        raise UserError(f"the training kept in {partial} cannot be read ({e}); delete it to start anew") from e
    device = training.hypernetwork.rates.device
    statistics = {
        shape: statistics_from(tensors, f"statistics/{shape[0]}x{shape[1]}").to(device)
        for shape in training.hypernetwork.networks
    }
    training.put_state(tensors, statistics)
    training.skipped = numbers["skipped"]
    kept = {n.removeprefix("best/"): t for n, t in tensors.items() if n.startswith("best/")}
    return Progress(numbers["done"], numbers["best"], numbers["best_at"], kept)
