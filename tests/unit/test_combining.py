"""Several changes made into one, by hand: task arithmetic, TIES, LiNeS; and the walk that combines edits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_nets import TinyTask, tiny_classifier
from torch import Tensor

from edit_robust.core import Delta, Dense, LowRank, UserError
from edit_robust.core.combining import depths, lines, task_arithmetic, ties
from edit_robust.core.work import Workspace
from edit_robust.editors.vision.one_layer import OneLayer
from edit_robust.editors.vision.paint import Paint
from edit_robust.trajectories import Combine, Ledger


def delta(**terms: list[list[float]]) -> Delta:
    return Delta({n: Dense(torch.tensor(m)) for n, m in terms.items()}, "base")


def of(d: Delta) -> dict[str, list[list[float]]]:
    return {n: t.dense().tolist() for n, t in d.terms.items()}


def test_task_arithmetic_is_a_sum() -> None:
    found = task_arithmetic([delta(a=[[1.0, 2.0]]), delta(a=[[-3.0, 1.0]], b=[[4.0]]), delta(b=[[0.5]])])
    assert of(found) == {"a": [[-2.0, 3.0]], "b": [[4.5]]} and found.base == "base"
    small = LowRank(torch.ones(8, 1), torch.ones(8, 1))
    assert isinstance(task_arithmetic([Delta({"w": small}, ""), Delta({"w": small}, "")]).terms["w"], LowRank)
    for wrong in ([], [delta(a=[[1.0]]), Delta({}, "other")]):
        with pytest.raises(UserError, match="combine"):
            task_arithmetic(wrong)


def test_ties_by_hand() -> None:
    """Half of four elements are kept: 3, -4 of the first and 5, 2 of the second (across parameters)."""
    one, two = delta(a=[[3.0, -4.0, 0.5]], b=[[1.0]]), delta(a=[[-5.0, -1.0, 0.1]], b=[[2.0]])
    # a0: 3 and -5 disagree, the sum is negative: -5 alone.  a1: -4 alone.  a2: nothing is left.  b: 2 alone.
    assert of(ties([one, two], 0.5)) == {"a": [[-5.0, -4.0, 0.0]], "b": [[2.0]]}
    # all elements kept: a0 -5, a1 mean of -4 and -1, a2 mean of .5 and .1, b mean of 1 and 2.
    whole = of(ties([one, two], 1.0))
    assert whole["a"][0] == pytest.approx([-5.0, -2.5, 0.3]) and whole["b"] == [[1.5]]
    assert of(ties([one], 1.0)) == of(one), "a single change is left as it is"
    assert of(ties([one, one.scale(-1.0)], 1.0)) == {"a": [[0.0] * 3], "b": [[0.0]]}, "no sign is elected"
    for density in (0.0, 1.5):
        with pytest.raises(UserError, match="density"):
            ties([one], density)


def test_lines_scales_by_depth() -> None:
    names = ["stem.weight", "blocks.0.a", "blocks.1.a", "blocks.2.a", "norm.weight"]
    deep = depths(names, ["blocks.0.", "blocks.1.", "blocks.2."], ["blocks.2.a", "norm.weight"])
    assert deep == dict(zip(names, [0.0, 0.0, 0.5, 1.0, 1.0], strict=True))
    change = Delta({n: Dense(torch.ones(1, 1)) for n in names}, "base")
    found = [t.dense().item() for t in lines(change, deep, 0.2).terms.values()]
    assert found == pytest.approx([0.2, 0.2, 0.6, 1.0, 1.0])
    assert of(lines(change, deep, 1.0)) == of(change)


@pytest.mark.parametrize(
    ("kind", "last"), [("vit", "norm.weight"), ("tower", "proj"), ("resnet", "layer4.0.conv2.weight")]
)
def test_a_model_tells_how_deep_its_parameters_lie(kind: str, last: str) -> None:
    m = tiny_classifier(kind)
    names = m.parameters_between(None, None)
    found = m.depths(names)
    assert set(found) == set(names) and found[last] == 1.0 and min(found.values()) == 0.0
    first = {"vit": "patch_embed.proj.weight", "tower": "conv1.weight", "resnet": "conv1.weight"}[kind]
    assert found[first] == 0.0
    layers = [found[layer.weight_name] for layer in m.layers.values()]
    assert layers == [i / (len(layers) - 1) for i in range(len(layers))]


class Memory(Ledger):
    """Keeps nothing: every edit is made."""

    def measured(self, step: int) -> bool:
        return False

    def independent(self, steps: Any, make: Any) -> Any:
        assert list(steps) == [1, 2]
        return make()


@pytest.mark.parametrize(
    "options", [{}, {"method": "ties", "density": 0.5}, {"depth_low": 0.5}, {"method": "ties", "depth_low": 0.0}]
)
def test_the_walk_combines_edits_of_the_unedited_model(options: dict[str, Any], tmp_path: Path) -> None:
    m, task = tiny_classifier("vit"), TinyTask()
    editor = Paint(lr=1e-3, warmup=1, epochs=2, batch_size=2)
    state = editor.prepare(m, [m.layer_at(1).name], task, Workspace(tmp_path))
    requests, names = task.requests(), state.changes(m)
    made = [e.delta for e in editor.edit_each(m, requests, state)]
    wanted = ties(made, options.get("density", 0.2)) if "method" in options else task_arithmetic(made)
    wanted = lines(wanted, m.depths(names), options["depth_low"]) if "depth_low" in options else wanted
    before = {n: p.clone() for n, p in m.net.state_dict().items()}
    trajectory = Combine(alphas=[0.0, 0.5, 1.0, 1.3], **options)
    seen: list[tuple[float, Tensor]] = []
    for point in trajectory.walk(m, editor, state, requests, Memory()):
        seen.append((point.alpha, torch.cat([m.param(n).reshape(-1) for n in names])))
        assert [s.name for s in point.scopes] == ["final" if point.step else "unedited"]
        if point.step:
            assert point.step in range(3, 7) and point.n_edits == 2
    start = seen[0][1]
    change = torch.cat([wanted.terms[n].dense().reshape(-1) for n in names])
    assert len(seen) == trajectory.points(2) == 5 and torch.equal(seen[1][1], start)
    for alpha, weights in seen[1:]:
        assert torch.allclose(weights, start + alpha * change, atol=1e-7)
    assert all(torch.equal(p, before[n]) for n, p in m.net.state_dict().items())


def test_a_refused_edit_adds_nothing(tmp_path: Path) -> None:
    m, task = tiny_classifier("vgg"), TinyTask()
    editor = OneLayer(lr=1e38, warmup=0)
    state = editor.prepare(m, [m.layer_at(1).name], task, Workspace(tmp_path))
    points = list(Combine(alphas=[1.0]).walk(m, editor, state, task.requests(), Memory()))
    assert len(points) == 2 and points[1].terms == {}
    for wrong in ({"density": 0.0}, {"depth_low": float("nan")}, {"alphas": []}, {"alphas": [float("nan")]}):
        with pytest.raises(UserError, match="trajectory"):
            Combine(**wrong)  # type: ignore[arg-type]


def test_lines_of_a_single_edit_scale_it_by_depth(tmp_path: Path) -> None:
    """LiNeS along alpha of one edit: what a first block learnt is walked half as far as what the last one did."""
    m, task = tiny_classifier("vit"), TinyTask(n=1)
    editor = Paint(lr=1e-3, warmup=1, epochs=2, batch_size=2)
    state = editor.prepare(m, [m.layer_at(1).name], task, Workspace(tmp_path))
    (request,), names = task.requests(), state.changes(m)
    made = editor.edit(m, [request], state).delta
    deep, before = m.depths(names), {n: m.param(n).clone() for n in names}

    class One(Memory):
        def independent(self, steps: Any, make: Any) -> Any:
            return make()

    for method in ("task-arithmetic", "ties"):
        walk = Combine(method=method, density=1.0, alphas=[0.5, 1.0], depth_low=0.5)  # type: ignore[arg-type]
        seen = 0
        for point in walk.walk(m, editor, state, [request], One()):
            seen += 1
            for n in names if point.step else ():
                change = made.terms[n].dense().reshape(before[n].shape)
                wanted = before[n] + point.alpha * (0.5 + 0.5 * deep[n]) * change
                assert torch.allclose(m.param(n), wanted, atol=1e-6), (method, n)
        assert seen == 3 and all(torch.equal(m.param(n), before[n]) for n in names)
