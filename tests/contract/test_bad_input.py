"""What is wrong is said in one line, with what would have been right, and the program ends with code 2."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.runs import CommandLine, options, override
from helpers.tiny import tiny_facts, write_json

import edit_robust
from edit_robust.config import launch
from edit_robust.core import UserError
from edit_robust.models.language.causal_lm import CausalLM

pytestmark = pytest.mark.slow

Quick = Callable[..., list[str]]
Checkpoint = Callable[[str], Path]

# -- the command line ----------------------------------------------------------------------------------------------

WORDS = [
    ("edtor=rome", "edtor=rome: there is no option 'edtor' to set; did you mean \"editor\"?"),
    ("editor=romee", "there is no editor 'romee'; did you mean \"rome\"?"),
    ("model=gpt3", "there is no model 'gpt3'; did you mean"),
    ("task=counterfacts", 'did you mean "counterfact"?'),
    ("corruption=fogg", "there is no corruption 'fogg'"),
    ("trajectory=sequentiel", 'did you mean "sequential"?'),
    ("experiment=fig999", "there is no experiment 'fig999'"),
    ("tracker=wandbb", 'did you mean "wandb"?'),
    ("editor.v_lrr=1", "editor.v_lrr=1: there is no option 'v_lrr' in editor; did you mean \"v_lr\"?"),
    ("task.n_request=1", 'did you mean "n_requests"?'),
    ("trajectory.evry=1", 'did you mean "every"?'),
    ("layer.indx=1", 'did you mean "index"?'),
    ("sed=1", 'did you mean "seed"?'),
    ("paths.output=x", 'did you mean "outputs"?'),
    ("editor.v_lr=fast", "editor.v_lr=fast is a text; a number is needed"),
    ("editor.v_lr=true", "editor.v_lr=True is true or false; a number is needed"),
    ("editor.v_num_grad_steps=2.5", "editor.v_num_grad_steps=2.5 is a number; a whole number is needed"),
    ("editor.context_templates=3", "a text is needed"),
    ("seed=x", "seed=x is a text; a whole number is needed"),
    ("seed=null", "seed=None is null; a whole number is needed"),
    ("device=0", "device=0 is a whole number; a text is needed"),
    ("force=maybe", "true or false is needed"),
    ("task.n_requests=ten", "task.n_requests=ten is a text; a whole number or null is needed"),
    ("task.single_token=latee", 'task.single_token=latee: did you mean "late"?'),
    ("editor.keys=men", 'did you mean "mean"?'),
    ("task.n_requests=0", "task.n_requests=0 must be at least 1"),
    ("task.n_requests=-3", "task.n_requests=-3 must be at least 1"),
    ("task.order=-1", "task.order=-1"),
    ("layer.index=foo", "layer.index=foo is neither a number nor a word"),
    ("layer.index=lsat", 'did you mean "last"?'),
    ("layer.index=[]", "layer.index=[] must be a whole number"),
    ("layer.index=1.5", "layer.index=1.5 must be a whole number"),
    ("layer.index=null", "layer.index=None must be a whole number"),
    ("trajectory.every=0", "trajectory.every=0 must be at least 1"),
    ("trajectory.batch_size=0", "trajectory.batch_size=0 must be at least 1"),
    ("model=hf", "model.path must be given"),
    ("task=facts", "task.path must be given"),
    ("+editor.color=red", "editor.color is no option of Rome"),
    ("editor._target_=edit_robust.editors.language.rome.Romee", "cannot be imported"),
    ("text_tokens=0", "text_tokens=0 must be at least 1"),
    ("seed=[1", "seed=[1 cannot be read"),
    ("trajectory=single trajectory.chunk=0", "trajectory.chunk=0 must be at least 1"),
]


@pytest.mark.parametrize("given, expected", WORDS, ids=[w for w, _ in WORDS])
def test_a_wrong_word(say: CommandLine, given: str, expected: str) -> None:
    said = say("check", *given.split())
    assert said.code == 2 and said.out == ""
    assert expected in said.line and said.line.startswith("edit-robust: ")


def test_wrong_words_when_running(say: CommandLine) -> None:
    for given in (["edtor=rome"], ["-m", "editor=rome,romee"], ["trajectory=interpolate", "trajectory.alphas=[]"]):
        assert (said := say("run", *given)).code == 2 and said.line.startswith("edit-robust: ")
    assert not list(Path.cwd().iterdir())


VALUES = [
    ("rome", "editor.v_num_grad_steps=0"),
    ("rome", "editor.v_lr=0"),
    ("rome", "editor.v_lr=-1"),
    ("rome", "editor.clamp_norm_factor=0"),
    ("rome", "editor.v_weight_decay=-1"),
    ("rome", "editor.kl_factor=-1"),
    ("rome", "editor.mom2_n_samples=0"),
    ("rome", "editor.value_batch=0"),
    ("memit", "editor.v_num_grad_steps=-1"),
    ("memit", "editor.mom2_n_samples=-5"),
    ("memit", "editor.mom2_update_weight=-1"),
    ("ft", "editor.num_steps=0"),
    ("ft", "editor.lr=0"),
    ("ft", "editor.lr=1e38"),
    ("ft", "editor.norm_constraint=0"),
    ("ft", "editor.batch_size=0"),
    ("ft", "editor.weight_decay=-1"),
]


@pytest.mark.parametrize("editor, given", VALUES)
def test_a_number_that_makes_no_sense(editor: str, given: str, say: CommandLine) -> None:
    said = say("check", f"editor={editor}", given)
    assert said.code == 2 and said.line.startswith(f"edit-robust: {given.partition('=')[0]}=")


def test_verbs(say: CommandLine) -> None:
    for args, expected in (
        (["rnu"], "Did you mean 'run'?"),
        (["figure", "nothing"], "no run 'nothing' in outputs/runs"),
        (["report", "nothing"], "no run 'nothing'"),
        (["export", "nothing", "there"], "no run 'nothing'"),
        (["figure"], "there are no complete runs in outputs/runs"),
        (["ls", "modles"], 'did you mean "models"?'),
        (["ls"], "Missing argument"),
        (["figure", "--onyl", "x"], "No such option"),
    ):
        said = say(*args)
        assert said.code == 2 and expected in said.line, args


@pytest.mark.parametrize("what", ["models", "editors", "tasks", "layers", "corruptions", "experiments", "runs"])
def test_ls(say: CommandLine, what: str) -> None:
    said = say("ls", what)
    assert said.code == 0 and said.err == "" and said.out.strip()
    if what == "tasks":
        assert "target_new" in said.out and "requested_rewrite" in said.out


# -- files ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tiny_model: Callable[[str], CausalLM]) -> Iterator[CausalLM]:
    """The command line gets the model that is loaded already."""
    model, build = tiny_model("gpt2"), launch.build
    monkeypatch.setattr(launch, "build", lambda node, path: model if path == "model" else build(node, path))
    yield model
    assert model.position == model.base


def _fails(given: list[str], expected: str) -> None:
    """As from Python, which is quicker: the command line shows such an error as one line and ends with code 2."""
    with pytest.raises(UserError, match=expected) as e:
        edit_robust.run(given)
    assert "\n" not in str(e.value)


def _record(**changes: Any) -> dict[str, Any]:
    """A good record with other values at dotted places; `...` takes one away."""
    record: dict[str, Any] = json.loads(json.dumps(tiny_facts(3)[2]))
    for place, value in changes.items():
        *way, last = place.split("__")
        node = record
        for key in way:
            node = node[key]
        if value is ...:
            del node[last]
        else:
            node[last] = value
    return record


RECORDS = [
    (_record(requested_rewrite__subject="Nobody Atall", requested_rewrite__prompt="X lives in"), "neither {} nor the"),
    (_record(requested_rewrite__target_new={"str": "  ", "id": "x"}), r'target_new.str" is empty'),
    (_record(requested_rewrite__target_new={"id": "x"}), r'target_new.str" is missing'),
    (_record(requested_rewrite__prompt="{} and {}"), "exactly one is expected"),
    (_record(requested_rewrite=...), r'"requested_rewrite" is missing'),
    (_record(paraphrase_prompts="text"), "must be a list of texts"),
    (_record(neighborhood_prompts=[3]), r"neighborhood_prompts\[0\]\" must be text"),
    (_record(case_id=0), 'two records have the id "0"'),
    ("a text", "must be an object"),
]


@pytest.mark.parametrize("record, expected", RECORDS, ids=[e for _, e in RECORDS])
def test_a_record_that_cannot_be_used(
    record: Any, expected: str, say: CommandLine, quick: Quick, tmp_path: Path
) -> None:
    path = write_json(tmp_path / "bad.json", [*tiny_facts(2), record])
    _fails(override(quick(), f"task.path={path}"), f"({expected}).*" if "two" in expected else f"record 3.*{expected}")


def test_task_files(say: CommandLine, quick: Quick, facts: Path, tmp_path: Path) -> None:
    (cut := tmp_path / "cut.json").write_bytes(facts.read_bytes()[:500])
    (empty := tmp_path / "empty.json").write_text("[]")
    (dict_ := tmp_path / "dict.json").write_text("{}")
    (odd := tmp_path / "facts.txt").write_text("x")
    (lines := tmp_path / "facts.jsonl").write_text(
        '{"prompt": "{} is", "subject": "A", "target_new": "b"}\n{"prompt"\n'
    )
    for path, expected in (
        (tmp_path / "cut.jsn", 'no such file; did you mean "cut.json"'),
        (tmp_path / "no" / "x.json", "there is no folder"),
        (tmp_path, "is a folder"),
        (cut, "not valid JSON.*cut off"),
        (empty, "holds no records"),
        (dict_, "must hold a list"),
    ):
        _fails(override(quick(), f"task.path={path}"), expected)
    _fails(override(quick(), "task=facts", f"task.path={odd}"), "must end in")
    _fails(override(quick(), "task=facts", f"task.path={lines}"), "line 2 is not valid JSON")
    _fails(override(quick(), "task.n_requests=11"), "more than there are: counterfact has 10 requests")


def test_a_target_without_a_token(say: CommandLine, quick: Quick, loaded: CausalLM, tmp_path: Path) -> None:
    """Only a tokenizer that drops characters makes one: here it is told to drop a target."""
    from edit_robust.models.language.encoder import Encoder

    spans = Encoder.spans
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Encoder, "spans", lambda self, texts: spans(self, [t.replace(" Zzz", "") for t in texts]))
        path = write_json(tmp_path / "f.json", [_record(requested_rewrite__target_new={"str": "Zzz", "id": "z"})])
        _fails(override(quick(), f"task.path={path}", "task.n_requests=1"), "the target 'Zzz' has no token after")


# -- checkpoints ---------------------------------------------------------------------------------------------------


def test_checkpoints(say: CommandLine, checkpoint: Checkpoint, facts: Path, tmp_path: Path) -> None:
    good = checkpoint("gpt2")

    def copy(name: str) -> Path:
        return Path(shutil.copytree(good, tmp_path / name))

    cut, other, bare, mute = copy("cut"), copy("other"), copy("bare"), copy("mute")
    weights = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    shutil.copy(checkpoint("llama") / "config.json", other / "config.json")
    (bare / "config.json").unlink()
    for file in [*mute.glob("tokenizer*"), *mute.glob("vocab*"), *mute.glob("merges*")]:
        file.unlink()
    (tmp_path / "empty").mkdir()
    for path, expected in (
        (tmp_path / "nowhere", "model.path=.* does not exist"),
        (tmp_path / "empty", "has no config.json"),
        (bare, "has no config.json"),
        (cut, "truncated or damaged"),
        (other, "not those of its config.json|cannot be loaded"),
        (mute, "tokenizer"),
    ):
        _fails(options(path, facts, Path("outputs")), expected)
    for more, expected in (
        ("layer.index=99", "layer.index=99 does not exist: the model has layers 0 to 3"),
        ("layer.index=-99", "layer.index=-99 does not exist"),
        ("layer.index=[0,0]", "names a layer twice"),
        ("layer.index=[0,1]", "rome edits one layer, not 2"),
        ("model.dtype=float23", 'did you mean "float32"'),
        ("device=cud", "not a device"),
    ):
        _fails(override(options(good, facts, Path("outputs")), more), expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(say: CommandLine, quick: Quick) -> None:
    _fails(override(quick(), "device=cuda"), "device=cuda is not there: this machine has 0")


# -- what an editor is given ---------------------------------------------------------------------------------------


def test_context_templates(say: CommandLine, quick: Quick, loaded: CausalLM, tmp_path: Path) -> None:
    for name, content, expected in (
        ("a", None, "neither `sampled`, `bare` nor a file"),
        ("b", "[", "is not JSON"),
        ("c", '["no place"]', "exactly one {}"),
        ("d", '["{} {}"]', "exactly one {}"),
        ("e", "[]", "must hold a list of templates"),
        ("f", '{"grace": ["{}"]}', "has templates for grace, and none for rome"),
        ("g", "[[]]", "must be a list that is not empty"),
    ):
        if content is not None:
            (tmp_path / name).write_text(content)
        _fails(override(quick(), f"editor.context_templates={tmp_path / name}"), expected)


def test_second_moments(say: CommandLine, quick: Quick, loaded: CausalLM, tmp_path: Path) -> None:
    d = loaded.layer_at(1).shape[1]
    np.savez(tmp_path / "layer.npz", layer0=np.eye(d))
    np.savez(tmp_path / "shape.npz", layer1=np.eye(d + 1))
    np.savez(tmp_path / "nan.npz", layer1=np.full((d, d), np.nan))
    np.savez(tmp_path / "zero.npz", layer1=np.zeros((d, d)))
    (tmp_path / "text.npz").write_text("not an archive")
    np.save(tmp_path / "array.npy", np.eye(d))
    for name, expected in (
        ("none.npz", "neither `computed` nor an .npz file"),
        ("layer.npz", "has no array layer1"),
        ("shape.npz", f"needs \\({d}, {d}\\)"),
        ("nan.npz", "not finite"),
        ("zero.npz", "zero or not finite"),
        ("text.npz", "not a readable .npz"),
        ("array.npy", "not a readable .npz"),
    ):
        _fails(override(quick(), "layer.index=1", f"editor.mom2={tmp_path / name}"), expected)
    _fails(override(quick(), "editor.mom2_dataset=nowhere.txt"), "editor.mom2_dataset=nowhere.txt: there is no such")


def test_rome_in_batches(say: CommandLine, quick: Quick, loaded: CausalLM) -> None:
    _fails(quick("rome", "trajectory.batch_size=4"), "rome writes one fact at a time")
    _fails(override(quick(), "trajectory=batch"), "rome writes one fact at a time")


def test_fewer_requests_than_a_batch(quick: Quick) -> None:
    """Said before the model is loaded, and not made a smaller batch of, which would be another experiment."""
    expected = "trajectory.batch_size=5 is more than the requests of task=counterfact, which are 4: give .*batch_size=4"
    for more in (["trajectory.batch_size=5"], ["trajectory=batch", "trajectory.batch_size=5"]):
        _fails(override(quick("memit"), *more), expected)


# -- where results go ----------------------------------------------------------------------------------------------


def test_outputs(say: CommandLine, monkeypatch: pytest.MonkeyPatch, facts: Path) -> None:
    _fails([f"paths.outputs={facts}"], "is a file, a folder is needed")
    _fails([f"paths.outputs={facts}/deeper"], "is a file, a folder is needed")
    monkeypatch.setattr(os, "access", lambda *args, **kwargs: False)  # root may write everywhere
    _fails(["paths.outputs=outputs"], "cannot be written to")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only(say: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir(mode=0o555)
    _fails(["paths.outputs=outputs"], "cannot be written to")


def test_a_full_disk_is_said_before_the_run(
    say: CommandLine, quick: Quick, loaded: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil._ntuple_diskusage(10, 10, 0)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    _fails(quick(), "too little for this run")


def test_a_figure_that_does_not_exist(say: CommandLine, quick: Quick, loaded: CausalLM) -> None:
    assert say("run", *quick()).code == 0
    said = say("figure", "--only", "scalling")
    assert said.code == 2 and "scaling" in said.line
