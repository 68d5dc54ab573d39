"""The shipped fact-gpt: what its manifest says it is, with facts that it knows and a sink at its first position."""

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

FOLDER = Path(edit_robust.assets.__file__).parent / "fact-gpt"


@pytest.fixture(scope="module")
def model() -> CausalLM:
    return CausalLM(path="builtin:fact-gpt")


def test_the_files_are_those_of_the_manifest() -> None:
    manifest = json.loads((FOLDER / "manifest.json").read_text())
    for file, digest in manifest["sha256"].items():
        assert hashlib.sha256((FOLDER / file).read_bytes()).hexdigest() == digest, file
    assert (FOLDER / "model.safetensors").stat().st_size <= 8_000_000


def test_the_first_position_is_a_sink(model: CausalLM) -> None:
    """Its embedding has the norm that training kept, several times that of any other position."""
    manifest = json.loads((FOLDER / "manifest.json").read_text())
    norms = model.net.transformer.wpe.weight.norm(dim=1)
    assert float(norms[0]) == pytest.approx(manifest["settings"]["sink"], rel=1e-2)
    assert norms[0] > 3 * norms[1:].max()


def test_it_knows_the_world(model: CausalLM) -> None:
    """95 of 100 facts of subjects of several tokens, and of reserved ones, in trained phrasings that open with them."""
    world, tokenizer = FactWorld.generate(0), AutoTokenizer.from_pretrained(FOLDER)
    for reserved in (False, True):
        facts = [f for f in world.facts if not f.single_token and f.reserved == reserved]
        facts = facts[:: len(facts) // 100][:100]
        right = 0
        for fact in facts:
            ids = tokenizer(world.prompt(fact, fact.trained[0]), return_tensors="pt")["input_ids"]
            with torch.no_grad():
                best = int(model.net(ids).logits[0, -1].argmax())
            right += tokenizer.decode([best]) == f" {fact.object}"
        assert right >= 95
