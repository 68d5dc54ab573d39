"""What the editors of image classifiers share: the options that all of them have, and the frame of an edit."""

# No `from __future__ import annotations`: the options' types stand in the signatures of all subclasses, where names of
# this file are not known. They must be types here, not text.

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch

from edit_robust.core import Delta, ImageRequest, Request, UserError
from edit_robust.core.work import Workspace
from edit_robust.editors.base import Edit, State, refusal, refuse_nonfinite
from edit_robust.editors.vision.helpers.features import LabelledFeatures, prefix_features
from edit_robust.editors.vision.helpers.options import Optimizer, Select, Training, learning_rates
from edit_robust.editors.vision.helpers.pairs import ImagePairs, image_pairs
from edit_robust.editors.vision.helpers.selection import Selection, selection
from edit_robust.editors.vision.helpers.training import Fit
from edit_robust.models.vision.classifier import Classifier
from edit_robust.models.vision.split import Features, SplitNetwork


@dataclass(frozen=True)
class EditData:
    """The images of one edit, as features where the network is split.

    pairs: (x, x', y).   train: x' with its classes.   selection: what weights are chosen by.
    generator: randomness that depends on the run's seed and the requests alone.
    """

    model: Classifier
    network: SplitNetwork
    pairs: ImagePairs
    train: LabelledFeatures
    selection: Selection
    generator: torch.Generator

    @cached_property
    def clean(self) -> Features:
        """Features of x."""
        return prefix_features(self.model, self.network, self.pairs.clean)


@dataclass(kw_only=True, eq=False)
class ImageEditor(ABC):
    """An editor of image classifiers that changes weights at or around one layer. Its fields are its options.

    name: as runs and figures show it.   layers: the layer to edit, as an index or a word (see `resolve_layers`).
    lr_grid: learning rates that `lr=search` tries; null: 1e-5 to 100.   check_every: steps between two measurements of
    the accuracy by which weights are chosen.   max_drop: prefer changes that cost the clean images of selection at most
    this accuracy; null: the paper's choice.   momentum: of SGD.
    patience: steps after which a learning rate whose accuracy gets no better is given up; null: never, as in the paper,
        which takes 80,000 steps for its eight rates.
    `training`, which subclasses set, says how weights are trained and chosen.
    """

    needs: ClassVar[tuple[str, ...]] = ("see", "block_of")
    takes: ClassVar[type[Request]] = ImageRequest
    batches = True

    name: str
    layers: int | list[int] | str = "auto"
    lr_grid: list[float] | None = None
    check_every: int = 10
    max_drop: float | None = None
    patience: int | None = 100
    momentum: float = 0.9
    training: Training = field(init=False, repr=False)

    def auto_layers(self, n_layers: int) -> list[int]:
        """The middle block: the paper tries them all."""
        return [n_layers // 2]

    @abstractmethod
    def prepare(self, model: Classifier, layers: Sequence[str], task: Any, work: Workspace) -> State[Any]:
        """The layer, what edits need beside it, and the parameters that they may change."""

    @abstractmethod
    def fit(self, data: EditData, state: State[Any]) -> Fit | None:
        """The best change for the images of an edit; None where every learning rate diverges."""

    def seed(self, state: State[Any]) -> int:
        """The run's seed, which `prepare` has kept in the state."""
        return int(state.given)

    def edit_each(self, model: Classifier, requests: Sequence[Request], state: State[Any]) -> list[Edit]:
        """An independent change for each request."""
        return [self.edit(model, [r], state) for r in requests]

    def edit(self, model: Classifier, requests: Sequence[Request], state: State[Any]) -> Edit:
        """One change for all requests; an empty one, marked as refused, where every learning rate diverges."""
        self._refuse_other_classes(model, requests)
        network = model.split_at(model.first_of(state.changes(model)))
        pairs = image_pairs(model, [r.x for r in requests])
        data = EditData(
            model,
            network,
            pairs,
            LabelledFeatures(prefix_features(model, network, pairs.edited), pairs.labels),
            selection(model, network, requests, pairs, self.training),
            generator_for(self.seed(state), requests),
        )
        fit = self.fit(data, state)
        if fit is None:
            info = {"lr": self.training.lrs[0]} if len(self.training.lrs) == 1 else {}
            return refusal(Edit(Delta({}, model.position), [dict(info) for _ in requests]), "diverged")
        return refuse_nonfinite(Edit(Delta(fit.delta.terms, model.position), [fit.info for _ in requests]))

    def _refuse_other_classes(self, model: Classifier, requests: Sequence[Request]) -> None:
        """UserError for requests about other classes than the model's own."""
        for r in requests:
            if isinstance(r, ImageRequest) and r.words is not None and r.words.class_names != model.classes:
                raise UserError(
                    f"{self.name} trains what {model.name} answers about its own classes, and {r.id} is about others; "
                    "give editor=paint or editor=one-layer"
                )


@dataclass(kw_only=True, eq=False)
class TrainedEditor(ImageEditor):
    """An editor that trains for epochs, with a learning rate and a choice of images to choose by.

    lr: a learning rate, or `search` through lr_grid.   max_epochs: passes over the pairs, at most.
    select: images that learning rate and step are chosen by: `search` (the third split), `validation` (the reported
        images, as in the paper), `train`, or `none` (the last step is kept).
    """

    lr: float | Literal["search"] = "search"
    max_epochs: int = 10000
    select: Select = "search"

    def trained(
        self, weight_decay: float, optimizer: Optimizer = "sgd", batch_size: int | None = None, warmup: int = 500
    ) -> Training:
        """How weights are trained, from the shared options and the subclass's own."""
        return Training(
            lrs=learning_rates(self.lr, self.lr_grid),
            epochs=self.max_epochs,
            check_every=self.check_every,
            select=self.select,
            max_drop=self.max_drop,
            patience=self.patience,
            optimizer=optimizer,
            momentum=self.momentum,
            weight_decay=weight_decay,
            batch_size=batch_size,
            warmup=warmup,
        )


def one_layer(name: str, layers: Sequence[str]) -> str:
    """The only layer. Raises UserError where there are several."""
    if len(layers) != 1:
        raise UserError(f"{name} edits at one layer, not {len(layers)}: give one layer.index")
    return layers[0]


def layer_used_once(name: str, model: Classifier, layers: Sequence[str]) -> str:
    """The only layer. Raises UserError where there are several, and for one whose input is not the only one."""
    layer = one_layer(name, layers)
    if not model.used_once(layer):
        raise UserError(
            f"{name} cannot edit {layer} of {model.name}: its weights are used several times in a forward pass; "
            "choose another layer.index, or an editor that trains by gradient descent alone (local-ft)"
        )
    return layer


def generator_for(seed: int, requests: Sequence[Request]) -> torch.Generator:
    """Randomness of an edit: the same whatever was edited before it."""
    text = "\x00".join([str(seed), *(r.id for r in requests)])
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big"))
