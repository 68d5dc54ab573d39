"""A tiny task that MEND can train on, and hypernetworks of known effect."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from edit_robust.core import Request, TextRequest
from edit_robust.editors.language.helpers.hypernetwork import Hypernetwork, Statistics, Target
from edit_robust.editors.language.mend import Mend
from edit_robust.models.language.causal_lm import CausalLM
from helpers.small import SmallTask
from helpers.tiny import tiny_facts

#: A training of four steps on a tiny model.
QUICK: dict[str, Any] = {
    "rank": 4,
    "lr": 1e-2,
    "accumulation": 2,
    "n_loc": 2,
    "loc_tokens": 12,
    "locality_n_samples": 40,
    "max_iterations": 9,
    "validate_every": 4,
    "n_validation": 4,
    "n_val_loc": 2,
}


class TrainableTask(SmallTask):
    """The tiny world with the facts about other subjects to train on; it says what its corpus depends on."""

    def __init__(self, n_requests: int = 4, n_training: int = 30) -> None:
        super().__init__(n_requests)
        self.n_training = n_training

    def training_requests(self) -> list[Request]:
        found = []
        for record in tiny_facts(60)[::-1][: self.n_training]:
            w = record["requested_rewrite"]
            found.append(
                TextRequest(
                    f"training {record['case_id']}",
                    w["prompt"],
                    w["target_new"]["str"],
                    w["target_true"]["str"],
                    w["subject"],
                    paraphrases=tuple(record["paraphrase_prompts"]),
                )
            )
        return found  # type: ignore[return-value]

    def corpus_key(self) -> dict[str, Any]:
        return {"tiny": 1}


def identity(targets: tuple[Target, ...], rate: float = 1e-2, mean: float = 0.0, std: float = 1.0) -> Hypernetwork:
    """The network as it starts, with the same mean and deviation for every coordinate."""
    found = Hypernetwork.start(targets, 4, 1, rate, seed=0)
    networks = {}
    for shape, network in found.networks.items():
        width = sum(shape)
        full = [torch.full((width,), x, dtype=torch.float64) for x in (mean, 9 * std**2)]
        networks[shape] = replace(network, statistics=Statistics(10, full[0], full[1]))
    return replace(found, networks=networks)


def drawn(targets: tuple[Target, ...], scale: float = 0.1) -> Hypernetwork:
    """A network that transforms, with rates of either sign, and statistics as of some training."""
    found = identity(targets, std=0.7)
    generator = torch.Generator().manual_seed(5)
    for network in found.networks.values():
        for tensor in network.parameters.values():
            tensor += scale * torch.randn(tensor.shape, generator=generator)
    rates = 1e-2 * torch.randn(len(targets), generator=generator)
    return replace(found, rates=rates)


def targets_of(model: CausalLM, blocks: list[int], order: str = "down-up") -> tuple[Target, ...]:
    editor = Mend(order=order)  # type: ignore[arg-type]
    return editor.targets(model, [model.layer_at(i).name for i in blocks])
