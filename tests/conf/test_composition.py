"""Every config composes, binds to its constructor, and is merged in the order that the README promises."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from edit_robust.config.check import check, resolved
from edit_robust.config.compose import choices, compose, conf_dir, jobs, own_nodes
from edit_robust.config.identity import run_id
from edit_robust.config.nodes import bind, target_of
from edit_robust.core.data import ImageRequest
from edit_robust.shifts.text.names import ALL as TEXT_SHIFTS

GROUPS = ("model", "task", "editor", "layer", "trajectory", "tracker", "corruption")
NEEDED = {
    "model=hf": ["model.path=FOLDER"],
    "model=timm": ["model.name=timm"],
    "model=torchvision": ["model.name=torchvision"],
    "model=module": ["model.factory=torchvision.models.resnet18", "model.name=module"],
    "editor=checkpoint": ["editor.path=FOLDER"],
    "task=facts": ["task.path=FILE"],
    "task=mnist": ["task.path=FOLDER"],
    "task=svhn": ["task.path=FOLDER"],
    "task=kitti-distance": ["task.path=FOLDER"],
    "task=image-folder": ["task.path=FOLDER"],
    "task=pairs": ["task.path=FILE", "task.original=FOLDER"],
    "task=vehicles-on-snow": ["task.snow=FOLDER", "task.original=FOLDER"],
    "task=concept-style": ["task.original=FOLDER", "task.segmentations=FOLDER", "task.styles=FOLDER"],
}
#: Shown names of networks are the architectures' own.
ARCHITECTURES = {"vgg16", "vgg16-bn", "resnet18", "resnet50", "vit-b16"}
ARCHITECTURES |= {"clip-vit-b16", "clip-vit-b32", "clip-vit-l14", "open-clip"}
PRESETS = sorted(choices("preset"))
#: Presets that show every editor and every model that has one.
COVERING = {next(p for p in PRESETS if name in p.split("/")) for preset in PRESETS for name in preset.split("/")}
EXPERIMENTS = sorted(choices("experiment"))


def _with_images(group: str, name: str) -> bool:
    """Whether a choice goes with images, by its constructor: composing every choice to find out takes half a minute."""
    if group not in ("model", "task", "editor"):
        return group == "corruption" and name not in ("none", "text", *TEXT_SHIFTS)
    choice = target_of(own_nodes(group, name)[0], group)
    if group == "model":
        return hasattr(choice, "logits_along")
    return (choice.gives if group == "task" else choice.takes) is ImageRequest  # type: ignore[attr-defined]


def _all_choices_once() -> list[list[str]]:
    """Composing takes a quarter of a second: each list has one choice of every group, of words or of images."""
    found = []
    for images in (False, True):
        names = {}
        for g in GROUPS:
            some = [n for n in sorted(choices(g)) if _with_images(g, n) == images]
            names[g] = some or sorted(choices(g))
        if images:
            names["experiment"] = names["preset"] = ["none"]
        found += [
            [f"{g}={n[i % len(n)]}" for g, n in names.items() if g not in ("preset", "experiment")]
            for i in range(max(map(len, names.values())))
        ]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("given", _all_choices_once(), ids=" ".join)
def test_every_choice_composes_and_binds(given: list[str]) -> None:
    values = check(compose([*given, *(more for one in given for more in NEEDED.get(one, []))]))
    for one in given:
        group, _, name = one.partition("=")
        if name != "none" and "name" in values[group] and name not in ARCHITECTURES:
            assert values[group]["name"] == (None if one == "model=hf" else name)


@pytest.mark.parametrize("group", (*GROUPS, "experiment"))
def test_every_file_begins_with_what_it_is(group: str) -> None:
    for name, about in choices(group).items():
        assert about, f"conf/{group}/{name}.yaml has no first line that says what it is"


def test_presets_are_named_after_an_editor_and_a_model() -> None:
    """Hydra skips an optional file that it does not find: a wrong name would never be noticed."""
    assert set(PRESETS) <= {f"{e}/{m}" for e in choices("editor") for m in choices("model")}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(p, marks=[] if p in COVERING else [pytest.mark.thorough]) for p in PRESETS]
)
def test_a_preset_arrives(name: str) -> None:
    """scripts/check_configs.py goes through all of them."""
    editor, _, model = name.partition("/")
    preset = yaml.safe_load((conf_dir() / "preset" / f"{name}.yaml").read_text())
    given = compose([f"editor={editor}", f"model={model}", *NEEDED.get(f"model={model}", [])])
    if same := preset.pop("defaults", None):  # the same as another preset
        (of,) = same
        preset |= yaml.safe_load((conf_dir() / "preset" / f"{of.removesuffix('@_here_')}.yaml").read_text())
    for option, value in preset.items():
        assert given.editor[option] == value, f"{name}: {option} does not arrive"
    bind(resolved(given)["editor"], "editor")


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_in_its_jobs(name: str, request: pytest.FixtureRequest) -> None:
    """The last job of each; scripts/check_configs.py and --thorough go through all of them."""
    said = yaml.safe_load((conf_dir() / "experiment" / f"{name}.yaml").read_text()) or {}
    every = jobs([f"experiment={name}"])
    found = every if request.config.getoption("--thorough") else every[-1:]
    ids = set()
    for job in found:
        values = check(compose(job))
        ids.add(run_id(values))
        for group in set(said) - {"defaults", "hydra"}:
            for option, value in said[group].items() if isinstance(said[group], dict) else ():
                named = re.fullmatch(r"\$\{(\w+)\}", str(value))  # another option's value
                wanted, there = values[named[1]] if named else value, values[group][option]
                assert there == wanted or (isinstance(wanted, dict) and wanted.items() <= there.items())
    assert len(ids) == len(found)


@pytest.fixture
def more(tmp_path: Path) -> Path:
    """A folder of one's own configs: a preset and an experiment."""
    for path, text in {
        "preset/rome/fact-gpt.yaml": "v_lr: 0.125\nlayers: 1\n",
        "experiment/mine.yaml": "# @package _global_\ndefaults:\n  - override /editor: memit\n"
        "seed: 7\ntask:\n  order: 3\n",
        "experiment/swept.yaml": "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n"
        "      editor: rome,memit\n      task.order: 0,1,2\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def test_a_preset_reaches_the_editor_and_the_layer_strategy(more: Path) -> None:
    cfg = compose(config_dir=str(more))
    assert cfg.editor.v_lr == 0.125
    assert cfg.layer.index == 1


def test_a_preset_of_another_pair_does_not(more: Path) -> None:
    assert compose(["editor=p-rome"], str(more)).editor.v_lr == 1.0
    assert compose(["model=gpt2"], str(more)).editor.v_lr == 0.5


def test_the_command_line_beats_the_preset(more: Path) -> None:
    cfg = compose(["editor.v_lr=0.75", "layer.index=2"], str(more))
    assert (cfg.editor.v_lr, cfg.layer.index) == (0.75, 2)


def test_an_experiment_beats_defaults_and_the_command_line_beats_it(more: Path) -> None:
    cfg = compose(["experiment=mine"], str(more))
    assert (cfg.seed, cfg.task.order, cfg.editor.name) == (7, 3, "memit")
    cfg = compose(["experiment=mine", "seed=1", "editor=ft", "task.order=0"], str(more))
    assert (cfg.seed, cfg.task.order, cfg.editor.name) == (1, 0, "ft")


def test_jobs_of_a_sweep_hold_every_value(more: Path) -> None:
    found = jobs(["experiment=swept"], str(more))
    assert {o for job in found for o in job if o.startswith("editor=")} == {"editor=rome", "editor=memit"}
    assert {o for job in found for o in job if "order" in o} == {f"task.order={i}" for i in range(3)}
    assert jobs(["seed=1"]) == [["seed=1"]]


def test_self_comes_first() -> None:
    """Last, it would silently undo what experiments and presets say of the root options."""
    assert yaml.safe_load((conf_dir() / "config.yaml").read_text())["defaults"][0] == "_self_"


PUBLISHED = [
    m for m in sorted(choices("model")) if m not in ("hf", "fact-gpt", "fact-gpt-b") and not _with_images("model", m)
]


@pytest.mark.parametrize("model", PUBLISHED)
def test_a_published_model_is_asked_counterfact_unless_the_command_line_says_otherwise(model: str) -> None:
    assert compose([f"model={model}"]).task.name == "counterfact"
    assert compose([f"model={model}", "task=zsre"]).task.name == "zsre"
    assert compose(["task=zsre", f"model={model}"]).task.name == "zsre"


@pytest.mark.parametrize(
    "given, index", [("0", 0), ("-1", -1), ("[0,1]", [0, 1]), ("last", "last"), ("all", "all"), ("'first'", "first")]
)
def test_layer_index_as_it_is_written(given: str, index: object) -> None:
    assert check(compose([f"layer.index={given}"]))["layer"]["index"] == index


def test_range_and_choice_sweeps_are_spread() -> None:
    assert jobs(["layer.index=range(0,3)"], multirun=True) == [[f"layer.index={i}"] for i in range(3)]
    assert jobs(["editor=choice(rome,ft)"], multirun=True) == [["editor=rome"], ["editor=ft"]]
