"""Vehicles on snow: an edit made from pasted snow, and judged on photographs of vehicles in real snow."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from edit_robust.core.data import ImageRequest, Request
from edit_robust.core.errors import UserError
from edit_robust.core.images import ImageSet, Triples
from edit_robust.core.options import DataFile
from edit_robust.tasks.selection import check_counts
from edit_robust.tasks.vision.folders import Listing, folder_listing
from edit_robust.tasks.vision.natural import Originals
from edit_robust.tasks.vision.pairs import check_masks, check_share, read_pairs, split_rows, triples
from edit_robust.tasks.vision.photographs import ClassNames, imagenet_classes, search_requests
from edit_robust.tasks.vision.segments import Segments, array_segments, table_segments
from edit_robust.tasks.vision.textures import Lazy, fitted, paste, read_textures

REPOSITORY = "https://github.com/MadryLab/EditingClassifiers"


class VehiclesOnSnow:
    """One edit: roads become snow in photographs of vehicles, x' = x (1 - m) + snow m.

    snow:      folder with a folder of photographs a class (or their parent, with test/ in it). A folder is matched to
               the class whose name it is or is a part of ("armytank": "tank, army tank, ...").
    labels:    classes of folders that match none or several: {"carwheel": 479}, an index or a name.
    pairs:     table of training pairs (see `Pairs`); its rows for val are left out.
    originals: instead of `pairs`: photographs with masks of what becomes snow, a .pt or .npz file of imgs, masks and
               labels, or a .csv file with path, label, mask_path.
    textures:  the snow to paste: a .pt file with imgs, an image or a folder of them; photographs take turns.
    n_train:   train pairs, drawn with `seed` (None: all). search_share: share of the photographs kept out of them for
               choosing a learning rate, where the table has no such rows.
    The others are those of `Originals`.

    Without `pairs` and `originals`, the files beside test/ in EditingClassifiers' data/snow are taken:
    train/road*.pt and train/snow_texture.jpg.
    """

    gives: ClassVar[type[Request]] = ImageRequest
    needs: ClassVar[str] = (
        f"task.snow=FOLDER of vehicles on snow (data/snow of {REPOSITORY}), training pairs (task.pairs=PAIRS.csv, or "
        "task.originals=FILE with masks and task.textures=FILE of snow), and ImageNet's validation images "
        "(task.original=FOLDER of wnid folders, or a .csv with path, label)"
    )

    def __init__(
        self,
        snow: DataFile | None,
        original: DataFile | None,
        name: str = "vehicles-on-snow",
        pairs: DataFile | None = None,
        originals: DataFile | None = None,
        textures: DataFile | None = None,
        labels: dict[str, int | str] | None = None,
        classes: Literal["imagenet"] | DataFile | list[str] = "imagenet",
        n_train: int | None = None,
        search_share: float = 0.2,
        n_original: int | None = 5000,
        moments: DataFile | None = None,
        n_moments: int = 512,
        natural: dict[str, DataFile | None] | None = None,
        n_natural: int | None = None,
        seed: int = 0,
    ) -> None:
        if missing := [f"task.{k}" for k, v in {"snow": snow, "original": original}.items() if not v]:
            raise UserError(f"{' and '.join(missing)} must be given: the task needs {self.needs}")
        if pairs is not None and originals is not None:
            raise UserError("task.pairs and task.originals both name training pairs; give one of them")
        check_counts(0, n_train=n_train)
        check_share("search_share", search_share)
        self.name, self.seed, self.n_train, self.search_share = name, seed, n_train, search_share
        self._snow, self._labels = Path(str(snow)).expanduser(), labels or {}
        self._pairs, self._given, self._textures = pairs, originals, textures
        self.originals = Originals(str(original), classes, n_original, moments, n_moments, natural, n_natural, seed)

    @cached_property
    def _names(self) -> ClassNames:
        return self.originals.class_names or imagenet_classes()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the model's classes."""
        return self._names.names

    @cached_property
    def _photographs(self) -> Listing:
        """Photographs of real snow with their labels."""
        root = self._snow / "test" if (self._snow / "test").is_dir() else self._snow
        return folder_listing(root, self._names, "task.snow", self._class_of)

    def _class_of(self, folder: str, where: str) -> int:
        if folder in self._labels:
            return self._names.index(str(self._labels[folder]), f"task.labels.{folder}")
        try:
            return self._names.index_within(folder, where)
        except UserError as error:
            raise UserError(f"{error}; or say it with +task.labels.{folder}=INDEX") from error

    # -- training pairs --------------------------------------------------------------------------------------------

    @cached_property
    def _splits(self) -> tuple[Triples, Triples]:
        """Pairs to train on, and pairs to choose a learning rate on."""
        return self._from_pairs(self._pairs) if self._pairs is not None else self._pasted()

    def _from_pairs(self, path: str) -> tuple[Triples, Triples]:
        rows = read_pairs(path, self._names, "task.pairs")
        check_masks(rows)
        rows = split_rows(rows, self.search_share, 0.0, self.seed)
        train = [row for row in rows if row.split == "train"]
        if not train:
            raise UserError(f"{path}: no pair is left for train: every row is for val or search")
        drawn = np.sort(np.random.default_rng(self.seed).permutation(len(train))[: self.n_train])
        return triples([train[i] for i in drawn]), triples([row for row in rows if row.split == "search"])

    def _sources(self) -> tuple[Path, Path]:
        """The photographs with masks, and the snow to paste."""
        released = sorted((self._snow / "train").glob("road*.pt"))
        originals = self._given or (str(released[0]) if released else None)
        texture = self._snow / "train" / "snow_texture.jpg"
        textures = self._textures or (str(texture) if texture.is_file() else None)
        missing = {"task.originals": originals, "task.textures": textures}
        if absent := [k for k, v in missing.items() if v is None]:
            raise UserError(
                f"{' and '.join(absent)} must be given, or task.pairs=PAIRS.csv: photographs with masks of the road "
                f"(EditingClassifiers' train/road*.pt beside {self._snow}/test, or a .csv with path, label, mask_path) "
                "and an image of snow (train/snow_texture.jpg)"
            )
        return Path(str(originals)).expanduser(), Path(str(textures)).expanduser()

    def _pasted(self) -> tuple[Triples, Triples]:
        originals, textures = self._sources()
        if originals.suffix.lower() == ".csv":
            segments = table_segments(originals, self._names, "task.originals")
        elif originals.suffix in (".pt", ".npz"):
            segments = array_segments(originals, None, len(self._names))
        else:
            raise UserError(f"task.originals={originals}: the name must end in .pt, .npz or .csv")
        order = np.random.default_rng(self.seed).permutation(len(segments))
        n_search = 0 if self.search_share == 0 else min(max(round(len(order) * self.search_share), 1), len(order) - 1)
        parts = order[n_search:][: self.n_train], order[:n_search]
        train, search = (self._paste(segments, np.sort(part).tolist(), textures) for part in parts)
        return train, search

    def _paste(self, segments: Segments, rows: Sequence[int], textures: Path) -> Triples:
        snow = read_textures(textures, "task.textures")

        def edited(k: int) -> Any:
            clean = segments.image(rows[k])
            return paste(clean, fitted(snow[rows[k] % len(snow)], clean.shape[:2]), segments.mask(rows[k]))

        return Triples(
            ids=tuple(f"{segments.ids[i]}@snow-{i % len(snow)}" for i in rows),
            clean=Lazy(len(rows), lambda k: segments.image(rows[k])),
            edited=Lazy(len(rows), edited),
            labels=np.array([segments.labels[i] for i in rows], dtype=np.int64),
            masks=Lazy(len(rows), lambda k: segments.mask(rows[k])),
        )

    # -- the protocol ----------------------------------------------------------------------------------------------

    def requests(self) -> list[ImageRequest]:
        """The one edit; its search pairs are none where the table leaves none or one photograph for training."""
        train, search = self._splits
        validation = partial(self._snowy, self.name)
        return [
            ImageRequest(self.name, train, None, search=search, validation=validation, concept="vehicles", style="snow")
        ]

    def training_requests(self) -> list[ImageRequest]:
        """The search pairs of `requests()`, which share no picture with the pairs to edit with or to judge by."""
        return search_requests(self.requests())

    def _snowy(self, request: str) -> ImageSet:
        return self._photographs.images("edit", request=request, source="snow photographs")

    def image_sets(self, requests: Sequence[Request]) -> list[ImageSet]:
        """The original task's validation images, the photographs of real snow, and the natural shifts."""
        edits = [self._snowy(r.id) for r in requests]
        return [self.originals.validation(), *edits, *self.originals.natural_sets()]

    def moment_images(self) -> ImageSet:
        """Images of the original task for second moments (see `Originals.moment_images`)."""
        return self.originals.moment_images()

    def reference_accuracies(self) -> list[dict[str, Any]] | None:
        """None: accuracies of reference models are not part of the package."""
        return None
