"""ENCORE's early stop: the value optimisation ends when the target has been the likeliest so often."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small import as_request, relative

from edit_robust.core import Request
from edit_robust.core.work import Workspace
from edit_robust.editors.language.encore import Encore
from edit_robust.editors.language.helpers.values import Cutoff, Values, optimise_values, subject_rows
from edit_robust.models.language.causal_lm import CausalLM

pytestmark = pytest.mark.slow  # on a model that can be taught: random ones never rank a target first


class Taught:
    """A trained model, requests of it, and contexts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = CausalLM(str(folder / "model"), device="cpu")
        self.requests = [as_request(r) for r in json.loads((folder / "requests.json").read_text())[:3]]
        groups = json.loads((folder / "contexts.json").read_text())["memit"]
        self.templates = [t for group in groups for t in group]
        self.layer = self.model.layer_at(2).name

    def editor(self, **more: Any) -> Encore:
        return Encore(clamp_norm_factor=2.0, context_templates=str(self.folder / "contexts.json"), **more)

    def optimised(self, cutoff: Cutoff | None, *, n: int = 3, steps: int = 30, plain: bool | None = None) -> Values:
        options = {**self.editor(v_num_grad_steps=steps, v_lr=0.2).optimisation, "plain": plain}
        some = self.requests[:n]
        return optimise_values(self.model, self.layer, "block", some, self.templates, **options, cutoff=cutoff)  # type: ignore[arg-type]

    def first(self, request: Request, delta: torch.Tensor) -> list[bool]:
        """In every context, the bare prompt first: whether the model with delta ranks the target's tokens first."""
        model, found = self.model, []
        for t in self.templates:
            text = t.replace("{}", request.prompt)
            ((ids, n, spans),) = model.text.joined([(text, f" {request.target}")])
            at = model.text.last_of(spans, text.index(str(request.subject)) + len(str(request.subject)))
            reads = [(0, n - 1 + j) for j in range(len(ids) - n)]
            logits = model.injection(self.layer, "block", [ids[:-1]], [at], reads, None).read(delta[None])
            found.append(logits.argmax(1).tolist() == ids[n:])
        return found


@pytest.fixture(scope="module")
def taught(golden: Path) -> Taught:
    return Taught(golden)


def test_it_stops_when_the_target_was_first_so_often(taught: Taught) -> None:
    """In all contexts but the bare prompt, and not an iteration earlier; the later, the more often."""
    free = taught.optimised(None)
    found = {c: taught.optimised(Cutoff(c)) for c in (1, 2, 4, 1000)}
    assert torch.equal(found[1000].delta, free.delta)
    for i, r in enumerate(taught.requests):
        steps = [found[c].info[i]["edit_steps"] for c in (1, 2, 4)] + [free.info[i]["edit_steps"]]
        assert steps[0] < steps[1] < steps[2] <= steps[3]
        assert all(taught.first(r, found[1].delta[i])[1:])
        earlier = taught.optimised(None, steps=int(steps[0]))  # the last iteration takes no step
        assert not all(taught.first(r, earlier.delta[i])[1:])


def test_it_stops_at_a_probability(taught: Taught) -> None:
    """At the first iteration at which the mean over prompts is above it."""
    free, found = taught.optimised(None), taught.optimised(Cutoff(1, 0.6))
    for i in range(3):
        steps = int(found.info[i]["edit_steps"])
        assert 0 < steps < free.info[i]["edit_steps"]
        # exp(-mean NLL), which is told, is at most the mean of exp(-NLL), which decides
        assert found.info[i]["target_probability"] > 0.4
        assert taught.optimised(None, steps=steps).info[i]["target_probability"] < 0.6


@pytest.mark.parametrize("cutoff", [Cutoff(2), Cutoff(1, 0.6)])
def test_the_fast_stop_is_the_plain_one(taught: Taught, cutoff: Cutoff) -> None:
    fast, plain, alone = (taught.optimised(cutoff, **more) for more in ({}, {"plain": True}, {"n": 1}))
    assert relative(fast.delta, plain.delta) < 1e-3 and relative(fast.delta[:1], alone.delta) < 1e-3
    assert [i["edit_steps"] for i in fast.info] == [i["edit_steps"] for i in plain.info]


def test_targets_of_several_tokens(taught: Taught) -> None:
    """Every token of the target has to be first, in prompts that differ in length."""
    r = taught.requests[0]
    long = Request(r.id, r.x, f"{r.target} {taught.requests[1].target}", r.old, r.subject)
    assert len(taught.model.text.encode(f" {long.target}")) > 1
    asked = Encore(v_num_grad_steps=60, clamp_norm_factor=8.0).optimisation
    found = optimise_values(taught.model, taught.layer, "block", [r, long], taught.templates, **asked, cutoff=Cutoff(1))
    for i, request in enumerate((r, long)):
        done = found.info[i]["edit_steps"] < 59
        assert done == all(taught.first(request, found.delta[i])[1:])
    assert found.info[0]["edit_steps"] < found.info[1]["edit_steps"]


def test_without_contexts_the_bare_prompt_counts(taught: Taught, tmp_path: Path) -> None:
    mom2 = str(taught.folder / "second_moment.npz")
    editor = Encore(prob_cutoff=-1, clamp_norm_factor=2.0, context_templates="bare", mom2=mom2)
    state = editor.prepare(taught.model, [taught.layer], None, Workspace(tmp_path))  # type: ignore[arg-type]
    z, infos = editor.targets(taught.model, taught.requests, state)
    free, _ = Encore(prob_cutoff=None, clamp_norm_factor=2.0, context_templates="bare", mom2=mom2).targets(
        taught.model, taught.requests, state
    )
    assert relative(z, free) > 1e-2 and all(0 < i["edit_steps"] < 19 for i in infos)
    at = [taught.model.block_output(taught.layer, *subject_rows(taught.model, [r], ["{}"])) for r in taught.requests]
    assert all(taught.first(r, (z[i] - at[i][0]))[0] for i, r in enumerate(taught.requests))
