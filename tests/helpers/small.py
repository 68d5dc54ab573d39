"""A task of a few tiny facts, the editors under test, and ways to see whether a model was left as found."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edit_robust.core import Example, Probe, Request
from edit_robust.editors.language.fine_tune import FineTune
from edit_robust.editors.language.memit import Memit
from edit_robust.editors.language.rome import Rome
from edit_robust.models.language.causal_lm import CausalLM
from helpers.tiny import tiny_facts, tiny_texts

TEMPLATES = ["{}", "Today. {}", "As they say in New Haven. {}", "Paris. {}"]


def as_request(record: dict[str, Any]) -> Request:
    w = record["requested_rewrite"]
    return Request(str(record["case_id"]), w["prompt"], w["target_new"]["str"], w["target_true"]["str"], w["subject"])


def as_examples(record: dict[str, Any]) -> list[Example]:
    """Edit, paraphrase and neighbourhood prompts in this order, target_new first."""
    w, group = record["requested_rewrite"], str(record["case_id"])
    choices = (f" {w['target_new']['str']}", f" {w['target_true']['str']}")
    prompts = [w["prompt"].replace("{}", w["subject"]), *record["paraphrase_prompts"], *record["neighborhood_prompts"]]
    return [Example(f"{group}/{i}", p, choices, 0, group) for i, p in enumerate(prompts)]


class SmallTask:
    """The first facts of the tiny world."""

    name = "small"
    protocol = "counterfact"

    def __init__(self, n_requests: int = 8) -> None:
        self.records = tiny_facts(n_requests)

    def requests(self) -> list[Request]:
        return [as_request(r) for r in self.records]

    def examples(self) -> list[Example]:
        return [e for r in self.records for e in as_examples(r)]

    def probes(self, requests: Sequence[Request]) -> list[Probe]:
        return [Probe("edit", tuple(as_examples(r)[0] for r in self.records[: len(requests)]))]

    def corpus(self) -> list[str]:
        return tiny_texts()[:400]

    def held_out(self) -> list[str]:
        return tiny_texts()[400:420]


def statistics_file(folder: Path, model: CausalLM, seed: int = 0) -> Path:
    """Made-up, well conditioned second moments of all layers, as an .npz file that editors read."""
    draw = np.random.default_rng(seed)
    found = {}
    for layer in model.layers.values():
        a = draw.normal(size=(layer.shape[1], 2 * layer.shape[1])).astype(np.float64)
        found[f"layer{layer.index}"] = a @ a.T / a.shape[1] + 0.1 * np.eye(len(a))
    np.savez(folder / f"{model.name}.npz", **found)
    return folder / f"{model.name}.npz"


def templates_file(folder: Path, templates: Sequence[Any] = TEMPLATES) -> Path:
    path = folder / "templates.json"
    path.write_text(json.dumps(list(templates)))
    return path


def every_editor(mom2: str, templates: str, steps: int = 4) -> dict[str, Any]:
    """All editors, with few steps."""
    value: dict[str, Any] = {"v_num_grad_steps": steps, "mom2": mom2, "context_templates": templates}
    return {
        "rome": Rome("rome", **value),
        "r-rome": Rome("r-rome", keys="mean", **value),
        "p-rome": Rome("p-rome", keys="bare", **value),
        "memit": Memit(mom2_update_weight=10.0, **value),
        "ft": FineTune(num_steps=steps, norm_constraint=1e-3),
        "ft-unconstrained": FineTune("ft-unconstrained", num_steps=steps, norm_constraint=None),
        "ft-l2": FineTune("ft-l2", num_steps=steps, norm="l2", norm_constraint=1e-2),
    }


def layers_for(editor: Any, model: CausalLM) -> list[str]:
    return [model.layer_at(i).name for i in editor.auto_layers(model.n_layers)]


@contextmanager
def left_as_found(model: CausalLM) -> Iterator[None]:
    """Fails unless every bit, the position, gradients and hooks are as before, also when the block raises."""
    before = {n: p.detach().clone() for n, p in model.net.named_parameters()}
    position, hooks = model.position, _hooks(model)
    try:
        yield
    finally:
        for n, p in model.net.named_parameters():
            assert torch.equal(p, before[n]), f"{n} has changed"
            assert not p.requires_grad and p.grad is None, f"{n} is still being trained"
        assert model.position == position
        assert _hooks(model) == hooks, "hooks are left"


def _hooks(model: CausalLM) -> dict[str, int]:
    return {n: len(m._forward_hooks) + len(m._forward_pre_hooks) for n, m in model.net.named_modules()}


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """||a - b|| / ||b||"""
    return float((a.double() - b.double()).norm() / b.double().norm())
