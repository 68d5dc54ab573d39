"""What models offer, by method. Measures and editors name the methods they need; nobody asks what kind a model is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from edit_robust.core.data import Example
from edit_robust.core.delta import Delta
from edit_robust.core.editable import Editable, Layer
from edit_robust.core.errors import UserError
from edit_robust.core.images import Pixels
from edit_robust.core.work import ShowProgress

if TYPE_CHECKING:
    from edit_robust.core.data import Scores as Answers


class Model(Editable):
    """What every model has: a name, a place, and layers that can be edited, counted from 0.

    useful_threads: as many as its operations keep busy; None: any number.
    """

    useful_threads: int | None = None
    name: str
    device: torch.device
    dtype: torch.dtype
    progress: ShowProgress

    @property
    def n_layers(self) -> int:
        """How many blocks have a layer that can be edited."""
        return len(self.layers)

    def layer_at(self, index: int) -> Layer:
        """The layer of block `index` (negative counts from the end). UserError for one that the model does not have."""
        n = self.n_layers
        if not -n <= index < n:
            raise UserError(f"layer.index={index} does not exist: {self.name} has layers 0 to {n - 1}")
        return list(self.layers.values())[index]


class Scorer(Protocol):
    """Questions made ready to be asked again and again while only some parameters change."""

    def score(self, which: Sequence[int] | None = None) -> Answers:
        """Scores of all examples, or of those at the indices `which`, in that order."""
        ...


class Scores(Protocol):
    """A model that tells how likely the choices of a question are."""

    @property
    def text(self) -> Any:
        """The tokenizer: `encode(text)` gives token ids."""
        ...

    def scorer(self, examples: Sequence[Example], changes: Sequence[str] = ()) -> Scorer:
        """The questions made ready; `changes` are the parameters that may change between two times of asking."""
        ...

    def score(self, examples: Sequence[Example]) -> Answers:
        """Log-probabilities [n, k] of every example's choices, at the present weights."""
        ...


@dataclass(frozen=True)
class Generated:
    """Text that a model wrote.

    tokens: how many it took, with those of a stop text.   ended: whether the text ended by itself, at a stop text or an
    end-of-text token; else it was cut off.
    """

    text: str
    tokens: int
    ended: bool


class Generates(Protocol):
    """A model that writes text."""

    def generate(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        *,
        prefix: str = "",
        sample: bool = False,
        top_k: int | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        stop: Sequence[str] | None = None,
        batch_size: int | None = None,
        max_length: int | None = None,
    ) -> list[str]:
        """What follows prefix + prompt, a text a prompt: greedily, or drawn with a passed generator."""
        ...

    def write(self, prompts: Sequence[str], max_new_tokens: int, **options: Any) -> list[Generated]:
        """The same, with how long each text is and whether it ended by itself; options are those of `generate`."""
        ...


@dataclass(frozen=True)
class Said:
    """What a model says after n prompts, and how likely each of up to k given answers is there.

    texts:  what it says, greedily.            logp: mean log-probability per token of each answer (nats), [n, k].
    hits:   share of the answer's tokens that are the argmax under teacher forcing, [n, k].
    tokens: number of tokens of each answer, [n, k]; 0 and NaN where there is none.
    """

    texts: tuple[str, ...]
    logp: np.ndarray
    hits: np.ndarray
    tokens: np.ndarray


class Asks(Protocol):
    """Prompts made ready to be asked again and again while only some parameters change."""

    def ask(self) -> Said:
        """What the model says at the present weights."""
        ...


class AnswersFewShot(Protocol):
    """A model that answers many prompts with a common beginning."""

    name: str
    max_tokens: int
    cache_gb: float

    @property
    def text(self) -> Any:
        """The tokenizer: `encode(text)` gives token ids."""
        ...

    def few_shot(
        self,
        prompts: Sequence[str],
        options: Sequence[Sequence[str]],
        tokens: int,
        *,
        prefix: str = "",
        changes: Sequence[str] = (),
        cache_gb: float | None = None,
    ) -> Asks:
        """Prompts behind a prefix made ready, while the model is unedited."""
        ...


class HarnessModel(Generates, Protocol):
    """A language model that lm-evaluation-harness can ask."""

    name: str
    max_tokens: int

    @property
    def text(self) -> Any:
        """The tokenizer."""
        ...

    def scorer_of_tokens(
        self, examples: Sequence[Example], encoded: Sequence[Sequence[tuple[list[int], int]]], changes: Sequence[str]
    ) -> Scorer:
        """Questions that come as token ids, one sequence a choice, with how many of them belong to the prompt."""
        ...


class Traces(Protocol):
    """A model that shows what its projections are given."""

    def trace(
        self, rows: Sequence[Sequence[int]], positions: Sequence[int], layers: Sequence[str]
    ) -> dict[str, Float[Tensor, "rows d_in"]]:
        """Inputs of some projections at one position of each sequence of token ids, by layer name."""
        ...


class LogitsAlong(Protocol):
    """A model that classifies images, at many places on the way to an edited model at once."""

    name: str
    size: int
    n_classes: int
    batch_size: int

    @property
    def cropping(self) -> str:
        """What `crop` does, in words: "resize 256 (bilinear), crop 224"."""
        ...

    def crop(self, image: Pixels) -> UInt8[np.ndarray, "size size 3"]:
        """The model's own resizing and centre crop, before normalisation."""
        ...

    def crop_mask(self, mask: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "size size"]:
        """The same geometry for a mask."""
        ...

    def normalise(self, pixels: UInt8[np.ndarray, "n size size 3"]) -> Float[Tensor, "n 3 size size"]:
        """Cropped images as the network takes them."""
        ...

    def logits_along(
        self, x: Float[Tensor, "n 3 size size"], directions: Sequence[tuple[Delta, Sequence[float]]]
    ) -> list[list[Float[Tensor, "n c"]]]:
        """Logits at the present weights + alpha * delta, for every delta and each of its alphas."""
        ...

    def judge(
        self,
        logits: Float[Tensor, "m n c"],
        target: np.ndarray,
        classes: tuple[int, ...] | None,
        before: np.ndarray | Literal["first"] | None = None,
        answers: bool = False,
    ) -> Any:
        """Several models' verdicts on the same images, see `models.vision.judging`: which are right, the loss, images
        gained and lost."""
        ...

    def at_base(self, base: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """Inside the block the named parameters have the given values; afterwards they are as before, to the bit."""
        ...


@runtime_checkable
class ReadsNames(Protocol):
    """An open-vocabulary model of images, such as CLIP: its head is made from names of classes."""

    def head(self, class_names: Sequence[str], templates: Sequence[str]) -> Float[Tensor, "classes d"]:
        """The zero-shot head: of each class the mean of its templates' normalised embeddings, normalised, times
        exp(logit_scale). Made with the text tower, which edits of the image tower leave alone."""
        ...

    def embed(self, x: Float[Tensor, "n 3 size size"]) -> Float[Tensor, "n d"]:
        """Normalised embeddings of normalised images at the present weights, with gradients where they are on.
        `embed(x) @ head.T` are logits."""
        ...
