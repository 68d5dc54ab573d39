"""Open-vocabulary models: a CLIP's image tower as a classifier, with heads made from the names of classes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from edit_robust.core.editable import Layer, fingerprint
from edit_robust.core.errors import UserError
from edit_robust.core.options import Aside, DataFile
from edit_robust.core.vocabulary import Vocabulary
from edit_robust.models.devices import resolve_device
from edit_robust.models.vision.anatomy import Block
from edit_robust.models.vision.checkpoints import clip_weights_in
from edit_robust.models.vision.classifier import Classifier, Line, with_buffers
from edit_robust.models.vision.clip_layers import Part, clip_blocks
from edit_robust.models.vision.clip_loading import ClipSource, Loaded
from edit_robust.models.vision.clip_net import ClipNet
from edit_robust.models.vision.clip_text import TextTower
from edit_robust.models.vision.split import SplitNetwork
from edit_robust.models.vision.usage import UntraceableError, uses_of

Words = tuple[tuple[str, ...], tuple[str, ...]]


class Clip(Classifier):
    """A CLIP of open_clip, or a checkpoint of one. It answers about its own classes, and about any others in words.

    path:        a folder (open_clip's or Hugging Face's), a file of weights (open_clip's or OpenAI's state dict),
                 `builtin:NAME`, `random`, or null: downloaded once.
    name:        open_clip's architecture (ViT-B-32, ViT-B-16-SigLIP); null where the checkpoint tells it.
    pretrained:  open_clip's tag of the weights (openai, laion2b_s34b_b79k); of a file: which weights it holds, which
                 decides on preprocessing and activation.
    quick_gelu:  null: as the checkpoint or the tag says; a file that says nothing needs true or false.
    class_names: the model's own classes: names, or `imagenet`; null: the built-in model's, else ImageNet's.
    templates:   sentences with {} for the name; `imagenet`: OpenAI's 80; null: those that go with `class_names`.
    layers:      auto (mlp.c_proj of every block), or names with wildcards, see `clip_blocks`.
    train_head:  True makes the head a parameter, `head`, for editors that train it. Else it is frozen: none can.
    head_cache:  folder where heads are kept, by the text tower's weights and the words.
    The others are those of `Classifier`. Raises UserError for checkpoints that do not fit, and for words as
    `Vocabulary` does.
    """

    def __init__(
        self,
        path: Literal["random"] | DataFile | None = None,
        name: str | None = None,
        pretrained: str | None = None,
        *,
        quick_gelu: bool | None = None,
        class_names: Literal["imagenet"] | list[str] | None = None,
        templates: Literal["imagenet"] | list[str] | None = None,
        layers: str = "auto",
        dtype: str = "float32",
        device: str = "auto",
        input_size: int | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        interpolation: Literal["bilinear", "bicubic"] | None = None,
        fast: bool = True,
        channels_last: bool = False,
        tf32: bool = False,
        compile: Aside[bool] = False,
        batch_size: int = 64,
        train_head: bool = False,
        head_cache: Aside[str | None] = None,
    ) -> None:
        found = ClipSource(path, name, pretrained, quick_gelu, input_size).load()
        found.clip.to(resolve_device(device)).requires_grad_(False)  # its image tower becomes the network's own
        self.source = replace(found, clip=None)  # the network itself is divided between `net` and `text`
        text = TextTower(found.clip, found.tokenizer, Path(head_cache).expanduser() if head_cache else None)
        classes, sentences = _own_words(found, class_names, templates)
        net = ClipNet(found.clip.visual, text.head(classes, sentences), train_head)
        how = found.preprocessing.changed(None, None, mean, std, interpolation)
        described = {
            "input_size": (3, how.size, how.size), "crop_pct": 1.0, "crop_mode": how.mode, "mean": how.mean,
            "std": how.std, "interpolation": how.interpolation,
        }  # fmt: skip
        net.pretrained_cfg = described  # type: ignore[assignment]
        super().__init__(
            name=found.name, net=net, layers=layers, dtype=dtype, device=device, fast=fast, channels_last=channels_last,
            tf32=tf32, compile=compile, batch_size=batch_size,
        )  # fmt: skip
        self.text, self.quick_gelu, self.classes = text, found.quick_gelu, classes
        self._columns: dict[Words, tuple[int, ...]] = {(classes, sentences): tuple(range(len(classes)))}
        # Weights alone do not tell the activation. The head counts by what it is made from: its last bits may depend on
        # the machine that made it.
        tower = with_buffers(fingerprint(net, self.layers), net.visual)
        about = f"{tower}:quick_gelu={found.quick_gelu}:{text.digest}:{classes}:{sentences}"
        self.base = self.position = hashlib.sha256(about.encode()).hexdigest()[:16]

    def weights_in(self, path: str) -> dict[str, Tensor]:
        """As `Classifier.weights_in`: the image tower's parameters, and the head where that is one."""
        return clip_weights_in(self.net, self.text, next(iter(self._columns)), path, self.name)

    # -- words -------------------------------------------------------------------------------------------------------

    def head(self, class_names: Sequence[str], templates: Sequence[str]) -> Float[Tensor, "classes d"]:
        """The zero-shot head: of each class the mean of its templates' normalised embeddings, normalised, times
        exp(logit_scale), in the model's type and on its device. UserError for words as `Vocabulary` raises it."""
        words = Vocabulary.of(class_names, templates)
        return self.text.head(words.class_names, words.templates).to(self.device, self.dtype)

    def embed(self, x: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n d"]:
        """Features of length 1 of normalised images, with gradients where they are on."""
        out: Tensor = self._net.embed(x)
        return out

    @property
    def head_parameters(self) -> tuple[str, ...]:
        """Names of the parameters that are the head; () where it is frozen."""
        return ("head",) if isinstance(self._net.head, nn.Parameter) else ()

    def columns(self, words: Vocabulary) -> tuple[int, ...]:
        """The places of some classes among the logits of `logits_along`; classes that are new get a head of their own.

        Classes of the model's own names have the model's own head, whatever the templates.
        """
        if words.class_names == self.classes:
            return tuple(range(self.n_classes))
        key = (words.class_names, words.templates)
        if key not in self._columns:
            start = self.n_columns
            self._net.further = torch.cat([self._net.further, self.head(*key)])
            self._columns[key] = tuple(range(start, self.n_columns))
        return self._columns[key]

    @property
    def n_columns(self) -> int:
        """How many logits `logits_along` gives: those of the model's own classes come first."""
        return self.n_classes + len(self._net.further)

    @property
    def _net(self) -> ClipNet:
        assert isinstance(self.net, ClipNet)
        return self.net

    # -- layers ------------------------------------------------------------------------------------------------------

    def _find_blocks(self, net: nn.Module, layers: str) -> tuple[Block, ...]:
        uses = uses_of(net, self._order, self.sample(1), self.name)
        if uses is None:
            raise UntraceableError(self.name)
        return clip_blocks(net, self._order, uses.calls(), layers, self._stored_transposed(net))

    def _stored_transposed(self, net: nn.Module) -> frozenset[str]:
        """open_clip's towers multiply features with `proj` from the right."""
        proj = getattr(net.visual, "proj", None)
        return frozenset({"visual.proj"}) if isinstance(proj, nn.Parameter) and proj.dim() == 2 else frozenset()

    def parameter_names(self, layers: Any) -> list[str]:
        """Names of the parameters of some layers: weight and bias, or all that a layer holds."""
        found: list[str] = []
        for name in layers:
            layer = self.layers[name]
            found += layer.parameters if isinstance(layer, Part) else super().parameter_names([name])
        return found

    def parameters_between(self, first: str | None, last: str | None) -> list[str]:
        """As `Classifier.parameters_between`; layers that are never called count from where their parameters act."""
        return super().parameters_between(self._host(first) if first else None, last)

    def used_once(self, layer: str) -> bool:
        """Whether a layer's module is called once in a forward pass, and nothing else uses its parameters."""
        return not isinstance(self.layers[layer], Part) and super().used_once(layer)

    def split_at(self, module: str) -> SplitNetwork:
        """The network as what runs before a module or layer, and the rest."""
        return super().split_at(self._host(module))

    def _host(self, name: str) -> str:
        """The called module from which the network runs again when a layer changes."""
        layer: Layer | None = self.layers.get(name)
        return layer.host if isinstance(layer, Part) else name

    def logits_along(self, x: Float[Tensor, "n 3 s s"], directions: Sequence[Line]) -> list[list[Float[Tensor, "n c"]]]:
        """As `Classifier.logits_along`, with the logits of every head: one pass of the tower answers all of them."""
        with self._net.every_head():
            return super().logits_along(x, directions)

    def logits_along_each(
        self, x: Float[Tensor, "n 3 s s"], several: Sequence[Sequence[Line]]
    ) -> Iterator[tuple[int, list[list[Float[Tensor, "n c"]]]]]:
        """As `Classifier.logits_along_each`, with the logits of every head."""
        each = super().logits_along_each(x, several)
        while True:
            with self._net.every_head():
                found = next(each, None)
            if found is None:
                return
            yield found


def _own_words(
    found: Loaded, names: Literal["imagenet"] | list[str] | None, templates: Literal["imagenet"] | list[str] | None
) -> Words:
    """The classes and templates of the model's own head.

    ImageNet's names are OpenAI's, in which "missile" and "sunglasses" each stand twice, as published.
    """
    if names is None and found.words is not None:
        if templates is None:
            return found.words
        names = list(found.words[0])
    given = _imagenet()[1] if templates in (None, "imagenet") else templates
    if isinstance(given, str):
        raise UserError(f"model.templates={given} must be a list of sentences with {{}}, or imagenet")
    assert given is not None
    if names is None or names == "imagenet":
        Vocabulary.of(["one", "two"], given)  # refuses templates without {}
        return _imagenet()[0], tuple(given)
    if isinstance(names, str):
        raise UserError(f"model.class_names={names} must be a list of names, or imagenet")
    words = Vocabulary.of(names, given)
    return words.class_names, words.templates


def _imagenet() -> Words:
    """The 1000 names and 80 templates with which OpenAI asked its models about ImageNet."""
    import open_clip

    return tuple(open_clip.IMAGENET_CLASSNAMES), tuple(t("{}") for t in open_clip.OPENAI_IMAGENET_TEMPLATES)
