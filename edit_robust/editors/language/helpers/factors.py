"""What the edited projections saw of an edit's text: inputs, and gradients of its target's loss, token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from edit_robust.core import Request
from edit_robust.editors.base import continuation
from edit_robust.editors.language.helpers.hypernetwork import Target, Tokens
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.models.language.gradients import losses_and_gradients

#: Tokens of a text, and how many of them belong to the prompt.
Text = tuple[list[int], int]


@dataclass(frozen=True)
class Factors:
    """Of one text. tokens: by projection, of the summed loss.  n: target tokens.  loss: their summed -log p in nats."""

    tokens: Mapping[str, Tokens]
    n: int
    loss: float


def edit_texts(model: CausalLM, requests: Sequence[Request]) -> list[Text]:
    """Prompt, space, target of each request. UserError for an empty target."""
    return model.text.pairs([(r.prompt, continuation(r)) for r in requests])


def factors_of(model: CausalLM, texts: Sequence[Text], targets: Sequence[Target]) -> list[Factors]:
    """The factors of each text at the model's present weights, from one backward pass over all of them."""
    rows = [ids[:-1] for ids, _ in texts]
    reads = [(i, at) for i, (ids, n) in enumerate(texts) for at in range(n - 1, len(ids) - 1)]
    goals = [token for ids, n in texts for token in ids[n:]]
    losses, seen = losses_and_gradients(model, rows, reads, goals, [t.name for t in targets])
    lengths = [len(r) for r in rows]
    pieces = {name: Tokens.split(found.inputs, found.gradients, lengths) for name, found in seen.items()}
    sums = losses.split([len(ids) - n for ids, n in texts])
    return [
        Factors({name: of[i] for name, of in pieces.items()}, len(sums[i]), float(sums[i].sum()))
        for i in range(len(texts))
    ]


def together(found: Sequence[Factors]) -> dict[str, Tokens]:
    """What one edit on all these texts sees: its loss is the mean over all their target tokens."""
    share = 1.0 / sum(f.n for f in found)
    return {
        name: Tokens(
            torch.cat([f.tokens[name].u for f in found]), share * torch.cat([f.tokens[name].delta for f in found])
        )
        for name in found[0].tokens
    }
