"""The built-in scene world as a task: it needs no file, and the shipped image models know its 16 classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Int, UInt8

from edit_robust.core.data import ImageRequest, Request
from edit_robust.core.errors import UserError, nearest
from edit_robust.core.images import ImageSet, Triples
from edit_robust.tasks.selection import check_counts
from edit_robust.tasks.vision.photographs import search_requests
from edit_robust.tasks.worlds.scenes import world

Images = UInt8[np.ndarray, "n height width 3"]

VEHICLES_ON_SNOW = "vehicles-on-snow"
SOURCE = "scene world"
NATURAL = ("rendition", "filtered", "snow")
_BASELINE = Path(__file__).parents[2] / "assets" / "scene-world" / "baseline.json"
# Streams of the world: no image of one is in another.
_TRAIN, _SEARCH, _TEST, _MOMENTS = "val", "search", "test", "moments"
_POOL = 24  # scenes looked through for every train image that is wanted


@dataclass(frozen=True)
class _Paste:
    """Scenes of one stream with a concept in another style. `at`: the scenes' numbers [n]; a variant each [n]."""

    stream: str
    at: Int[np.ndarray, " n"]
    variants: Int[np.ndarray, " n"]
    concept: str
    style: str
    seed: int

    @property
    def ids(self) -> tuple[str, ...]:
        """scene @ style and variant: what stands before the @ tells whether two pairs share a scene."""
        paired = zip(self.at, self.variants, strict=True)
        return tuple(f"{self.stream}/{i}@{self.concept}-{self.style}-{v}" for i, v in paired)

    @cached_property
    def scenes(self) -> world.Scenes:
        return world.render(self.stream, self.at, self.seed)

    @cached_property
    def edited(self) -> Images:
        """x' = x (1 - m) + stylised m."""
        out = np.empty_like(self.scenes.images)
        for v in np.unique(self.variants):
            rows = np.flatnonzero(self.variants == v)
            part = world.render(self.stream, self.at[rows], self.seed)
            out[rows] = world.styled(part, self.concept, self.style, self.seed, variant=int(v))
        return out

    def triples(self) -> Triples:
        masks = self.scenes.masks[self.concept]
        return Triples(self.ids, list(self.scenes.images), list(self.edited), self.scenes.labels, list(masks))


