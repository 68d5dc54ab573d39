"""The shipped fact-gpt, of two training seeds: as its manifest says, with facts that it knows, and a sink."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

import edit_robust.assets
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.tasks.worlds.facts.world import FactWorld

ASSETS = Path(edit_robust.assets.__file__).parent


@pytest.fixture(scope="module", params=["fact-gpt", "fact-gpt-b"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(name: str) -> Path:
    return ASSETS / name


@pytest.fixture(scope="module")
def model(name: str) -> CausalLM:
    return CausalLM(path=f"builtin:{name}")


def test_the_files_are_those_of_the_manifest(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    for file, digest in manifest["sha256"].items():
        assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == digest, file
    assert (folder / "model.safetensors").stat().st_size <= 8_000_000


def test_the_first_position_is_a_sink(model: CausalLM, folder: Path) -> None:
    """Its embedding has the norm that training kept, several times that of any other position."""
    manifest = json.loads((folder / "manifest.json").read_text())
    norms = model.net.transformer.wpe.weight.norm(dim=1)
    assert float(norms[0]) == pytest.approx(manifest["settings"]["sink"], rel=1e-2)
    assert norms[0] > 3 * norms[1:].max()


@pytest.mark.parametrize("kind", ["several tokens", "one token", "reserved"])
def test_it_knows_the_world(kind: str, model: CausalLM, folder: Path) -> None:
    """95 of 100 facts in trained phrasings that open with the subject, also where that is one token on the sink."""
    world, tokenizer = FactWorld.generate(0), AutoTokenizer.from_pretrained(folder)
    kinds = dict.fromkeys(world.reserved, "reserved") | dict.fromkeys(world.single_token_subjects(), "one token")
    of_objects = {f.subject for f in world.facts} - {*world.subjects, *world.reserved}
    facts = [f for f in world.facts if kinds.get(f.subject, "several tokens") == kind and f.subject not in of_objects]
    facts = facts[:: len(facts) // 100][:100]
    right = 0
    for fact in facts:
        ids = tokenizer(world.prompt(fact, fact.trained[0]), return_tensors="pt")["input_ids"]
        with torch.no_grad():
            best = int(model.net(ids).logits[0, -1].argmax())
        right += tokenizer.decode([best]) == f" {fact.object}"
    assert len(facts) == 100 and right >= 95


def test_it_tells_true_claims_from_false_ones(model: CausalLM, folder: Path) -> None:
    world, tokenizer = FactWorld.generate(0), AutoTokenizer.from_pretrained(folder)
    true, false = (tokenizer.convert_tokens_to_ids(f"Ġ{v}") for v in ("True", "False"))
    right = 0
    for question in (asked := world.claims(0, 60)):
        with torch.no_grad():
            last = model.net(tokenizer(question.prompt, return_tensors="pt")["input_ids"]).logits[0, -1]
        right += bool(last[true] > last[false]) == (question.target == "True")
    assert right >= 0.9 * len(asked)
