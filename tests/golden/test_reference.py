"""Our editors against two others: recorded outputs of the reference implementation (kmeng01/memit), of which a part
travels with these tests (README.md), and a plain implementation of the same algorithms that travels with them, too."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.golden import WHOLE
from helpers.reference import Reference
from helpers.small import TEMPLATES, as_examples, as_request, relative, statistics_file, templates_file

from edit_robust.core import Delta, Request
from edit_robust.core.work import Workspace
from edit_robust.editors.language.fine_tune import FineTune
from edit_robust.editors.language.helpers.moments import second_moments
from edit_robust.editors.language.memit import Memit
from edit_robust.editors.language.rome import Rome
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.tasks.language.counterfact import Counterfact

pytestmark = pytest.mark.slow

PROMPTS = ("rewrite_prompts", "paraphrase_prompts", "neighborhood_prompts")
RIGHT = np.array([0] * 3 + [1] * 10)  # neighbours shall keep their own answer


class Recorded:
    """The recorded runs, and our model, questions and settings for them."""

    def __init__(self, path: Path, work: Workspace) -> None:
        self.path, self.work = path, work
        self.expected = json.loads((path / "expected.json").read_text())
        self.records = json.loads((path / "requests.json").read_text())
        self.requests = [as_request(r) for r in self.records]
        self.model = CausalLM(str(path / "model"), device="cpu")
        self.examples = [e for r in self.records for e in as_examples(r)]
        self.scorers: dict[int, Any] = {}
        self.contexts = str(path / "contexts.json")
        self.mom2 = str(path / "second_moment.npz")

    def start(self, editor: Any, layers: Sequence[int]) -> Any:
        return editor.prepare(self.model, [self.model.layer_at(i).name for i in layers], None, self.work)

    def compare(self, i: int, post: dict[str, Any], lowest: int) -> list[str]:
        """What the edited model says to request i's questions against the record; near-ties are listed, not judged."""
        if lowest not in self.scorers:
            raise KeyError("make the scorer on the unedited model first")
        ours = self.scorers[lowest].score(range(13 * i, 13 * i + 13))
        theirs = np.array([nll for p in PROMPTS for nll in post[f"{p}_probs"]])
        assert np.abs(-ours.logp - theirs).max() < 2e-2, f"request {i}: NLL\n{-ours.logp}\n{theirs}"
        near = np.abs(theirs[:, 0] - theirs[:, 1]) < 2e-2
        differ = (ours.logp[:, 0] > ours.logp[:, 1]) != (theirs[:, 0] < theirs[:, 1])
        ties = [f"request {i}, prompt {j}: {theirs[j]}" for j in np.flatnonzero(near)]
        assert not (differ & ~near).any(), f"request {i}: success differs at {np.flatnonzero(differ)}; near-ties {ties}"
        said = ours.hits[np.arange(13), RIGHT] == 1
        recorded = np.array([c for p in PROMPTS for c in post[f"{p}_correct"]])
        # with more than half of the probability an answer is the argmax; below that a near-tie may flip one
        sure = theirs[np.arange(13), RIGHT] < 0.65
        odd = [f"{j}: {theirs[j]}" for j in np.flatnonzero(said != recorded)]
        assert not ((said != recorded) & sure).any() and len(odd) <= 1, f"request {i}: argmax differs at {odd}"
        return ties

    def ask_from(self, lowest: int) -> None:
        if lowest not in self.scorers:
            names = self.model.parameter_names([self.model.layer_at(lowest).name])
            self.scorers[lowest] = self.model.scorer(self.examples, names)


PLACES = [
    "carried",
    *([pytest.param("whole", marks=pytest.mark.thorough)] if (WHOLE / "expected.json").is_file() else []),
]


