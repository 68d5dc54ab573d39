"""The tiny checkpoints and facts that the other tests build on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny import KINDS, tiny_checkpoint, tiny_facts, tiny_texts, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer


@pytest.mark.parametrize("kind", KINDS)
def test_tiny_checkpoint(tmp_path: Path, kind: Any) -> None:
    state = torch.random.get_rng_state()
    folder = tiny_checkpoint(kind, tmp_path / kind)
    assert torch.equal(state, torch.random.get_rng_state())
    assert (folder / "model.safetensors").is_file()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.float32 and len(tokenizer) == model.config.vocab_size
    text = "Ada Valdoran was born in Paris, à 漢字  {x}\n"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.is_fast and tokenizer.decode(ids, skip_special_tokens=True) == text
    assert ids == tiny_tokenizer(kind)(text)["input_ids"]
    assert (ids[0] == tokenizer.bos_token_id) == (kind in ("llama", "mistral"))
    with torch.no_grad():
        logp = model(torch.tensor([ids])).logits.log_softmax(-1)
    entropy = -(logp.exp() * logp).sum(-1).mean()
    assert 2 < entropy < np.log(len(tokenizer)) - 0.2  # neither stuck on one token nor flat

    again = AutoModelForCausalLM.from_pretrained(tiny_checkpoint(kind, tmp_path / "again"))
    other = AutoModelForCausalLM.from_pretrained(tiny_checkpoint(kind, tmp_path / "other", seed=1))
    pairs = list(zip(model.parameters(), again.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs) and not any(torch.equal(a, c) for a, _, c in pairs)


def test_tiny_checkpoint_of_an_unknown_kind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gpt_neox"):
        tiny_checkpoint("bert", tmp_path)  # type: ignore[arg-type]


def test_tiny_facts() -> None:
    facts = tiny_facts(128)
    assert len({f["requested_rewrite"]["subject"] for f in facts}) == 128
    assert tiny_facts(5) == tiny_facts(5) != tiny_facts(5, seed=1)
    assert len(tiny_texts()) > 128
    with pytest.raises(ValueError, match="128"):
        tiny_facts(129)
