"""What an editor may learn from is never what it is judged by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.pictures import NAMES, clean_of, pair_rows, pairs_task, picture, save, segments_file, table
from helpers.records import facts_file, zsre_records
from helpers.tiny import tiny_facts, write_json
from helpers.tiny_nets import TinyTask

from edit_robust.core.data import ImageRequest, TextRequest
from edit_robust.tasks.language.counterfact import Counterfact
from edit_robust.tasks.language.fact_world import FactWorldTask
from edit_robust.tasks.language.facts import Facts
from edit_robust.tasks.language.zsre import Zsre
from edit_robust.tasks.vision.concept_style import ConceptStyle
from edit_robust.tasks.vision.photographs import search_requests
from edit_robust.tasks.vision.scene_world import SceneWorldTask
from edit_robust.tasks.vision.vehicles_on_snow import VehiclesOnSnow

# -- language: by subject --------------------------------------------------------------------------------------------


def counterfact(folder: Path, **options: Any) -> Counterfact:
    """Twelve facts; two of them are about the subject of the first."""
    records = tiny_facts(12)
    for i in (3, 7):
        records[i]["requested_rewrite"]["subject"] = records[0]["requested_rewrite"]["subject"]
    return Counterfact(path=str(write_json(folder / "cf.json", records)), **options)


@pytest.mark.parametrize("order", [0, 2])
@pytest.mark.parametrize("unique", [True, False])
def test_counterfact(tmp_path: Path, order: int, unique: bool) -> None:
    task = counterfact(tmp_path, n_requests=5, order=order, unique_subjects=unique)
    made, training = task.requests(), task.training_requests()
    subjects = {r.subject for r in made}
    assert training and not subjects & {r.subject for r in training}
    every = {r.id: r.subject for r in counterfact(tmp_path, unique_subjects=False).requests()}
    assert [r.id for r in training] == [i for i, subject in every.items() if subject not in subjects]
    assert all(isinstance(r, TextRequest) and r.paraphrases for r in training)


def test_a_file_that_is_used_up_leaves_nothing(tmp_path: Path) -> None:
    assert counterfact(tmp_path).training_requests() == []
    text = "prompt,subject,target_new\nRome is in,Rome,Peru\nRome has,Rome,wine\nOslo is in,Oslo,Chile\n"
    task = Facts(path=facts_file(tmp_path, text), n_requests=1)
    assert [r.subject for r in task.training_requests()] == ["Oslo"]
    task = Zsre(path=str(write_json(tmp_path / "z.json", zsre_records(4))), n_requests=3)
    assert [r.id for r in task.training_requests()] == ["3"]


@pytest.mark.parametrize("single_token", ["late", "none", "only"])
def test_fact_world(single_token: Any) -> None:
    task = FactWorldTask(n_requests=20, order=1, single_token=single_token)
    made, training = task.requests(), task.training_requests()
    facts = dict.fromkeys(task.world.subjects, 0)  # reserved subjects teach nothing, they are for downstream tasks
    for f in task.world.facts:
        if not f.reserved:
            facts[f.subject] += 1
    assert not {r.subject for r in made} & {r.subject for r in training}
    assert not {r.id for r in made} & {r.id for r in training}
    kind = {s for s in facts if single_token == "late" or (s in task.world.single_token_subjects()) == (single_token == "only")}  # fmt: skip # noqa: E501
    assert len(training) == sum(facts[s] for s in kind - {r.subject for r in made})
    assert all(r.target != r.old and len(r.paraphrases) == 2 and r.neighbours for r in training)
    assert len({(r.subject, r.relation) for r in training}) == len(training)


def test_a_fact_is_learnt_from_in_one_way() -> None:
    """Its request is the same whatever else is left out."""
    some, more = (FactWorldTask(n_requests=n, single_token="only").training_requests() for n in (20, 10))
    assert len(more) > len(some) > 0
    assert {r.id: r for r in more}.items() >= {r.id: r for r in some}.items()


def test_every_subject_has_a_request_in_the_whole_fact_world() -> None:
    assert FactWorldTask().training_requests() == []


# -- images: by picture ----------------------------------------------------------------------------------------------


def check(task: Any, n: int) -> None:
    """`n` requests to learn from, none of them with a picture to edit with or to judge by."""
    made, training = task.requests(), task.training_requests()
    assert len(training) == n and all(isinstance(r, ImageRequest) and len(r.x) for r in training)
    assert not {r.id for r in made} & {r.id for r in training}
    judged = {i for s in task.image_sets(made) if s.probe == "edit" for i in s.ids}
    for other in training:
        mine = clean_of(other.x.ids)
        assert mine and not mine & clean_of(judged)
        assert not mine & {i for r in made for i in clean_of(r.x.ids)}
        request = next(r for r in made if other.id.startswith(r.id))
        assert (other.concept, other.style) == (request.concept, request.style)


def test_pairs(tmp_path: Path) -> None:
    rows = pair_rows(tmp_path, 10, 2)
    check(pairs_task(tmp_path, rows, classes=list(NAMES)), 1)
    check(pairs_task(tmp_path, rows, classes=list(NAMES), search_share=0.0), 0)


def test_vehicles_on_snow(tmp_path: Path) -> None:
    save(tmp_path / "snow" / "test" / "tank" / "0.jpg", picture(0))
    rows = pair_rows(tmp_path, 10)
    original = table(tmp_path / "original.csv", [{k: r[k] for k in ("path", "label")} for r in rows])
    given = {"snow": str(tmp_path / "snow"), "original": original, "classes": list(NAMES)}
    check(VehiclesOnSnow(**given, pairs=table(tmp_path / "pairs.csv", rows)), 1)


def test_concept_style(tmp_path: Path) -> None:
    for i in range(12):
        save(tmp_path / "val" / NAMES[i // 4] / f"{i}.png", picture(i, 8, 8))
    order = np.random.default_rng(0).permutation(12)
    segments_file(tmp_path / "seg" / "concept_road.npz", [int(i) // 4 for i in order], order.tolist())
    for style in ("snow", "wood"):
        save(tmp_path / "styles" / style / "a.png", picture(0))
    places = [str(tmp_path / name) for name in ("val", "seg", "styles")]
    check(ConceptStyle(*places, n_train=1, n_search=1, classes=list(NAMES), n_original=4), 2)


def test_a_photograph_of_two_concepts_is_not_learnt_from() -> None:
    """It stands in one concept's search split, and in the other's pairs to edit with."""
    first = replace(TinyTask(1).requests()[0], id="first")
    second = ImageRequest("second", first.search.take([1, 2]), None)
    (training,) = search_requests([first, second])
    assert training.x.ids == (first.search.ids[0], first.search.ids[3])
    assert np.array_equal(training.x.edited[1], first.search.edited[3])
    assert np.array_equal(training.x.mask(0), first.search.mask(0)) and training.x.labels[1] == first.search.labels[3]


def test_scene_world() -> None:
    small = {"n_train": 2, "n_labels": 2, "n_search": 4, "n_edit": 6, "n_validation": 16, "n_moments": 5}
    check(SceneWorldTask(pairs=["grass-snow", "vehicles-on-snow"], **small), 2)