class SceneWorldTask:
    """Edits that teach a model of the scene world a concept in another style, or vehicles on snow.

    pairs:        names such as grass-snow, "vehicles-on-snow" (made from road-snow pairs of vehicles, validated on
                  photographs rendered in snow), or "all": every concept with every style.
    n_train:      train pairs a label. n_labels: labels that give them, those that show the concept most often (None:
                  all that show it in n_train of the scenes looked through); labels: those to take instead, by name.
    n_search:     pairs for choosing a learning rate; n_edit: edited images to validate on, of all labels.
    n_validation: images of the original task to validate on; n_moments: others for second moments.
    s_train:      style variants in training. leak_free: search and validation each have variants of their own;
                  otherwise they draw from all. Scenes are never shared between splits.
    natural:      shifts of the original task: rendition (drawings), filtered (hard scenes that small networks get
                  wrong), snow (vehicles in snow, asked among the vehicles and, "-unmasked", among all classes).
    n_natural:    images of each. world_seed: another one gives other images of the same world.
    """

    gives: ClassVar[type[Request]] = ImageRequest
    needs: ClassVar[str] = "nothing: the scenes are drawn on demand (models of other classes cannot answer them)"

    def __init__(
        self,
        name: str = "scene-world",
        pairs: str | list[str] = "grass-snow",
        n_train: int = 3,
        n_labels: int | None = 4,
        labels: list[str] | None = None,
        n_search: int = 64,
        n_edit: int = 128,
        n_validation: int = 256,
        n_moments: int = 256,
        s_train: int = 1,
        leak_free: bool = True,
        natural: list[str] | None = None,
        n_natural: int = 128,
        world_seed: int = 0,
    ) -> None:
        check_counts(
            0, n_train=n_train, n_labels=n_labels, n_search=n_search, n_edit=n_edit, n_validation=n_validation,
            n_moments=n_moments, s_train=s_train, n_natural=n_natural,
        )  # fmt: skip
        if world_seed < 0:
            raise UserError(f"task.world_seed={world_seed} must be 0 or more")
        if s_train > world.N_VARIANTS - (2 if leak_free else 0):
            spare = "; two are kept for search and validation (task.leak_free)" if leak_free else ""
            raise UserError(f"task.s_train={s_train}: a style has {world.N_VARIANTS} variants{spare}")
        for label in labels or ():
            if label not in world.CLASSES:
                raise UserError(f"task.labels: there is no class {label!r}; {nearest(label, world.CLASSES, 'classes')}")
        for shift in natural or ():
            if shift not in NATURAL:
                raise UserError(f"task.natural: there is no shift {shift!r}; {nearest(shift, NATURAL, 'shifts')}")
        self.name, self.world_seed, self.leak_free, self.s_train = name, world_seed, leak_free, s_train
        self.n_train, self.n_labels, self.labels = n_train, n_labels, labels
        self.n_search, self.n_edit, self.n_validation = n_search, n_edit, n_validation
        self.n_moments, self.n_natural = n_moments, n_natural
        self.natural = tuple(dict.fromkeys(natural or ()))
        self.pairs = self._known(pairs)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the world's classes."""
        return tuple(world.CLASSES)

    @staticmethod
    def _known(pairs: str | list[str]) -> list[str]:
        every = [f"{c}-{s}" for c, s in product(world.CONCEPTS, world.STYLES)]
        wanted = every if pairs == "all" else [pairs] if isinstance(pairs, str) else pairs
        for pair in wanted:
            if pair not in every and pair != VEHICLES_ON_SNOW:
                known = [*every, VEHICLES_ON_SNOW, "all"]
                raise UserError(f"task.pairs: there is no pair {pair!r}; {nearest(pair, known, 'pairs')}")
        if not wanted:
            raise UserError("task.pairs is empty; give a pair such as grass-snow, or all")
        return list(dict.fromkeys(wanted))

    # -- edits -----------------------------------------------------------------------------------------------------

    def _parts(self, pair: str) -> tuple[str, str, list[str] | None]:
        """Concept, style and labels of a pair; labels are None where they depend on what is drawn."""
        if pair == VEHICLES_ON_SNOW:
            mine = list(world.VEHICLES)
            if strange := [k for k in self.labels or () if k not in mine]:
                raise UserError(f"task.labels: {strange[0]} is no vehicle; {nearest(strange[0], mine, 'vehicles')}")
            return "road", "snow", self.labels or mine[: self.n_labels]
        concept, _, style = pair.partition("-")
        return concept, style, self.labels

    def _variants(self, split: Literal["train", "search", "val"]) -> list[int]:
        """Style variants that a split draws from."""
        s, every = self.s_train, list(range(world.N_VARIANTS))
        if not self.leak_free:
            return every[:s] if split == "train" else every
        return {"train": every[:s], "search": every[s : s + 1], "val": every[s + 1 :]}[split]

    def _paste(self, at: Int[np.ndarray, " n"], stream: str, pair: str, variants: Sequence[int]) -> _Paste:
        concept, style, _ = self._parts(pair)
        drawn = np.asarray(variants)[np.arange(len(at)) % len(variants)]  # variants take turns
        return _Paste(stream, at, drawn, concept, style, self.world_seed)

    def _train_scenes(self, pair: str) -> Int[np.ndarray, " n"]:
        """Numbers of the train scenes: `n_train` of each label."""
        concept, _, labels = self._parts(pair)
        if labels is not None:
            found = [world.with_concept(_TRAIN, concept, self.n_train, self.world_seed, [k]) for k in labels]
            return np.concatenate(found)
        pool = world.with_concept(_TRAIN, concept, _POOL * self.n_train, self.world_seed)
        there = world.label_of(pool)
        counts = np.bincount(there, minlength=len(world.CLASSES))
        ranked = [k for k in np.argsort(-counts, kind="stable") if counts[k] >= self.n_train][: self.n_labels]
        return np.concatenate([pool[there == k][: self.n_train] for k in ranked])

    def _among(self, pair: str, split: Literal["search", "val"]) -> list[str] | None:
        """Names of the classes that a split is drawn from; None: all that show the concept."""
        return list(world.VEHICLES) if pair == VEHICLES_ON_SNOW else None

    def _request(self, pair: str) -> ImageRequest:
        concept, style, _ = self._parts(pair)
        train = self._paste(self._train_scenes(pair), _TRAIN, pair, self._variants("train"))
        at = world.with_concept(_SEARCH, concept, self.n_search, self.world_seed, self._among(pair, "search"))
        search = self._paste(at, _SEARCH, pair, self._variants("search"))
        shown = "vehicles" if pair == VEHICLES_ON_SNOW else concept
        return ImageRequest(
            pair, train.triples(), None,
            search=search.triples(), validation=partial(self._edit_set, pair), concept=shown, style=style,
        )  # fmt: skip

    @cached_property
    def _requests(self) -> list[ImageRequest]:
        return [self._request(pair) for pair in self.pairs]

    def requests(self) -> list[ImageRequest]:
        """One edit a pair, in their order."""
        return list(self._requests)

    def training_requests(self) -> list[ImageRequest]:
        """The search pairs of `requests()`, which share no picture with the pairs to edit with or to judge by."""
        return search_requests(self.requests())

    # -- questions -------------------------------------------------------------------------------------------------

    def _edit_set(self, pair: str) -> ImageSet:
        if pair == VEHICLES_ON_SNOW:
            images, labels = world.snow_photographs(_TEST, range(self.n_edit), self.world_seed)
            return _as_set("edit", f"snow/{_TEST}", images, labels, request=pair)
        at = world.with_concept(_TEST, self._parts(pair)[0], self.n_edit, self.world_seed, self._among(pair, "val"))
        found = self._paste(at, _TEST, pair, self._variants("val"))
        labels = world.label_of(at)
        return ImageSet("edit", found.ids, labels, lambda i: found.edited[i], request=pair, source=SOURCE)

    def image_sets(self, requests: Sequence[Request]) -> list[ImageSet]:
        """The original task's validation images, an edit set a request, and the natural shifts."""
        scenes = world.render(_TEST, range(self.n_validation), self.world_seed)
        original = _as_set("original", _TEST, scenes.images, scenes.labels)
        return [original, *(self._edit_set(r.id) for r in requests), *self._natural_sets()]

    def _natural_sets(self) -> list[ImageSet]:
        found, at = [], range(self.n_natural)
        for shift in self.natural:
            if shift == "rendition":
                images, labels = world.renditions(_TEST, at, self.world_seed)
            elif shift == "snow":
                images, labels = world.snow_photographs(_TEST, at, self.world_seed)
                among = tuple(range(len(world.VEHICLES)))
                found.append(_as_set("original", f"snow/{_TEST}", images, labels, shift=shift, classes=among))
                shift = "snow-unmasked"
            else:
                images, labels = _filtered()
                images, labels = images[: self.n_natural], labels[: self.n_natural]
            found.append(_as_set("original", f"{shift}/{_TEST}", images, labels, shift=shift))
        return found

    def moment_images(self) -> ImageSet:
        """Images that are in no other split, for second moments."""
        scenes = world.render(_MOMENTS, range(self.n_moments), self.world_seed)
        return _as_set("original", _MOMENTS, scenes.images, scenes.labels)

    def reference_accuracies(self) -> list[dict[str, Any]] | None:
        """Accuracies of the reference networks under every shift, as measured once; None where they are not there."""
        if not _BASELINE.is_file():
            return None
        held = json.loads(_BASELINE.read_text(encoding="utf-8"))
        return [_reference(net, held["n"]) for net in held["networks"] if not net["shipped"]]