@pytest.fixture(scope="module", params=PLACES)
def recorded(request: pytest.FixtureRequest, golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """What travels with the tests and, where it lies beside the repository, all that was recorded."""
    place = golden if request.param == "carried" else WHOLE
    return Recorded(place, Workspace(tmp_path_factory.mktemp("recorded")))


def rank1(factors: Any, case: int, parameter: str) -> torch.Tensor:
    """A recorded update as [d_out, d_in]; recorded ones are Conv1D's, left over d_in."""
    return torch.from_numpy(np.outer(factors[f"{case}:{parameter}:right"], factors[f"{case}:{parameter}:left"]))


def test_golden_requests(golden: Path) -> None:
    task = Counterfact(path=str(golden / "requests.json"))
    assert [r.id for r in task.requests()] == [str(i) for i in range(30)]
    assert [len(p.examples) for p in task.probes(task.requests())] == [30, 60, 300]


def test_unedited_model_answers_as_recorded(recorded: Recorded) -> None:
    recorded.ask_from(0)
    assert len(recorded.expected["unedited"]) == 30
    for i in range(30):
        recorded.compare(i, recorded.expected["unedited"][i], 0)


@pytest.mark.slow
def test_second_moments_agree(recorded: Recorded) -> None:
    model = recorded.model
    rows = np.load(recorded.path / "corpus_tokens.npy")
    names = [model.layer_at(i).name for i in range(3)]
    sums = dict.fromkeys(names, 0.0)
    for part in np.split(rows, 8):
        seen = model.run_to(2, model.tokens(part.tolist()), names)
        for n in names:
            k = seen[n].flatten(0, 1).double()
            sums[n] = sums[n] + k.T @ k
    with np.load(recorded.mom2) as kept:
        for i, n in enumerate(names):
            assert relative(sums[n] / rows.size, torch.from_numpy(kept[f"layer{i}"])) < 1e-4
    if (some := recorded.path / "second_moment_rows.npz").is_file():  # every 64th row, as the reference gave it
        with np.load(some) as kept:
            for i, n in enumerate(names):
                assert relative(sums[n][::64] / rows.size, torch.from_numpy(kept[f"layer{i}"])) < 1e-4


def test_second_moments_from_text(recorded: Recorded) -> None:
    """The whole way, by documents: token rows that survive decoding and encoding."""
    model, rows = recorded.model, np.load(recorded.path / "corpus_tokens.npy").tolist()
    texts = [model.text.decode(r) for r in rows]
    same = [(t, r) for t, r in zip(texts, rows, strict=True) if model.text.encode(t) == r]
    assert len(same) > 20, "hardly any row survives the round trip"
    name = model.layer_at(1).name
    task = SimpleNamespace(corpus=lambda: [t for t, _ in same])
    ours = second_moments(model, [name], task, "computed", "task", 10_000, recorded.work)[name]  # type: ignore[arg-type]
    keys = model.run_to(1, model.tokens([r for _, r in same]), [name])[name].flatten(0, 1).double()
    assert relative(ours, keys.T @ keys / len(keys)) < 1e-6


@pytest.mark.parametrize(
    ("run", "layer", "contexts", "n"),
    [
        ("rome_layer0_bare", 0, False, 30),
        pytest.param("rome_layer0_contexts", 0, True, 8, marks=pytest.mark.slow),
        pytest.param("rome_layer1_contexts", 1, True, 8, marks=pytest.mark.slow),
    ],
)
def test_rome_is_the_recorded_one(recorded: Recorded, run: str, layer: int, contexts: bool, n: int) -> None:
    editor = Rome(mom2=recorded.mom2, context_templates=recorded.contexts if contexts else "bare")
    recorded.ask_from(layer)
    state = recorded.start(editor, [layer])
    requests = recorded.requests[: min(n, len(recorded.expected[run]))]
    assert len(requests) >= 8
    with np.load(recorded.path / f"{run}_rank1.npz") as factors:
        for i, edit in enumerate(editor.edit_each(recorded.model, requests, state)):
            want = recorded.expected[run][i]
            for parameter, norm in want["delta_norm"].items():
                term = edit.delta.terms[parameter]
                assert relative(term.dense(), rank1(factors, want["case_id"], parameter)) < 1e-2
                assert term.norm() == pytest.approx(norm, rel=1e-3)
            assert set(edit.delta.terms) == set(want["delta_norm"])
            with recorded.model.patched(edit.delta):
                recorded.compare(i, want["post"], layer)


@pytest.mark.slow
def test_memit_is_the_recorded_one(recorded: Recorded) -> None:
    editor = Memit(
        mom2=recorded.mom2, context_templates=recorded.contexts, clamp_norm_factor=2.0, mom2_update_weight=50.0
    )
    recorded.ask_from(0)
    state = recorded.start(editor, [0, 1, 2])
    with np.load(recorded.path / "memit_layers012_rank1.npz") as factors:
        for i, edit in enumerate(editor.edit_each(recorded.model, recorded.requests[:8], state)):
            want = recorded.expected["memit_layers012"][i]
            for parameter in want["delta_norm"]:
                ours = edit.delta.terms[parameter].dense()
                assert relative(ours, rank1(factors, want["case_id"], parameter)) < 1e-2
            with recorded.model.patched(edit.delta):
                recorded.compare(i, want["post"], 0)
    batch = recorded.expected["memit_batch20_layers012"]
    edit = editor.edit(recorded.model, recorded.requests[:20], state)
    for parameter, norm in batch["delta_norm"].items():
        assert edit.delta.terms[parameter].norm() == pytest.approx(norm, rel=1e-2)
    with recorded.model.patched(edit.delta):
        for i, post in enumerate(batch["post"]):
            recorded.compare(i, post, 0)


@pytest.mark.slow
def test_fine_tuning_is_the_recorded_one(recorded: Recorded) -> None:
    editor = FineTune(lr=5e-4, num_steps=25, norm_constraint=0.02, objective="prompt_last")
    recorded.ask_from(0)
    state = recorded.start(editor, [0])
    for i in range(8):
        want = recorded.expected["ftc_layer0"][i]
        edit = editor.edit(recorded.model, [recorded.requests[i]], state)
        assert {p: t.norm() for p, t in edit.delta.terms.items()} == pytest.approx(want["delta_norm"], rel=1e-2)
        for parameter, values in want["sv"].items():
            ours = torch.linalg.svdvals(edit.delta.terms[parameter].dense())[: len(values)]
            assert ours.tolist() == pytest.approx(values, rel=1e-2)
        with recorded.model.patched(edit.delta):
            recorded.compare(i, want["post"], 0)


@pytest.mark.slow
def test_edits_on_top_of_each_other(recorded: Recorded) -> None:
    editor = Rome(mom2=recorded.mom2, context_templates="bare")
    recorded.ask_from(0)
    state, model = recorded.start(editor, [0]), recorded.model
    name = model.layer_at(0).name
    with model.held(model.parameter_names([name])) as before:
        assert len(recorded.expected["rome_sequential_layer0_bare"]) >= 10
        for i, want in enumerate(recorded.expected["rome_sequential_layer0_bare"]):
            edit = editor.edit(model, [recorded.requests[i]], state)
            model.add(edit.delta)
            assert model.difference(before).norm() == pytest.approx(want["drift"], rel=2e-3)
            recorded.compare(i, want["post"], 0)


# -- the plain implementation that travels with the tests ----------------------------------------------------------

WHERE = {
    "gpt2": ("transformer.h.{}.mlp.c_proj", "transformer.h.{}", True),
    "gptj": ("transformer.h.{}.mlp.fc_out", "transformer.h.{}", False),
    "llama": ("model.layers.{}.mlp.down_proj", "model.layers.{}", False),
}
FACTS = [
    Request("inside", "On stage {} plays the", "flute", "piano", "Ada Valdoran"),
    Request("long target", "The birthplace of {} is", "New Haven", "Rome", "Greta Mavrost"),
    Request("opening, one token", "{} was born in", "London", "Paris", "Ada"),
]
OPTIONS = {"lr": 0.5, "steps": 8, "kl": 0.0625, "decay": 0.5, "clamp": 3.0}
VALUE: dict[str, Any] = {"v_num_grad_steps": 8, "clamp_norm_factor": 3.0}


@pytest.fixture(scope="module", params=sorted(WHERE))
def pair(
    request: pytest.FixtureRequest, tiny_model: Callable[[str], CausalLM], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    model = tiny_model(request.param)
    folder = tmp_path_factory.mktemp("pair")
    mom2 = statistics_file(folder, model)
    with np.load(mom2) as f:
        moments = {layer.index: torch.from_numpy(f[f"layer{layer.index}"]) for layer in model.layers.values()}
    return SimpleNamespace(
        model=model,
        reference=Reference(model.net, model.text.tokenizer, *WHERE[request.param]),
        moments=moments,
        options={"mom2": str(mom2), "context_templates": str(templates_file(folder)), **VALUE},
        work=Workspace(folder / "cache"),
    )


def fact(r: Request) -> tuple[str, str, str]:
    return r.x, str(r.subject), r.target


def test_the_facts_are_what_they_say(tiny_model: Callable[[str], CausalLM]) -> None:
    text = tiny_model("gpt2").text
    assert len(text.encode(" New Haven")) > 1
    assert len(text.encode(FACTS[2].subject)) == 1 and text.last_of(text.spans([FACTS[2].prompt])[0][1], 3) == 0


@pytest.mark.parametrize("plain", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_rome_is_the_plain_one(pair: Any, plain: bool) -> None:
    editor = Rome(fast=not plain, **pair.options)
    state = editor.prepare(pair.model, [pair.model.layer_at(1).name], None, pair.work)  # type: ignore[arg-type]
    wanted = [FACTS[1]] if plain else FACTS
    for r, edit in zip(wanted, editor.edit_each(pair.model, wanted, state), strict=True):
        want = pair.reference.rome(1, fact(r), TEMPLATES, pair.moments[1], OPTIONS)
        (term,) = edit.delta.terms.values()
        assert relative(term.dense(), want) < 2e-3, r.id


def test_memit_is_the_plain_one(pair: Any) -> None:
    editor = Memit(mom2_update_weight=3.0, **pair.options)
    layers = [0, 1]
    state = editor.prepare(pair.model, [pair.model.layer_at(i).name for i in layers], None, pair.work)  # type: ignore[arg-type]
    groups = [["{}"], TEMPLATES[1:]]
    want = pair.reference.memit(layers, [fact(r) for r in FACTS], groups, pair.moments, 3.0, OPTIONS)
    edit = editor.edit(pair.model, FACTS, state)
    for i, change in zip(layers, want, strict=True):
        term = edit.delta.terms[pair.model.layer_at(i).weight_name]
        assert relative(term.dense(), change) < 2e-3, f"layer {i}"


@pytest.mark.parametrize("objective", ["prompt_last", "target_new"])
def test_fine_tuning_is_the_plain_one(pair: Any, objective: str) -> None:
    editor = FineTune(lr=1e-3, num_steps=6, norm_constraint=4e-3, objective=objective)  # type: ignore[arg-type]
    layer = pair.model.layer_at(1)
    state = editor.prepare(pair.model, [layer.name], None, pair.work)  # type: ignore[arg-type]
    for r in FACTS:
        edit: Delta = editor.edit(pair.model, [r], state).delta
        want = pair.reference.fine_tune(1, fact(r), 1e-3, 6, 4e-3, objective == "prompt_last")
        assert {f"{layer.name}.{n}" for n in want} == set(edit.terms)
        for n, change in want.items():
            ours = edit.terms[f"{layer.name}.{n}"].dense().reshape(change.shape)
            assert relative(ours, change) < 2e-3, (r.id, n)
