"""Fine-tuning of one projection on the new fact: unconstrained, FT-C (an L-infinity ball) or within an L2 ball.

FT-C trains weight and bias of one layer with Adam and, after each step, clamps every element to W0 +- eps, where W0 is
the state at the start of this edit. A step is skipped when the loss is below 1e-2.

Models in half precision are trained through float32 copies of the edited parameters: Adam, the ball and the change are
float32, and the model runs with those copies rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from edit_robust.core import Request, TextRequest, UserError
from edit_robust.core.work import Workspace
from edit_robust.editors.base import Edit, State, check_numbers, continuation, refuse_nonfinite
from edit_robust.editors.helpers.masters import Masters
from edit_robust.editors.helpers.reproducible import reproducible
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.tasks.base import Task

ENOUGH = 1e-2


class FineTune:
    """Fine-tuning as an editor.

    objective: `prompt_last` reads every target token from the last prompt position, as the reference implementation
        (and so the published FT-C) does; `target_new` is teacher forcing, what was meant.
    norm_constraint: epsilon of the ball around the weights at the start of the edit, None for none.
    norm: `linf` (each element, FT-C) or `l2` (Frobenius norm of each parameter's change).
    batch_size: requests a gradient step sees when several are edited at once.
    """

    batches = True
    needs: ClassVar[tuple[str, ...]] = ("trainable",)
    takes: ClassVar[type[Request]] = TextRequest

    def __init__(
        self,
        name: str = "ft",
        layers: int | list[int] | str = "auto",
        lr: float = 5e-4,
        num_steps: int = 25,
        norm_constraint: float | None = 5e-4,
        norm: Literal["linf", "l2"] = "linf",
        objective: Literal["prompt_last", "target_new"] = "prompt_last",
        weight_decay: float = 0.0,
        batch_size: int = 64,
    ) -> None:
        if lr > 1e30:
            raise UserError(f"editor.lr={lr} is more than numbers of single precision can be moved by")
        check_numbers({"lr": lr, "num_steps": num_steps, "batch_size": batch_size}, {"weight_decay": weight_decay})
        if norm_constraint is not None and norm_constraint <= 0:
            raise UserError(f"editor.norm_constraint={norm_constraint} must be above 0, or null for none")
        self.name, self.layers = name, layers
        self.lr, self.num_steps, self.weight_decay, self.batch_size = lr, num_steps, weight_decay, batch_size
        self.norm_constraint, self.norm, self.objective = norm_constraint, norm, objective

    def auto_layers(self, n_layers: int) -> list[int]:
        """The first block, as the released FT-C presets have it."""
        return [0]

    def prepare(self, model: CausalLM, layers: Sequence[str], task: Task, work: Workspace) -> State:
        return State(tuple(layers))

    def edit_each(self, model: CausalLM, requests: Sequence[Request], state: State) -> list[Edit]:
        return [self.edit(model, [r], state) for r in requests]

    def edit(self, model: CausalLM, requests: Sequence[Request], state: State) -> Edit:
        names = state.changes(model)
        chunks = [requests[i : i + self.batch_size] for i in range(0, len(requests), self.batch_size)]
        batches = [self._batch(model, chunk, state) for chunk in chunks]
        with model.scratch(names) as scratch, reproducible(model.device):
            trained = Masters.of(model, scratch.before)
            optimiser = torch.optim.Adam(trained.values.values(), lr=self.lr, weight_decay=self.weight_decay)
            steps, last = 0, 0.0
            for _ in range(self.num_steps):
                losses = []
                for batch, n in batches:
                    optimiser.zero_grad()
                    loss = batch()
                    losses.append((loss.item(), n))
                    if not loss.item() >= ENOUGH:  # also when it is NaN: nothing more can be learnt from it
                        continue
                    loss.backward()
                    trained.take_gradients()
                    optimiser.step()
                    steps += 1
                    self._constrain(trained)
                    trained.write()
                last = sum(x * n for x, n in losses) / len(requests)
                if last < ENOUGH:
                    break
            delta = trained.change()
        info: dict[str, float] = {"edit_loss": last, "edit_steps": float(steps), "delta_norm": delta.norm()}
        if last != last:  # NaN: the loss says so even where the weights do not
            delta = delta.scale(float("nan"))
        return refuse_nonfinite(Edit(delta, [dict(info) for _ in requests]))

    @torch.no_grad()
    def _constrain(self, trained: Masters) -> None:
        eps = self.norm_constraint
        if eps is None:
            return
        for name, w in trained.values.items():
            start = trained.start[name]
            if self.norm == "linf":
                w.copy_(torch.clamp(w, start - eps, start + eps))
            else:
                change = w - start
                w.copy_(start + change * min(1.0, eps / max(float(change.norm()), 1e-30)))

    def _batch(self, model: CausalLM, requests: Sequence[Request], state: State) -> tuple[Any, int]:
        """A function that gives the loss of a batch at the present weights, and the batch's size."""
        pairs = model.text.pairs([(r.prompt, continuation(r)) for r in requests])
        at_prompt = self.objective == "prompt_last"
        rows = [ids[:n] if at_prompt else ids[:-1] for ids, n in pairs]
        reads, targets, weights = [], [], []
        for i, (ids, n) in enumerate(pairs):
            goal = ids[n:]
            for j, token in enumerate(goal):
                reads.append((i, n - 1 if at_prompt else n - 1 + j))
                targets.append(token)
                weights.append(1.0 / (len(goal) * len(requests)))
        logits = model.trainable(rows, reads, state.changes(model))
        want, share = torch.tensor(targets), torch.tensor(weights)

        def loss() -> Tensor:
            logp = logits().log_softmax(-1)
            picked = logp.gather(1, want.to(logp.device)[:, None])[:, 0]
            return -(picked * share.to(logp.device)).sum()

        return loss, len(requests)
