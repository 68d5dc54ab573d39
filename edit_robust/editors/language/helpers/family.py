"""What MEMIT and its descendants share: a value for every request, written bottom up over several layers.

z = block output at the last edited layer + delta, optimised for each request at the model's present weights. Then, from
the lowest layer up, keys K [d_in, n] and z_cur are read after the layers below have changed, and

    R = (z - z_cur) / (layers still to come, this one included)

is given to the method, which answers with the change of this layer (Meng et al. 2023, arXiv 2210.07229, eqs. 14-21).
A method is a subclass of `LayerEditor`: it says `factors`, V of dW = R V^T, or, where its change is another, `term`.
"""
# Without postponed annotations: the constructors of subclasses repeat these, in modules that do not know their names.

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor

from edit_robust.core import Delta, LowRank, Request, TextRequest
from edit_robust.core.delta import Term, added
from edit_robust.core.editable import Layer
from edit_robust.core.options import DataFile
from edit_robust.core.work import Workspace
from edit_robust.editors.base import Edit, State, refuse_nonfinite
from edit_robust.editors.language.helpers.contexts import MEMIT_RECIPE, Groups, context_templates, flatten
from edit_robust.editors.language.helpers.moments import Inverse, second_moments
from edit_robust.editors.language.helpers.norms import mean_norm, rescaled
from edit_robust.editors.language.helpers.signs import TOLD, key_signs, over_layers
from edit_robust.editors.language.helpers.values import (
    Cutoff,
    Options,
    Values,
    optimise_values,
    subject_rows,
    value_options,
)
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.tasks.base import Task


@dataclass(frozen=True)
class Given:
    """What `prepare` makes. groups: context templates.  inverses: C^-1 of every edited layer, through its factor.
    mean_norm: m of the norm rescaling, see `helpers/norms.py`."""

    groups: Groups
    inverses: Mapping[str, Inverse]
    mean_norm: float | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class LayerProblem:
    """What is to be written into one layer.

    layer: the projection; its weight as it stands, the layers below already changed, is `layer.matrix()`.
    keys: K, one column a request, float64, on the layer's device.   residual: R, what they shall give more, float64.
    """

    layer: Layer
    keys: Float[Tensor, "d_in n"]
    residual: Float[Tensor, "d_out n"]


@dataclass(frozen=True)
class Read:
    """What a layer is given before it is changed. bare: keys of the bare prompts.   keys: that are solved with.
    residual: see `LayerEditor.residual`."""

    bare: Float[Tensor, "n d_in"]
    keys: Float[Tensor, "n d_in"]
    residual: Float[Tensor, "n d_out"]

    def one(self, i: int) -> Self:
        """That of one request."""
        return type(self)(self.bare[i : i + 1], self.keys[i : i + 1], self.residual[i : i + 1])


@dataclass(frozen=True)
class Climb:
    """What one way up has written. terms: the change of each weight, by parameter name.   keys: [n, d_in] in float32,
    by layer name, as they were read for the solve.   signs: warning signs of each request, by layer name."""

    terms: dict[str, Term] = field(default_factory=dict)
    keys: dict[str, Float[Tensor, "n d_in"]] = field(default_factory=dict)
    signs: dict[str, Sequence[Mapping[str, float]]] = field(default_factory=dict)


