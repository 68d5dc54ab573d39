"""`base` tells models apart by weights, config and tokenizer, and by nothing that changes no number."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import go, override, prepared
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from edit_robust.core import UserError
from edit_robust.core.delta import Delta
from edit_robust.core.editable import fingerprint
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.models.language.identity import config_digest, tokenizer_digest
from edit_robust.runs.files import WEIGHTS

Checkpoint = Callable[[str], Path]
Quick = Callable[..., list[str]]
TinyModel = Callable[[str], CausalLM]


def changed(folder: Path, into: Path, file: str, change: Callable[[dict[str, Any]], None]) -> CausalLM:
    """The checkpoint with another value in one of its .json files."""
    shutil.copytree(folder, into)
    values = json.loads((into / file).read_text())
    change(values)
    (into / file).write_text(json.dumps(values))
    return CausalLM(str(into), name="changed", device="cpu")


CONFIGS: dict[str, dict[str, Any]] = {
    "rope scaling": {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
    "rope base": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    "norm": {"rms_norm_eps": 1e-5},
    "context": {"max_position_embeddings": 64},
}


@pytest.mark.parametrize("what", list(CONFIGS))
def test_another_config_is_another_base(
    what: str, checkpoint: Checkpoint, tiny_model: TinyModel, tmp_path: Path
) -> None:
    model = tiny_model("llama")
    other = changed(checkpoint("llama"), tmp_path / "m", "config.json", lambda c: c.update(CONFIGS[what]))
    assert other.older_bases == model.older_bases and other.base != model.base, "the weights are the same"


def test_other_attention_is_another_base(checkpoint: Checkpoint, tiny_model: TinyModel, tmp_path: Path) -> None:
    scaled = {"scale_attn_by_inverse_layer_idx": True}
    other = changed(checkpoint("gpt2"), tmp_path / "m", "config.json", lambda c: c.update(scaled))
    assert other.base != tiny_model("gpt2").base


def swap_merges(tokenizer: dict[str, Any]) -> None:
    merges = tokenizer["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_another_tokenizer_is_another_base(
    kind: str, checkpoint: Checkpoint, tiny_model: TinyModel, tmp_path: Path
) -> None:
    other = changed(checkpoint(kind), tmp_path / "m", "tokenizer.json", swap_merges)
    assert other.older_bases == tiny_model(kind).older_bases and other.base != tiny_model(kind).base


def test_what_changes_no_number_is_the_same_base(checkpoint: Checkpoint, tiny_model: TinyModel, tmp_path: Path) -> None:
    """Where a folder lies, which version wrote it, entries that say what is so anyway, and what was asked before."""
    model = tiny_model("llama")
    noise = {"transformers_version": "9.9", "_name_or_path": "x", "use_cache": False, "architectures": ["LlamaForX"]}
    other = changed(checkpoint("llama"), tmp_path / "m", "config.json", lambda c: c.update(noise))
    assert other.base == model.base
    config = other.config
    before, known = config_digest(config), tokenizer_digest(other.text.tokenizer)
    other.text.tokenizer(["a", "a b c"], padding=False, truncation=True, max_length=3)
    assert (config_digest(config), tokenizer_digest(other.text.tokenizer)) == (before, known)
    written = json.loads(other.text.tokenizer.backend_tokenizer.to_str())
    written["model"]["merges"] = [" ".join(m) for m in written["model"]["merges"]]  # as earlier versions wrote them
    written["model"]["a_new_switch"] = False
    old = type("Backend", (), {"to_str": lambda self: json.dumps(written)})()
    ids = {f"{k}_token_id": getattr(other.text.tokenizer, f"{k}_token_id") for k in ("bos", "eos", "pad")}
    assert tokenizer_digest(type("Old", (), {"backend_tokenizer": old, **ids})()) == known


class Needy:
    """A config of one's own that cannot be made without arguments, with an object in it."""

    def __init__(self, width: int) -> None:
        self.width, self.something = width, object()


def test_configs_of_ones_own() -> None:
    assert config_digest(None) == ""
    assert config_digest(Needy(3)) == config_digest(Needy(3)) != config_digest(Needy(4))


@pytest.mark.parametrize("editor", ["rome", "ft"])
def test_runs_of_older_versions_are_replayed(
    editor: str, quick: Quick, tiny_model: TinyModel, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """They called a model by its weights alone; and a run of today is not replayed on another tokenizer."""
    model = tiny_model("gpt2")
    older = fingerprint(model.net, model.layers)
    assert model.older_bases == (older,) and model.base != older
    run = go(prepared(override(quick(editor), "task.n_requests=2"), model))
    other = changed(checkpoint("gpt2"), tmp_path / "m", "tokenizer.json", swap_merges)
    with pytest.raises(UserError, match="other weights"):
        run.replay(other)
    names = model.parameter_names([model.layer_at(0).name, model.layer_at(1).name])
    with model.held(names):
        run.replay(model)
        want = {n: model.param(n).detach().clone() for n in names}
    for path in (run.path / "deltas").glob("[0-9]*.safetensors"):  # what version 2 wrote: the chain from another base
        delta = Delta.load(path)
        base = older if path.stem == "000001" else "an older position"
        Delta(delta.terms, base, delta.info).save(path)
    if editor == "ft":
        with safe_open(str(run.path / "state" / WEIGHTS), framework="pt") as f:
            about = json.loads(f.metadata()["edit-robust"])
        kept = load_file(run.path / "state" / WEIGHTS)
        save_file(kept, run.path / "state" / WEIGHTS, {"edit-robust": json.dumps({**about, "base": older})})
    with model.held(names):
        run.replay(model)
        assert all(torch.equal(model.param(n), want[n]) for n in names)
    with model.patched(run.delta()), pytest.raises(UserError, match="other weights"):
        run.replay(model)
