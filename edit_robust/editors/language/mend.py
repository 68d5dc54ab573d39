"""MEND (Mitchell et al. 2022, arXiv 2110.11309): a trained hypernetwork turns an edit's gradient into its change.

The gradient of an edit's loss with respect to a projection's weight is a sum over tokens, delta u^T. The hypernetwork
(see `hypernetwork`) transforms each token's (u, delta), and with a learned rate for each projection

    dW = rate * sum over tokens of delta~ u~^T          (plus, as in the public code; the paper writes a minus)

The change has no more rank than the edit's texts have tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from edit_robust.core import Delta, Request, TextRequest, UserError
from edit_robust.core.options import DataFile
from edit_robust.core.work import Workspace
from edit_robust.editors.base import Edit, State, check_numbers, refusal, refuse_nonfinite
from edit_robust.editors.language.helpers.factors import Factors, edit_texts, factors_of, together
from edit_robust.editors.language.helpers.hypernetwork import (
    Hypernetwork,
    Shape,
    Statistics,
    Target,
    Tokens,
    targets_of,
)
from edit_robust.editors.language.helpers.hypernetwork_files import (
    hypernetwork_file,
    statistics_as_tensors,
    statistics_from,
)
from edit_robust.editors.language.helpers.mend_schedule import trained_hypernetwork
from edit_robust.editors.language.helpers.mend_training import Recipe
from edit_robust.editors.language.helpers.mlp import mlp_projections
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.tasks.base import Task

#: Independent edits whose factors are held in memory together.
_TOGETHER = 64


@dataclass(frozen=True)
class _Given:
    hypernetwork: Hypernetwork
    rates: Tensor  # in the order of the targets


class Mend:
    """A hypernetwork that edits all projections of some blocks' MLPs.

    layers: the blocks, of each of which all projections of the MLP are edited.
    hypernetwork: `trained` trains one on the task's training requests, once for each model and recipe; or a file: what
        was trained here before (outputs/cache/mend/*.safetensors), or the public implementation's tensors as an .npz.
    mode: `corrected` normalises as the training left it. `public` does as the public executor does: statistics restart
        at the first edit and follow the edits, and rates are applied in the network's order of projections although
        they are stored in the list's, so that those of a block's projections are swapped where the orders differ.
    order: of a block's projections in the list: `down-up` is the published one for GPT-2, `up-down` for GPT-J.
    The training's options, where nothing is said with the defaults of the public code:
    rank: of U V, at most d_in + d_out.   n_hidden: layers of the network before its last one.
    lr: of Adam, for the networks and, where `lr_lr` is null, the rates (in the public code `lr_lr` has no effect).
    edit_lr: all rates at the start.   c_edit, c_loc: weights of the two losses.
    accumulation: iterations a step.   grad_clip: largest norm of the gradient.   n_edits: requests an iteration's edit
    holds; train with as many as are later written in one batch.   n_loc: locality texts an iteration.
    loc_tokens: each is cut to so many tokens.   locality_dataset: `task` (its corpus), a text file or `hf:NAME`;
    locality_n_samples: documents of it.
    max_iterations; validate_every: so many iterations, on `n_validation` requests with `n_val_loc` locality texts each;
    patience: iterations without a lower validation loss after which training ends. The best network is kept.
    """

    batches = True
    needs: ClassVar[tuple[str, ...]] = ("output_gradients", "trainable")
    takes: ClassVar[type[Request]] = TextRequest

    def __init__(
        self,
        name: str = "mend",
        layers: int | list[int] | str = "auto",
        hypernetwork: Literal["trained"] | DataFile = "trained",
        mode: Literal["corrected", "public"] = "corrected",
        order: Literal["down-up", "up-down"] = "down-up",
        rank: int = 1920,
        n_hidden: int = 1,
        lr: float = 1e-6,
        lr_lr: float | None = None,
        edit_lr: float = 1e-4,
        c_edit: float = 0.1,
        c_loc: float = 1.0,
        accumulation: int = 10,
        grad_clip: float = 100.0,
        n_edits: int = 1,
        n_loc: int = 1,
        loc_tokens: int = 200,
        locality_dataset: Literal["task"] | DataFile = "task",
        locality_n_samples: int = 10000,
        max_iterations: int = 1000000,
        validate_every: int = 5000,
        n_validation: int = 500,
        n_val_loc: int = 4,
        patience: int = 20000,
    ) -> None:
        given = dict(locals())
        positive = "rank accumulation n_edits n_loc loc_tokens locality_n_samples max_iterations validate_every"
        positive += " n_validation n_val_loc patience lr grad_clip"
        check_numbers({n: given[n] for n in positive.split()}, {n: given[n] for n in ("n_hidden", "c_edit", "c_loc")})
        if lr_lr is not None and lr_lr <= 0:
            raise UserError(f"editor.lr_lr={lr_lr} must be above 0, or null for editor.lr")
        if max_iterations <= accumulation:
            raise UserError(
                f"editor.max_iterations={max_iterations} is too few for one step of {accumulation} and one more"
            )
        self.name, self.layers, self.hypernetwork, self.mode, self.order = name, layers, hypernetwork, mode, order
        given["lr_lr"] = lr if lr_lr is None else lr_lr
        self.recipe = Recipe(**{f.name: given[f.name] for f in fields(Recipe)})

    def auto_layers(self, n_layers: int) -> list[int]:
        """The last three blocks."""
        return list(range(max(0, n_layers - 3), n_layers))

    def prepare(self, model: CausalLM, layers: Sequence[str], task: Task, work: Workspace) -> State:
        layers = sorted(layers, key=lambda n: model.layers[n].index)
        targets = self.targets(model, layers)
        if self.hypernetwork == "trained":
            found = trained_hypernetwork(model, targets, task, work, self.recipe)
        else:
            found = hypernetwork_file(self.hypernetwork, model, targets)
        found = found.to(targets[0].layer.weight.device)
        rates = self._swapped(model, found) if self.mode == "public" else found.rates
        return State(tuple(layers), _Given(found, rates), tuple(t.layer.weight_name for t in targets))

    def targets(self, model: CausalLM, layers: Sequence[str]) -> tuple[Target, ...]:
        """All projections of the blocks' MLPs, in the order in which rates and rows are stored."""
        found = []
        for name in layers:
            up, down = mlp_projections(model, name)
            found += [down, *up] if self.order == "down-up" else [*up, down]
        return targets_of(found)

    def _swapped(self, model: CausalLM, found: Hypernetwork) -> Tensor:
        """The rates as the public executor applies them: the first to what comes first in the network, and so on."""
        place = {name: i for i, (name, _) in enumerate(model.net.named_parameters())}
        weights = [place[t.layer.weight_name] for t in found.targets]
        rates = found.rates.clone()
        for i, target in enumerate(sorted(range(len(weights)), key=weights.__getitem__)):
            rates[target] = found.rates[i]
        return rates

    def edit(self, model: CausalLM, requests: Sequence[Request], state: State) -> Edit:
        seen = factors_of(model, edit_texts(model, requests), state.given.hypernetwork.targets)
        return self._changes(model, [seen], state)[0]

    def edit_each(self, model: CausalLM, requests: Sequence[Request], state: State) -> list[Edit]:
        edits: list[Edit] = []
        for i in range(0, len(requests), _TOGETHER):
            texts = edit_texts(model, requests[i : i + _TOGETHER])
            seen = factors_of(model, texts, state.given.hypernetwork.targets)
            edits += self._changes(model, [[one] for one in seen], state)
        return edits

    @torch.no_grad()
    def _changes(self, model: CausalLM, seen: Sequence[Sequence[Factors]], state: State) -> list[Edit]:
        """An independent change for all texts of each, transformed by the networks in one batch."""
        hypernetwork, rates = state.given.hypernetwork, state.given.rates
        tokens = [together(texts) for texts in seen]
        followed = [self._followed(one, state) for one in tokens]
        some = [i for i, (found, _) in enumerate(followed) if all(s.count > 1 for s in found.values())]
        statistics = [followed[i][0] for i in some] if self.mode == "public" else None
        out = hypernetwork.transform([tokens[i] for i in some], statistics) if some else []
        transformed = dict(zip(some, out, strict=True))
        edits = []
        for i, texts in enumerate(seen):
            info: list[dict[str, Any]] = [{"edit_loss": f.loss / f.n} for f in texts]
            if i not in transformed:
                edits.append(refusal(Edit(Delta({}, model.position), info), "one token has no standard deviation"))
                continue
            delta = Delta(hypernetwork.terms(transformed[i], rates), model.position)
            info = [{**told, "delta_norm": delta.norm()} for told in info]
            edits.append(refuse_nonfinite(Edit(delta, info, followed[i][1])))
        return edits

    def _followed(self, tokens: dict[str, Tokens], state: State) -> tuple[dict[str, Statistics], dict[str, Tensor]]:
        """The statistics that each projection of an edit is normalised with where they follow the edits, and those
        after it as later edits are told of them; both empty where they stay as the training left them."""
        if self.mode != "public":
            return {}, {}
        found, after = state.given.hypernetwork.follow([tokens], self._so_far(state))
        return found[0], _as_piece(after)

    def _so_far(self, state: State) -> dict[Shape, Statistics]:
        """The statistics of what the edits before this one saw."""
        found = state.given.hypernetwork.statistics
        if not len(state.carried):
            return {s: Statistics.none(sum(s), kept.mean.device) for s, kept in found.items()}
        device = next(iter(found.values())).mean.device
        piece = {name: t.to(device) for name, t in state.carried[-1].items()}
        return {s: statistics_from(piece, f"{s[0]}x{s[1]}") for s in found}


def _as_piece(after: dict[Shape, Statistics]) -> dict[str, Tensor]:
    """Statistics as an edit leaves them for later ones."""
    return {
        f"{shape[0]}x{shape[1]}/{name}": tensor
        for shape, statistics in after.items()
        for name, tensor in statistics_as_tensors(statistics).items()
    }
