"""What holds of every image task: its constructor is its schema, and reading starts when it is asked for."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml
from beartype.door import is_bearable

from edit_robust.core.data import ImageRequest
from edit_robust.tasks.vision.concept_style import ConceptStyle
from edit_robust.tasks.vision.pairs import Pairs
from edit_robust.tasks.vision.scene_world import SceneWorldTask
from edit_robust.tasks.vision.vehicles_on_snow import VehiclesOnSnow

ROOT = Path(__file__).parents[2]


TASKS = (Pairs, VehiclesOnSnow, ConceptStyle, SceneWorldTask)


@pytest.mark.parametrize("task", TASKS)
def test_constructor_is_a_typed_schema(task: type) -> None:
    signature, hints = inspect.signature(task.__init__), get_type_hints(task.__init__)
    for name, parameter in signature.parameters.items():
        if name == "self":
            continue
        assert parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        assert parameter.default is parameter.empty or is_bearable(parameter.default, hints[name])
        assert not is_bearable(object(), hints[name])
    assert task.gives is ImageRequest and "\n" not in task.needs  # type: ignore[attr-defined]
    for method in ("requests", "training_requests", "image_sets", "moment_images", "reference_accuracies", "classes"):
        assert hasattr(task, method)


@pytest.mark.parametrize(
    ("name", "task"), zip(("pairs", "vehicles-on-snow", "concept-style", "scene-world"), TASKS, strict=True)
)
def test_the_config_holds_every_option_with_its_default(name: str, task: type) -> None:
    held = yaml.safe_load((ROOT / "conf" / "task" / f"{name}.yaml").read_text())
    assert held.pop("defaults") == [{"override /measure@_global_.measure": "images"}]
    assert held.pop("_target_") == f"{task.__module__}.{task.__name__}"
    parameters = dict(inspect.signature(task.__init__).parameters)
    parameters.pop("self")
    assert list(held) and set(held) == set(parameters)
    assert held["name"] == name
    for option, value in held.items():
        default = parameters[option].default
        if option != "natural" and default is not inspect.Parameter.empty:
            assert value == default or option == "n_original", option


def test_init_reads_nothing() -> None:
    Pairs("absent.csv", "absent")
    VehiclesOnSnow("absent", "absent", pairs="absent.csv")
    ConceptStyle("absent", "absent", "absent")
    SceneWorldTask()


@pytest.mark.parametrize("task", TASKS)
def test_slow_libraries_are_imported_inside_functions(task: type) -> None:
    folder = Path(inspect.getfile(task)).parent
    for path in folder.glob("*.py"):
        top = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.Import | ast.ImportFrom)]
        names = {alias.name for n in top for alias in n.names} | {getattr(n, "module", None) for n in top}
        assert not {str(n).partition(".")[0] for n in names} & {"timm", "torchvision", "transformers"}
