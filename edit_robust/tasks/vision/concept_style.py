"""Concept-style pairs on ImageNet: a concept, such as road, in another style, such as snow, in many classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from edit_robust.core.data import ImageRequest, Request
from edit_robust.core.errors import UserError, nearest
from edit_robust.core.image_files import EXTENSIONS, read_image
from edit_robust.core.images import ImageSet, Pixels, Triples
from edit_robust.core.options import DataFile
from edit_robust.tasks.selection import check_counts
from edit_robust.tasks.vision.natural import Originals
from edit_robust.tasks.vision.photographs import search_requests
from edit_robust.tasks.vision.segments import (
    Segments,
    Split,
    array_segments,
    folder_segments,
    paper_split,
    read_annotations,
)
from edit_robust.tasks.vision.textures import Lazy, fitted, paste, read_textures

RELEASE = "https://github.com/MadryLab/EditingClassifiers/releases/download/v1"


class ConceptStyle:
    """One edit a pair of concept and style: x' = x (1 - m) + stylised m, with the labels of x.

    original:      ImageNet's validation set: a folder of wnid folders, a .tar or .zip of them, or a .csv file.
    segmentations: a folder with one file a concept, concept_..._<concept>.pt (or .npz) as EditingClassifiers releases
                   them, or one folder <concept>/ of masks, each named <wnid>_<file>.png.
    styles:        a folder with <style>.pt, <style>.npz, an image or a folder of images: a style's variants.
    stylised:      whole images in the style, <style>/<variant>/img_<idx>.png, as EditingClassifiers' stylize makes
                   them; None: the style's images are pasted as textures.
    annotations:   concept_<concept>_<number>.json files: the classes ("class_<index>": "yes") to use a concept in.
    pairs:         "all", or names such as road-snowy_ground.
    n_train, rho, s_train, n_search, leak_free: see `paper_split`. n_variants: style variants to use (None: all).
    n_edit:        validation images an edit, drawn with `seed` (None: all).
    The others are those of `Originals`.
    """

    gives: ClassVar[type[Request]] = ImageRequest
    needs: ClassVar[str] = (
        "ImageNet's validation set (task.original=FOLDER of wnid folders), EditingClassifiers' segmentations "
        f"(task.segmentations=FOLDER, from {RELEASE}/segmentations.tar.gz) and styles (task.styles=FOLDER, from "
        f"{RELEASE}/styles.tar.gz)"
    )

    def __init__(
        self,
        original: DataFile | None,
        segmentations: DataFile | None,
        styles: DataFile | None,
        name: str = "concept-style",
        stylised: DataFile | None = None,
        annotations: DataFile | None = None,
        pairs: str | list[str] = "all",
        classes: Literal["imagenet"] | DataFile | list[str] | None = "imagenet",
        n_train: int = 10,
        rho: float = 0.5,
        s_train: int = 1,
        n_search: int = 5,
        n_edit: int | None = None,
        n_variants: int | None = None,
        leak_free: bool = True,
        n_original: int | None = 5000,
        moments: DataFile | None = None,
        n_moments: int = 512,
        natural: dict[str, DataFile | None] | None = None,
        n_natural: int | None = None,
        seed: int = 0,
    ) -> None:
        places = {"original": original, "segmentations": segmentations, "styles": styles}
        if missing := [f"task.{k}" for k, v in places.items() if not v]:
            raise UserError(f"{', '.join(missing)} must be given: the task needs {self.needs}")
        check_counts(0, n_train=n_train, s_train=s_train, n_edit=n_edit, n_variants=n_variants)
        if not 0 < rho <= 1:
            raise UserError(f"task.rho={rho} must be more than 0 and at most 1")
        if n_search < 0:
            raise UserError(f"task.n_search={n_search} must be 0 or more")
        self.name, self.pairs, self.leak_free, self.seed = name, pairs, leak_free, seed
        self.n_train, self.rho, self.s_train, self.n_search = n_train, rho, s_train, n_search
        self.n_edit, self.n_variants = n_edit, n_variants
        self._segmentations, self._styles = Path(str(segmentations)).expanduser(), Path(str(styles)).expanduser()
        self._stylised = None if stylised is None else Path(stylised).expanduser()
        self._annotations = None if annotations is None else Path(annotations).expanduser()
        self.originals = Originals(str(original), classes, n_original, moments, n_moments, natural, n_natural, seed)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the model's classes."""
        names = self.originals.class_names
        return None if names is None else names.names

    # -- what is there ---------------------------------------------------------------------------------------------

    @cached_property
    def _concepts(self) -> dict[str, Path]:
        """concept -> its file or folder of segmentations."""
        root = _folder(self._segmentations, "task.segmentations", f"unpack {RELEASE}/segmentations.tar.gz there")
        found: dict[str, Path] = {}
        for path in sorted(p for p in root.rglob("*") if p.suffix in (".pt", ".npz")):
            concept = re.sub(r"^concept_(ImageNet_)?((COCO|LVIS)_)?", "", path.stem)
            if concept in found:
                raise UserError(
                    f"task.segmentations={root}: {found[concept]} and {path} are both of {concept}; "
                    "name the folder that holds one of them"
                )
            found[concept] = path
        if not found:
            found = {p.name: p for p in sorted(root.iterdir()) if p.is_dir()}
        if not found:
            raise UserError(f"task.segmentations={root} holds neither .pt or .npz files nor folders of masks")
        return found

    @cached_property
    def _style_files(self) -> dict[str, Path]:
        """style -> its file or folder."""
        root = _folder(self._styles, "task.styles", f"unpack {RELEASE}/styles.tar.gz there")
        kinds = (".pt", ".npz", *EXTENSIONS)
        found = {p.stem: p for p in sorted(root.iterdir()) if p.is_dir() or p.suffix.lower() in kinds}
        if not found:
            raise UserError(f"task.styles={root} holds no styles: files <style>.pt, images, or folders of images")
        return found

    @cached_property
    def _chosen(self) -> list[tuple[str, str]]:
        """The (concept, style) pairs asked for."""
        every = {f"{c}-{s}": (c, s) for c, s in product(sorted(self._concepts), sorted(self._style_files))}
        names = list(every) if self.pairs == "all" else [self.pairs] if isinstance(self.pairs, str) else self.pairs
        for name in names:
            if name not in every:
                raise UserError(f"task.pairs: there is no pair {name!r}; {nearest(name, every, 'concept-style pairs')}")
        return [every[name] for name in dict.fromkeys(names)]

    @cached_property
    def _segments(self) -> dict[str, Segments]:
        """concept -> its segmentations, in the classes that the annotations allow."""
        return {concept: self._read(concept) for concept in dict.fromkeys(c for c, _ in self._chosen)}

    def _read(self, concept: str) -> Segments:
        path, names = self._concepts[concept], self.originals.class_names
        if path.is_dir():
            found = folder_segments(path, self.originals.every)
        else:
            found = array_segments(path, self.originals.every, len(names) if names is not None else 1 << 30)
        allowed = self._allowed(concept)
        keep = [i for i, y in enumerate(found.labels) if allowed is None or y in allowed]
        if not keep:
            raise UserError(f"concept {concept}: the annotations allow none of the classes that have images")
        return Segments(
            tuple(found.ids[i] for i in keep),
            tuple(found.labels[i] for i in keep),
            tuple(found.index[i] for i in keep),
            lambda i: found.image(keep[i]),
            lambda i: found.mask(keep[i]),
        )

    def _allowed(self, concept: str) -> set[int] | None:
        """Classes that a person marked as fit for a concept; None: there are no annotations."""
        if self._annotations is None:
            return None
        root = self._annotations
        files = [root] if root.is_file() else sorted(root.rglob("*.json")) if root.is_dir() else []
        by_concept = {re.sub(r"^concept_|_\d+$", "", p.stem): p for p in files}
        if concept not in by_concept:
            near = nearest(concept, by_concept, "annotated concepts")
            raise UserError(f"task.annotations={root}: there is no concept_{concept}_*.json; {near}")
        return read_annotations(by_concept[concept])

    # -- what is asked ---------------------------------------------------------------------------------------------

    @cached_property
    def _textures(self) -> dict[str, list[Pixels]]:
        """style -> its images; read only for styles that are pasted."""
        return {
            s: read_textures(self._style_files[s], "task.styles") for s in dict.fromkeys(s for _, s in self._chosen)
        }

    def _variants(self, style: str) -> list[Path] | None:
        """Folders of stylised images, one a variant; None: textures are pasted."""
        if self._stylised is None:
            return None
        root = _folder(self._stylised, "task.stylised", "it holds <style>/<variant>/img_<idx>.png")
        place = next((p for p in (root / style, root / "ImageNet" / style) if p.is_dir()), None)
        folders = [] if place is None else sorted((p for p in place.iterdir() if p.is_dir()), key=_numbered)
        if not folders:
            raise UserError(
                f"task.stylised={root} has no folder {style}/0 of images img_<idx>.png in the style {style}"
            )
        return folders

    def _n_variants(self, style: str) -> int:
        folders = self._variants(style)
        there = len(self._textures[style]) if folders is None else len(folders)
        used = min(there, self.n_variants or there)
        if self.s_train > used:
            raise UserError(f"task.s_train={self.s_train}: the style {style} has {used} variants to use")
        return used

    def _edited(self, concept: str, style: str, i: int, variant: int) -> Pixels:
        """x' of the i-th image of a concept."""
        segments, folders = self._segments[concept], self._variants(style)
        clean, mask = segments.image(i), segments.mask(i)
        if folders is None:
            return paste(clean, fitted(self._textures[style][variant], clean.shape[:2]), mask)
        k = segments.index[i]
        if k < 0:
            raise UserError(f"{self._concepts[concept]} has no idx: which stylised image belongs to which is unknown")
        names = [folders[variant] / f"img_{k:05d}.png", folders[variant] / f"img_{k}.png"]
        cover = read_image(next((p for p in names if p.is_file()), names[1]))
        if cover.shape != clean.shape:
            raise UserError(
                f"{folders[variant]}/img_{k}.png and the segmented image differ in size; both must be alike"
            )
        return paste(clean, cover, mask)

    def _split(self, concept: str, style: str) -> Split:
        labels, n = self._segments[concept].labels, self._n_variants(style)
        try:
            found = paper_split(
                labels, n, self.n_train, self.rho, self.s_train, self.n_search, self.leak_free, self.seed
            )
        except ValueError as error:
            raise UserError(
                f"concept {concept}: no class has {self.n_train / self.rho:g} images (n_train / rho), the largest has "
                f"{error}; lower task.n_train, or raise task.rho"
            ) from error
        if not found.val:
            raise UserError(
                f"concept {concept}: all {len(labels)} images are used up before validation; lower task.rho"
            )
        return found

    def _triples(self, concept: str, style: str, rows: Sequence[tuple[int, int]]) -> Triples:
        segments = self._segments[concept]
        return Triples(
            ids=tuple(f"{segments.ids[i]}@{style}-{v}" for i, v in rows),
            clean=Lazy(len(rows), lambda k: segments.image(rows[k][0])),
            edited=Lazy(len(rows), lambda k: self._edited(concept, style, *rows[k])),
            labels=np.array([segments.labels[i] for i, _ in rows], dtype=np.int64),
            masks=Lazy(len(rows), lambda k: segments.mask(rows[k][0])),
        )

    def requests(self) -> list[ImageRequest]:
        """One edit a pair, in the order of their names or of `pairs`."""
        found = []
        for concept, style in self._chosen:
            split = self._split(concept, style)
            search = self._triples(concept, style, split.search)
            name, train = f"{concept}-{style}", self._triples(concept, style, split.train)
            validation = partial(self._validation, name, concept, style)
            found.append(
                ImageRequest(name, train, None, search=search, validation=validation, concept=concept, style=style)
            )
        return found

    def training_requests(self) -> list[ImageRequest]:
        """The search pairs of `requests()`, which share no picture with the pairs to edit with or to judge by."""
        return search_requests(self.requests())

    def _validation(self, name: str, concept: str, style: str) -> ImageSet:
        every = self._split(concept, style).val
        some = np.random.default_rng(self.seed).permutation(len(every))[: self.n_edit]
        rows = [every[i] for i in np.sort(some)]
        pairs = self._triples(concept, style, rows)
        return ImageSet(
            "edit", pairs.ids, pairs.labels, pairs.edited.__getitem__, request=name,
            source="stylised" if self._stylised else "texture paste", clean=pairs.clean.__getitem__,
        )  # fmt: skip

    def image_sets(self, requests: Sequence[ImageRequest]) -> list[ImageSet]:
        """The original task's validation images, an edit set a request, and the natural shifts."""
        edits = [self._validation(r.id, r.concept, r.style) for r in requests]
        return [self.originals.validation(), *edits, *self.originals.natural_sets()]

    def moment_images(self) -> ImageSet:
        """Images of the original task for second moments (see `Originals.moment_images`)."""
        return self.originals.moment_images()

    def reference_accuracies(self) -> list[dict[str, Any]] | None:
        """None: accuracies of reference models are not part of the package."""
        return None


def _folder(path: Path, option: str, remedy: str) -> Path:
    if not path.is_dir():
        raise UserError(f"{option}={path}: there is no such folder; {remedy}")
    return path


def _numbered(path: Path) -> tuple[int, str]:
    return (int(path.name), "") if path.name.isdigit() else (1 << 30, path.name)