@dataclass(kw_only=True, eq=False, repr=False)
class LayerEditor(ABC):
    """An editor that writes values into several layers, bottom up.

    v_lr, v_num_grad_steps, v_weight_decay, clamp_norm_factor, kl_factor: of the value optimisation.
    mom2: `computed` or an .npz file; mom2_dataset, mom2_n_samples: corpus and number of documents for C, drawn from it
        at random; mom2_max_tokens: each is cut to so many tokens (None: to what the model can read).
    context_templates: `sampled`, `bare` or a JSON file.
    norm_rescale: `nas` gives every value the norm that values have on the unedited model, measured on norm_samples
        other requests of the task (see `helpers/norms.py`); null leaves them as they are found.
    value_batch: requests optimised side by side.
    """

    batches: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("injection", "trace", "block_output")
    takes: ClassVar[type[Request]] = TextRequest
    #: Where a value is found, see `optimise_values`: the output of the last edited block, or of its MLP.
    site: ClassVar[Literal["block", "mlp"]] = "block"
    #: Warning signs that it may tell (`core.signs`); the weight of a key and the ratio where C is at hand.
    signs: ClassVar[tuple[str, ...]] = TOLD
    #: Whether an edit leaves its keys for later ones: {layer name: [n, d_in] in float32}, a piece in `state.carried`.
    remembers: ClassVar[bool] = False

    name: str = "memit"
    layers: int | list[int] | str = "auto"
    v_lr: float = 0.5
    v_num_grad_steps: int = 20
    v_weight_decay: float = 0.5
    clamp_norm_factor: float = 0.75
    kl_factor: float = 0.0625
    mom2: Literal["computed"] | DataFile = "computed"
    mom2_dataset: Literal["task"] | DataFile = "task"
    mom2_n_samples: int = 1000
    mom2_max_tokens: int | None = None
    context_templates: Literal["sampled", "bare"] | DataFile = "sampled"
    norm_rescale: Literal["nas"] | None = None
    norm_samples: int = 1000
    value_batch: int = 8
    fast: bool | None = None
    optimisation: Options = field(init=False)

    def __post_init__(self) -> None:
        self.optimisation = value_options(
            self.v_lr,
            self.v_num_grad_steps,
            self.v_weight_decay,
            self.clamp_norm_factor,
            self.kl_factor,
            self.fast,
            mom2_n_samples=self.mom2_n_samples,
            mom2_max_tokens=1 if self.mom2_max_tokens is None else self.mom2_max_tokens,
            value_batch=self.value_batch,
            norm_samples=self.norm_samples,
        )

    # -- what a method says of itself --------------------------------------------------------------------------------

    def given(
        self,
        model: CausalLM,
        groups: Groups,
        moments: dict[str, Float[Tensor, "d_in d_in"]],
        task: Task,
        work: Workspace,
    ) -> Any:
        """What edits are made with: `Given` or more. moments: C of each layer, float64; taken out of the dictionary
        where nobody needs it any more, as a wide model's are gigabytes."""
        return Given(groups, {n: Inverse.of(moments.pop(n)) for n in list(moments)})

    @abstractmethod
    def factors(self, problem: LayerProblem, state: State[Any]) -> Float[Tensor, "d_in n"]:
        """V of dW = R V^T, float64. LinAlgError where there is none."""

    def term(self, problem: LayerProblem, state: State[Any]) -> Term:
        """The change of the layer; it is written before the layers above are looked at."""
        return LowRank(problem.residual.float(), self.factors(problem, state).float())

    def finish(self, model: CausalLM, terms: Mapping[str, Term]) -> Mapping[str, Term]:
        """The changes that make the edit, from those written on the way up. The model is as it was before the edit."""
        return terms

    def cutoff(self) -> Cutoff | None:
        """A further early stop of the value optimisation."""
        return None

    def targets(
        self, model: CausalLM, requests: Sequence[Request], state: State[Any]
    ) -> tuple[Float[Tensor, "n d"], list[dict[str, float]]]:
        """z of every request, at the model's present weights, and what is known about how it was found."""
        found, infos = [], []
        for i in range(0, len(requests), self.value_batch):
            some = requests[i : i + self.value_batch]
            values = self.values(model, some, state)
            found.append(values.value)
            infos += values.info
        return torch.cat(found), infos

    def values(self, model: CausalLM, requests: Sequence[Request], state: State[Any]) -> Values:
        """The values of requests that are optimised side by side."""
        layer, templates = state.layers[-1], flatten(state.given.groups)
        found = self.optimised(model, layer, requests, templates)
        return rescaled(found, model, layer, self.site, state.given.mean_norm)

    def optimised(self, model: CausalLM, layer: str, requests: Sequence[Request], templates: Sequence[str]) -> Values:
        """The values as the optimisation finds them, at `site` of the layer's block."""
        return optimise_values(model, layer, self.site, requests, templates, **self.optimisation, cutoff=self.cutoff())

    def residual(
        self, model: CausalLM, requests: Sequence[Request], targets: Float[Tensor, "n d"], state: State[Any], left: int
    ) -> Float[Tensor, "n d_out"]:
        """What a layer shall add to the outputs of its keys, float64; `left` layers are still to come, it included.

        Read the model by `trace` and `block_output` alone, with as many rows for each request: where requests go up
        side by side, these show each of them under its own changes.
        """
        now = model.block_output(state.layers[-1], *subject_rows(model, requests, ["{}"]))
        return (targets.double() - now.to(targets.device).double()) / left

    # -- what they share ---------------------------------------------------------------------------------------------

    def auto_layers(self, n_layers: int) -> list[int]:
        """Up to five layers that end about a third of the way up, as the published presets do."""
        last = max(round(0.33 * (n_layers - 1)), min(1, n_layers - 1))
        return list(range(max(0, last - 4), last + 1))

    def prepare(self, model: CausalLM, layers: Sequence[str], task: Task, work: Workspace) -> State[Any]:
        layers = sorted(layers, key=lambda n: model.layers[n].index)
        groups = context_templates(model, self.context_templates, (self.name, "memit"), MEMIT_RECIPE, work)
        moments = second_moments(
            model, layers, task, self.mom2, self.mom2_dataset, self.mom2_n_samples, work, self.mom2_max_tokens
        )
        given = self.given(model, groups, moments, task, work)
        if self.norm_rescale is not None:
            m = mean_norm(model, layers[-1], self.site, task, self.norm_samples, self.optimisation, work)
            given = replace(given, mean_norm=m)
        return State(tuple(layers), given)

    def edit_each(self, model: CausalLM, requests: Sequence[Request], state: State[Any]) -> list[Edit]:
        # where weights are rounded when they are written, what is read under a change is not what they would give
        exact = model.fast and model.dtype == torch.float32
        way = self.side_by_side if exact else self.one_by_one
        return way(model, requests, *self.targets(model, requests, state), state)

    def edit(self, model: CausalLM, requests: Sequence[Request], state: State[Any]) -> Edit:
        targets, infos = self.targets(model, requests, state)
        return self.spread(model, requests, targets, infos, state)

    def spread(
        self,
        model: CausalLM,
        requests: Sequence[Request],
        targets: Float[Tensor, "n d"],
        infos: list[dict[str, float]],
        state: State[Any],
        first: Read | None = None,
    ) -> Edit:
        """The edit that gives the requests their targets; the model is left as found. first: see `climb`."""
        base = model.position
        with model.held(state.changes(model)):
            climb = self.climb(model, requests, targets, state, first)
        return self._edit(model, climb, infos, base)

    def side_by_side(
        self,
        model: CausalLM,
        requests: Sequence[Request],
        targets: Float[Tensor, "n d"],
        infos: list[dict[str, float]],
        state: State[Any],
    ) -> list[Edit]:
        """Every request's edit, all read together at each layer; the model's weights are not touched."""
        climbs = self.climb_each(model, requests, targets, state)
        return [self._edit(model, c, [i], model.position) for c, i in zip(climbs, infos, strict=True)]

    def one_by_one(
        self,
        model: CausalLM,
        requests: Sequence[Request],
        targets: Float[Tensor, "n d"],
        infos: list[dict[str, float]],
        state: State[Any],
    ) -> list[Edit]:
        """Every request's edit, one after the other but for the lowest layer, which is given the same whatever is
        written above."""
        first = self.read(model, requests, targets, state, 0)
        parts = [(slice(i, i + 1), first.one(i)) for i in range(len(requests))]
        return [self.spread(model, requests[at], targets[at], infos[at], state, begun) for at, begun in parts]

    def _edit(self, model: CausalLM, climb: Climb, infos: Sequence[dict[str, float]], base: str) -> Edit:
        """The edit that a way up makes of a model that stands at `base`."""
        delta = Delta(self.finish(model, climb.terms), base)
        carry = dict(climb.keys) if self.remembers else {}
        told = zip(infos, over_layers(climb.signs, len(infos)), strict=True)
        return refuse_nonfinite(Edit(delta, [{**i, **s, "delta_norm": delta.norm()} for i, s in told], carry))

    def read(
        self, model: CausalLM, requests: Sequence[Request], targets: Float[Tensor, "n d"], state: State[Any], i: int
    ) -> Read:
        """What the i-th layer is given, at the model's present weights."""
        bare, keys = bare_and_mean_keys(model, state.layers[i], requests, state.given.groups)
        return Read(bare, keys, self.residual(model, requests, targets, state, len(state.layers) - i))

    def climb(
        self,
        model: CausalLM,
        requests: Sequence[Request],
        targets: Float[Tensor, "n d"],
        state: State[Any],
        first: Read | None = None,
    ) -> Climb:
        """Change the layers, the lowest first, and leave them changed. Ends early at a change that is not finite.

        first: what the lowest layer is given, where that is known.
        """
        climb = Climb()
        for i, name in enumerate(state.layers):
            now = self.read(model, requests, targets, state, i) if i or first is None else first
            step = Delta({model.layers[name].weight_name: self._step(model, climb, name, now, state)}, model.position)
            if not step.finite():
                break
            model.add(step)
        return climb

    def climb_each(
        self,
        model: CausalLM,
        requests: Sequence[Request],
        targets: Float[Tensor, "n d"],
        state: State[Any],
        written: Sequence[dict[str, Term]] | None = None,
    ) -> list[Climb]:
        """The way up of every request alone, all read together, each under what it has written. The model's weights are
        not touched. One with a change that is not finite goes no further.

        written: what each has written before, by layer name; what it writes now is added, if it is finite.
        """
        climbs = [Climb() for _ in requests]
        written = [{} for _ in requests] if written is None else written
        going = list(range(len(requests)))
        for i, name in enumerate(state.layers):
            with model.each_under([written[j] for j in going]):
                now = self.read(model, [requests[j] for j in going], targets[going], state, i)
            steps = [(j, self._step(model, climbs[j], name, now.one(k), state)) for k, j in enumerate(going)]
            steps = [(j, term) for j, term in steps if term.finite()]
            for j, term in steps:
                written[j][name] = added(written[j][name], term) if name in written[j] else term
            going = [j for j, _ in steps]
            if not going:
                break
        return climbs

    def _step(self, model: CausalLM, climb: Climb, name: str, now: Read, state: State[Any]) -> Term:
        """The change of one layer, noted with its keys and signs in the way up."""
        layer, k = model.layers[name], now.keys.double().T
        climb.signs[name] = key_signs(now.bare, now.keys, state.given.inverses[name])
        climb.keys[name] = now.keys
        climb.terms[layer.weight_name] = term = self.term(LayerProblem(layer, k, now.residual.T.to(k.device)), state)
        return term


def mean_keys(model: CausalLM, layer: str, requests: Sequence[Request], groups: Groups) -> Float[Tensor, "n d_in"]:
    """Mean key within each group of templates, then over groups: half the bare prompt, half the sampled ones."""
    return bare_and_mean_keys(model, layer, requests, groups)[1]


def bare_and_mean_keys(
    model: CausalLM, layer: str, requests: Sequence[Request], groups: Groups
) -> tuple[Float[Tensor, "n d_in"], Float[Tensor, "n d_in"]]:
    """The key of the first template, which is the bare prompt, and the mean that is solved with, see `mean_keys`."""
    templates = flatten(groups)
    keys = model.trace(*subject_rows(model, requests, templates), [layer])[layer].float()
    keys = keys.reshape(len(requests), len(templates), -1)
    parts = keys.split([len(g) for g in groups], dim=1)
    return keys[:, 0], torch.stack([p.mean(1) for p in parts]).mean(0)