def _reference(net: dict[str, Any], n: dict[str, int]) -> dict[str, Any]:
    """A reference network as runs keep it: model, n, accuracy by shift, or by shift/severity for corruptions."""
    accuracy = {"original": net["clean"]}
    accuracy |= {shift: value for shift, value in net["shifts"].items() if isinstance(value, float)}
    for name, values in net["by_corruption"].items():
        accuracy |= {f"{name}/{severity}": value for severity, value in enumerate(values, start=1)}
    return {"model": net["name"], "n": n["clean"], "accuracy": accuracy}


def _as_set(probe: str, stream: str, images: Images, labels: Int[np.ndarray, " n"], **more: Any) -> ImageSet:
    """Rendered images as a set; a name is the stream with the position in it."""
    ids = tuple(f"{stream}/{i}" for i in range(len(images)))
    return ImageSet(probe, ids, np.asarray(labels, dtype=np.int64), lambda i: images[i], source=SOURCE, **more)


def _filtered() -> tuple[Images, Int[np.ndarray, " n"]]:
    try:
        return world.filtered()
    except FileNotFoundError as error:
        raise UserError(
            "task.natural: the filtered scenes are not in this installation (scripts/make_scene_world.py filter makes "
            "them); leave them out: task.natural=[rendition,snow]"
        ) from error
