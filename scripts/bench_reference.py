"""What the benchmark compares with: ROME as its public implementation does it, on any GPT-2-like transformers model.

Batched where that implementation batches: all prompts of a value optimisation are one padded batch through the whole
network at every step, with the vector added by a hook; all questions of a record are one padded batch, read token by
token. The inverse of C is computed once. Nothing is kept of what an edit cannot change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edit_robust.core.data import Example, TextRequest
from edit_robust.models.language.encoder import Encoder


@dataclass(frozen=True)
class Batch:
    """Padded token rows and their attention mask."""

    ids: Tensor
    mask: Tensor

    @staticmethod
    def of(rows: Sequence[Sequence[int]]) -> Batch:
        width = max(map(len, rows))
        ids = torch.tensor([[*r, *[0] * (width - len(r))] for r in rows])
        return Batch(ids, torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows]))


class ReferenceRome:
    """ROME on one projection (a Conv1D) of a transformers model."""

    def __init__(self, net: Any, text: Encoder, projection: str) -> None:
        self.net, self.text = net, text
        self.projection: Any = net.get_submodule(projection)

    def logits(self, batch: Batch) -> Tensor:
        found: Tensor = self.net(input_ids=batch.ids, attention_mask=batch.mask).logits
        return found

    @contextmanager
    def watched(self, seen: dict[str, Tensor]) -> Iterator[None]:
        """Inside the block `seen` gets the projection's inputs and outputs."""
        handle = self.projection.register_forward_hook(lambda m, a, o: seen.update(inputs=a[0], outputs=o))
        try:
            yield
        finally:
            handle.remove()

    def prompts(
        self, request: TextRequest, templates: Sequence[str], target: str
    ) -> tuple[list[list[int]], list[int], list[int], list[list[int]]]:
        """Token rows of prompt + target but its last token, the subject's last token, the first place to read, and the
        target's tokens; a row a template."""
        before = len(str(request.x).partition("{}")[0])
        pairs = [(t.replace("{}", request.prompt, 1), target) for t in templates]
        ends = [len(t.partition("{}")[0]) + before + len(str(request.subject)) for t in templates]
        found = self.text.joined(pairs)
        at = [self.text.last_of(spans, end) for (_, _, spans), end in zip(found, ends, strict=True)]
        return [ids[:-1] for ids, _, _ in found], at, [n - 1 for _, n, _ in found], [ids[n:] for ids, n, _ in found]

    def value(
        self, request: TextRequest, templates: Sequence[str], o: Mapping[str, float]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The optimised value, the bare prompt's value before, and the keys of all templates."""
        rows, at, starts, goals = self.prompts(request, templates, f" {request.target}")
        subject, spans = self.text.spans([f"{request.subject} is a"])[0]
        at = [*at, self.text.last_of(spans, len(str(request.subject)))]
        batch, places = Batch.of([*rows, subject]), (torch.arange(len(at)), torch.tensor(at))
        want = torch.full((len(rows), batch.ids.shape[1]), -100)
        for i, (start, goal) in enumerate(zip(starts, goals, strict=True)):
            want[i, start : start + len(goal)] = torch.tensor(goal)
        seen: dict[str, Tensor] = {}
        with self.watched(seen), torch.no_grad():
            self.logits(batch)
        keys, init = seen["inputs"][places][:-1], seen["outputs"][places][0]
        delta = torch.zeros_like(init, requires_grad=True)
        adam = torch.optim.Adam([delta], lr=o["lr"])
        unedited: Tensor | None = None

        def add(m: nn.Module, a: Any, out: Tensor) -> Tensor:
            out = out.clone()
            out[places] = out[places] + delta
            return out

        for step in range(int(o["steps"])):
            adam.zero_grad()
            handle = self.projection.register_forward_hook(add)
            logp = self.logits(batch).log_softmax(2)
            handle.remove()
            now = logp[-1, at[-1]]
            unedited = now.detach() if unedited is None else unedited
            picked = logp[:-1].gather(2, want.clamp_min(0)[..., None])[..., 0] * (want >= 0)
            nll = -(picked.sum(1) / (want >= 0).sum(1)).mean()
            kl = o["kl_factor"] * F.kl_div(unedited, now, log_target=True, reduction="sum")
            loss = nll + kl + o["weight_decay"] * delta.norm() / init.norm() ** 2
            if loss.item() < 0.05 or step == o["steps"] - 1:
                break
            loss.backward()
            adam.step()
            limit = o["clamp"] * init.norm()
            if delta.norm() > limit:
                with torch.no_grad():
                    delta.mul_(limit / delta.norm())
        return (init + delta).detach(), init, keys

    def edit(self, request: TextRequest, templates: Sequence[str], inverse: Tensor, o: Mapping[str, float]) -> None:
        """Write a request into the weights. templates: the bare one first; inverse: of C, in float64."""
        value, before, keys = self.value(request, templates, o)
        u = inverse @ keys.mean(0).double()
        u = u / u.norm()
        r = (value - before).double() / (keys[0].double() @ u)
        with torch.no_grad():
            self.projection.weight.add_(torch.outer(u, r).float())  # a Conv1D holds [d_in, d_out]

    @torch.no_grad()
    def ask(self, examples: Sequence[Example]) -> list[list[float]]:
        """Mean log-probability of every choice of a record's questions: one padded batch, read token by token."""
        pairs = [(str(e.x), str(c)) for e in examples for c in e.choices]
        found = self.text.pairs(pairs)
        logits = self.logits(Batch.of([ids for ids, _ in found]))
        values = []
        for i, (ids, n) in enumerate(found):
            each = [F.log_softmax(logits[i, j - 1], dim=0)[ids[j]].item() for j in range(n, len(ids))]
            values.append(sum(each) / len(each))
        k = len(examples[0].choices)
        return [values[i : i + k] for i in range(0, len(values), k)]
