"""MEND's hypernetwork (Mitchell et al. 2022, arXiv 2110.11309): one small network for each shape of projection.

For a token's input u [d_in] of a projection and the gradient delta [d_out] of the loss with respect to its output,

    z <- [normalised u ; normalised delta]                         D = d_in + d_out
    z <- z + max(0, s * (U V z + b) + o)                           twice, or `n_hidden` + 1 times; U, V of low rank
    W <- W + rate * (sum over tokens of delta~ u~^T)               (u~, delta~) = z

Projections of one shape share U, V and b; each has its own row of s and o, and its own rate. At the start U = b = o = 0
and s = 1: the identity. V is drawn from N(0, 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edit_robust.core import LowRank
from edit_robust.core.editable import Layer

#: [d_in, d_out] of projections.
Shape = tuple[int, int]
#: Added to a standard deviation before anything is divided by it.
EPSILON = 1e-7
#: Parameters of one step of a network, by the names that public checkpoints give them.
PARTS = ("u", "v", "bias", "mode_scale.weight", "mode_shift.weight")


#: Rows that are transformed at once where no gradient is needed.
_ROWS = 128


@dataclass(frozen=True)
class Target:
    """A projection that is edited. shape: [d_in, d_out]; row: its place among those of the same shape."""

    layer: Layer
    shape: Shape
    row: int

    @property
    def name(self) -> str:
        return self.layer.name


def targets_of(layers: Sequence[Layer]) -> tuple[Target, ...]:
    """The projections with their rows, counted for each shape in the order given."""
    seen: dict[Shape, int] = {}
    found = []
    for layer in layers:
        d_out, d_in = layer.shape
        row = seen.get((d_in, d_out), 0)
        seen[d_in, d_out] = row + 1
        found.append(Target(layer, (d_in, d_out), row))
    return tuple(found)


@dataclass(frozen=True)
class Tokens:
    """What one projection saw of one edit, token by token: inputs u and output gradients delta."""

    u: Float[Tensor, "rows d_in"]
    delta: Float[Tensor, "rows d_out"]

    @staticmethod
    def split(
        u: Float[Tensor, "tokens d_in"], delta: Float[Tensor, "tokens d_out"], lengths: Sequence[int]
    ) -> list[Tokens]:
        """Of texts of so many tokens each, without tokens that have no part in the loss, or no input; in float32."""
        taking_part = (u != 0).any(-1) & (delta != 0).any(-1)
        left = [0, *torch.tensor(lengths).cumsum(0).tolist()]
        kept = torch.cat([taking_part.new_zeros(1, dtype=torch.long), taking_part.cumsum(0)])[left].diff().tolist()
        parts = u[taking_part].float().split(kept), delta[taking_part].float().split(kept)
        return [Tokens(*both) for both in zip(*parts, strict=True)]

    def scale(self, factor: float) -> Tokens:
        """Of a loss `factor` times as large."""
        return Tokens(self.u, self.delta * factor)


@dataclass(frozen=True)
class Statistics:
    """Mean and sum of squared deviations over all rows [u ; delta] seen so far, in float64."""

    count: int
    mean: Float[Tensor, " D"]
    squares: Float[Tensor, " D"]

    @staticmethod
    def none(width: int, device: torch.device | None = None) -> Statistics:
        """No row has been seen."""
        zero = torch.zeros(width, dtype=torch.float64, device=device)
        return Statistics(0, zero, zero)

    def std(self) -> Float[Tensor, " D"]:
        """Unbiased; ValueError below two rows."""
        if self.count < 2:
            raise ValueError(f"{self.count} rows have no standard deviation")
        return (self.squares / (self.count - 1)).sqrt()

    def to(self, device: torch.device) -> Statistics:
        return Statistics(self.count, self.mean.to(device), self.squares.to(device))

    def follow(self, parts: Sequence[Float[Tensor, "rows D"]]) -> list[Statistics]:
        """The statistics after each of the parts, which are seen one after the other."""
        rows = torch.cat(list(parts)).double()
        start = self.mean if self.count or not len(rows) else rows[0]
        off = rows - start
        zero = off.new_zeros(1, off.shape[1])
        sums = torch.cat([zero, off.cumsum(0)])  # around a mean that is close: nothing is lost by subtracting squares
        squares = torch.cat([zero, (off * off).cumsum(0)])
        found, end = [], 0
        for part in parts:
            end += len(part)
            count = self.count + end
            shift = sums[end] / max(count, 1)
            found.append(
                Statistics(count, start + shift, (self.squares + squares[end] - count * shift * shift).clamp_min(0))
            )
        return found


@dataclass(frozen=True)
class ShapeNetwork:
    """The network of one shape. parameters: `layers.L.PART` -> tensor; statistics: of what it has been trained on."""

    parameters: Mapping[str, Tensor]
    statistics: Statistics

    @staticmethod
    def start(shape: Shape, rows: int, rank: int, n_hidden: int, generator: torch.Generator) -> ShapeNetwork:
        """The identity. rank: of U V, at most D."""
        width = sum(shape)
        rank = min(rank, width)
        parameters: dict[str, Tensor] = {}
        for i in range(n_hidden + 1):
            made = {
                "u": torch.zeros(width, rank),
                "v": torch.randn(rank, width, generator=generator),
                "bias": torch.zeros(width),
                "mode_scale.weight": torch.ones(rows, width),
                "mode_shift.weight": torch.zeros(rows, width),
            }
            parameters |= {f"layers.{i}.{part}": made[part] for part in PARTS}
        return ShapeNetwork(parameters, Statistics.none(width))

    @property
    def depth(self) -> int:
        return len(self.parameters) // len(PARTS)

    @property
    def rows(self) -> int:
        """How many projections it knows."""
        return len(self.parameters["layers.0.mode_scale.weight"])

    def __call__(self, z: Float[Tensor, "n D"], row: Int[Tensor, " n"]) -> Float[Tensor, "n D"]:
        """Normalised rows transformed, each as one of the projection `row`."""
        if not torch.is_grad_enabled() and len(z) > _ROWS:  # what lies between fits in the processor's cache
            return torch.cat([self(some, which) for some, which in zip(z.split(_ROWS), row.split(_ROWS), strict=True)])
        for i in range(self.depth):
            u, v, bias, scale, shift = (self.parameters[f"layers.{i}.{part}"] for part in PARTS)
            before = torch.addcmul(shift[row], scale[row], torch.addmm(bias, z @ v.T, u.T))
            # its gradient at 0 is 1, as that of `clamp(min=0)` was when MEND was written: all values start at exactly
            # 0, and with a gradient of 0 there (that of relu) nothing but the rates would ever learn
            learning = before.requires_grad
            z = z + (torch.where(before >= 0, before, torch.zeros_like(before)) if learning else before.relu_())
        return z


@dataclass(frozen=True)
class Hypernetwork:
    """The networks by shape, and one rate for each target."""

    targets: tuple[Target, ...]
    networks: Mapping[Shape, ShapeNetwork]
    rates: Float[Tensor, " targets"]

    @staticmethod
    def start(targets: tuple[Target, ...], rank: int, n_hidden: int, edit_lr: float, seed: int) -> Hypernetwork:
        """The identity, with all rates at `edit_lr`; on the CPU."""
        generator = torch.Generator().manual_seed(seed)
        networks = {
            shape: ShapeNetwork.start(shape, rows, rank, n_hidden, generator)
            for shape, rows in rows_by_shape(targets).items()
        }
        return Hypernetwork(targets, networks, torch.full((len(targets),), edit_lr))

    def to(self, device: torch.device) -> Hypernetwork:
        """The same on a device."""
        networks = {
            shape: ShapeNetwork({n: t.to(device) for n, t in net.parameters.items()}, net.statistics.to(device))
            for shape, net in self.networks.items()
        }
        return replace(self, networks=networks, rates=self.rates.to(device))

    @property
    def statistics(self) -> dict[Shape, Statistics]:
        return {shape: net.statistics for shape, net in self.networks.items()}

    def with_statistics(self, found: Mapping[Shape, Statistics]) -> Hypernetwork:
        """The same networks and rates with other statistics."""
        networks = {shape: replace(net, statistics=found[shape]) for shape, net in self.networks.items()}
        return replace(self, networks=networks)

    def follow(
        self, edits: Sequence[Mapping[str, Tokens]], statistics: Mapping[Shape, Statistics]
    ) -> tuple[list[dict[str, Statistics]], dict[Shape, Statistics]]:
        """The statistics with which each projection of each edit is normalised while they follow what is seen, and
        those after all edits. Within an edit the projections of a shape are seen in the order of the targets."""
        found: list[dict[str, Statistics]] = [{} for _ in edits]
        last = dict(statistics)
        for shape in self.networks:
            mine = [t for t in self.targets if t.shape == shape]
            device = last[shape].mean.device
            parts = [torch.cat([e[t.name].u, e[t.name].delta], 1).to(device) for e in edits for t in mine]
            after = last[shape].follow(parts)
            for i, statistic in enumerate(after):
                found[i // len(mine)][mine[i % len(mine)].name] = statistic
            last[shape] = after[-1]
        return found, last

    def transform(
        self, edits: Sequence[Mapping[str, Tokens]], statistics: Sequence[Mapping[str, Statistics]] | None = None
    ) -> list[dict[str, Tokens]]:
        """(u~, delta~) of every token of every edit; differentiable in the parameters.

        statistics: to normalise each projection of each edit with; None: those of the training.
        """
        found: list[dict[str, Tokens]] = [{} for _ in edits]
        for shape, network in self.networks.items():
            mine = [t for t in self.targets if t.shape == shape]
            device = network.parameters["layers.0.u"].device
            seen = [edit[t.name] for edit in edits for t in mine]
            lengths = [len(tokens.u) for tokens in seen]
            z = torch.cat([torch.cat([tokens.u for tokens in seen]), torch.cat([tokens.delta for tokens in seen])], 1)
            followed = None if statistics is None else [of[t.name] for of in statistics for t in mine]
            z = _normalised(z.to(device), lengths, network.statistics if followed is None else followed)
            row = torch.tensor([t.row for t in mine] * len(edits), device=device)
            out = network(z, row.repeat_interleave(torch.tensor(lengths, device=device)))
            pieces = iter(zip(*(part.split(lengths) for part in out.split(list(shape), 1)), strict=True))
            for of in found:
                for target in mine:
                    of[target.name] = Tokens(*next(pieces))
        return found

    @torch.no_grad()
    def terms(self, transformed: Mapping[str, Tokens], rates: Float[Tensor, " targets"]) -> dict[str, LowRank]:
        """rate * sum of delta~ u~^T for each target, by the name of its weight, as [d_out, d_in]."""
        found = {}
        for target, rate in zip(self.targets, rates, strict=True):
            seen = transformed[target.name]
            found[target.layer.weight_name] = _narrow(
                LowRank((rate * seen.delta).T.contiguous(), seen.u.T.contiguous())
            )
        return found


def _normalised(
    z: Float[Tensor, "rows D"], lengths: Sequence[int], statistics: Statistics | Sequence[Statistics]
) -> Float[Tensor, "rows D"]:
    """Rows less the mean, over the deviation: of one statistic, or of one for each so many rows."""
    if isinstance(statistics, Statistics):
        return (z - statistics.mean.float()) / (statistics.std().float() + EPSILON)
    parts = zip(z.split(list(lengths)), statistics, strict=True)
    return torch.cat([(part - s.mean.float()) / (s.std().float() + EPSILON) for part, s in parts])


def rows_by_shape(targets: Sequence[Target]) -> dict[Shape, int]:
    """How many targets there are of each shape, in the order of their first one."""
    found: dict[Shape, int] = {}
    for target in targets:
        found[target.shape] = found.get(target.shape, 0) + 1
    return found


def _narrow(term: LowRank) -> LowRank:
    """The same change through no more factors than the matrix has rows or columns."""
    d_out, d_in = term.shape
    if term.rank <= min(d_out, d_in):
        return term
    if d_in <= d_out:
        return LowRank(term.dense(), torch.eye(d_in, device=term.u.device))
    return LowRank(torch.eye(d_out, device=term.u.device), term.dense().T.contiguous())
