"""What the editors of image classifiers share: pairs as tensors, the images to choose by, and edits of what was found.

Learning rates and steps are chosen by accuracy on a split of its own unless `select` says otherwise (the paper, arXiv
2303.00046, takes the reported images).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edit_robust.core import Delta, ImageRequest, Request, UserError
from edit_robust.core.images import ImageSet, Triples
from edit_robust.editors.base import Edit, State, refusal, refuse_nonfinite
from edit_robust.models.vision.classifier import Classifier
from edit_robust.models.vision.split import Branch, Spine

if TYPE_CHECKING:
    from edit_robust.editors.vision.helpers.training import Fit, Training

Select = Literal["search", "validation", "train", "none"]
# -- images ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairs:
    """(x, x', y) as the network takes them, and where x and x' differ (1 or 0)."""

    clean: Float[Tensor, "n 3 s s"]
    edited: Float[Tensor, "n 3 s s"]
    labels: Int[Tensor, " n"]
    masks: Float[Tensor, "n 1 s s"]

    def __len__(self) -> int:
        return len(self.labels)


def pairs_of(model: Classifier, triples: Sequence[Triples]) -> Pairs:
    """The pairs of several requests as one set."""
    clean = [image for t in triples for image in t.clean]
    edited = [image for t in triples for image in t.edited]
    labels = torch.tensor([int(y) for t in triples for y in t.labels], dtype=torch.long)
    if not len(labels):
        raise UserError("a request has no pairs to edit with")
    masks = [torch.from_numpy(model.crop_mask(t.mask(i))).float() for t in triples for i in range(len(t))]
    at = model.device
    return Pairs(model.see(clean), model.see(edited), _known(model, labels), torch.stack(masks)[:, None].to(at))


def _known(model: Classifier, labels: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < model.n_classes:
        raise UserError(f"labels go up to {int(labels.max())}, but {model.name} has {model.n_classes} classes")
    return labels.to(model.device)


@dataclass(frozen=True)
class Asked:
    """Images that wait below the first edited module, and the answers that are right."""

    branch: Branch
    labels: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)


def spans(n: int, size: int) -> Iterator[slice]:
    for i in range(0, n, size):
        yield slice(i, min(i + size, n))


@torch.no_grad()
def entered(model: Classifier, spine: Spine, x: Float[Tensor, "n 3 s s"]) -> Branch:
    """Everything below the spine's module, run once."""
    return Branch.cat([spine.enter(x[s]) for s in spans(len(x), model.batch_size)])


def right(logits: Float[Tensor, "*n c"], labels: Int[Tensor, "*n"]) -> Bool[Tensor, "*n"]:
    """True where the answer is right; numbers that are not finite are no answer."""
    return (logits.argmax(-1) == labels) & torch.isfinite(logits).all(-1)


@torch.no_grad()
def accuracy(model: Classifier, spine: Spine, asked: Asked) -> float:
    """Share of right answers at the present weights."""
    parts = spans(len(asked), model.batch_size)
    found = [right(spine.leave(asked.branch.take(s)), asked.labels[s]) for s in parts]
    return float(torch.cat(found).float().mean())


@dataclass(frozen=True)
class Selection:
    """What learning rates and steps are chosen by: accuracy on edited images and, where a drop is limited, on clean
    ones; with the unedited model's accuracies."""

    edited: Asked | None
    clean: Asked | None
    at_start: float = math.nan
    clean_at_start: float = math.nan


def selection(model: Classifier, spine: Spine, requests: Sequence[Request], train: Pairs, how: Training) -> Selection:
    """The images that `select` names, run up to the spine's module."""
    if how.select == "none":
        return Selection(None, None)
    held: list[Triples] = [r.search for r in requests if isinstance(r, ImageRequest) and r.search]
    search = pairs_of(model, held) if held else None
    if how.select == "search" and len(held) < len(requests):
        raise UserError("this task has no third split to choose learning rates by; give editor.select=train")
    beside = search or train
    if how.select == "validation":
        x, labels = _validation(model, requests)
    else:
        chosen = train if how.select == "train" else beside
        x, labels = chosen.edited, chosen.labels
    edited = Asked(entered(model, spine, x), labels)
    clean = None if how.max_drop is None else Asked(entered(model, spine, beside.clean), beside.labels)
    clean_at_start = accuracy(model, spine, clean) if clean else math.nan
    return Selection(edited, clean, accuracy(model, spine, edited), clean_at_start)


def _validation(model: Classifier, requests: Sequence[Request]) -> tuple[Tensor, Tensor]:
    given = [r.validation for r in requests if isinstance(r, ImageRequest) and r.validation is not None]
    sets: list[ImageSet] = [images() for images in given]
    if not sum(len(s) for s in sets):
        raise UserError("this task has no validation images to choose learning rates by; give editor.select=search")
    x = model.see([s.load(i) for s in sets for i in range(len(s))])
    return x, _known(model, torch.tensor([int(y) for s in sets for y in s.labels]))


# -- from a fit to an edit ---------------------------------------------------------------------------------------------


def one_layer(name: str, layers: Sequence[str]) -> str:
    if len(layers) != 1:
        raise UserError(f"{name} edits at one layer, not {len(layers)}: give one layer.index")
    return layers[0]


def generator_for(seed: int, requests: Sequence[Request]) -> torch.Generator:
    """Randomness of an edit: the same whatever was edited before it."""
    text = "\x00".join([str(seed), *(r.id for r in requests)])
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big"))


def as_edit(model: Classifier, requests: Sequence[Request], state: State, fit: Fit | None, how: Training) -> Edit:
    """The edit of the best fit; an empty one marked as refused where there is none."""
    if fit is None:
        info = {"lr": how.lrs[0]} if len(how.lrs) == 1 else {}
        return refusal(Edit(Delta({}, model.position), [dict(info) for _ in requests], state), "diverged")
    delta = Delta(fit.delta.terms, model.position)
    return refuse_nonfinite(Edit(delta, [fit.info for _ in requests], state))
