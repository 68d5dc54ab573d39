"""Attention behind a text that was read before: the quick form gives PyTorch's numbers, or stands back."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny import tiny_checkpoint
from torch import Tensor, nn

from edit_robust.core.recorded import Differentiable
from edit_robust.models.language import attention
from edit_robust.models.language.attention import quick_attention
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.models.language.injection import TailInjection, joined

SIZES = [(22, 4, 4, 4, 12, 32), (3, 6, 2, 5, 1, 8), (2, 3, 1, 1, 7, 20), (2, 2, 2, 8, 3, 64)]


class Given:
    """b rows, h heads of queries, g of keys, t new places behind p earlier ones, d wide; some of the earlier masked."""

    def __init__(self, b: int, h: int, g: int, t: int, p: int, d: int) -> None:
        torch.manual_seed(b + h + t)
        fused = torch.randn(b, t, (h + 2 * g) * d)  # queries, keys and values of one projection: none is contiguous
        q, k, v = fused.split([h * d, g * d, g * d], 2)
        self.own = [x.view(b, t, -1, d).transpose(1, 2) for x in (q, k, v)]
        self.before = [torch.randn(b, p, g, d).transpose(1, 2) for _ in range(2)]
        mask = torch.ones(b, 1, t, p + t, dtype=torch.bool).tril(p)
        mask[0, :, :, : p - 1] = False
        self.mask, self.weights = mask, torch.randn(b, t, h, d)

    def run(self, given: Any, mask: Tensor, dtype: torch.dtype = torch.float32, **options: Any) -> list[Tensor]:
        """The output and the gradients of queries, keys and values. given: an attention as transformers calls it."""
        q, k, v = (x.detach().to(dtype).requires_grad_(True) for x in self.own)
        keys, values = (joined(old.to(dtype), new) for old, new in zip(self.before, (k, v), strict=True))
        found, _ = given(nn.Identity(), q, keys, values, mask, **options)
        return [found, *torch.autograd.grad((found * self.weights.to(dtype)).sum(), (q, k, v))]


def exact(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scaling: float | None = None) -> Any:
    found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling, enable_gqa=True)
    return found.transpose(1, 2), None


@pytest.fixture
def stood_back(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry whenever PyTorch's own attention runs."""
    calls: list[int] = []
    own = attention.sdpa_attention_forward
    monkeypatch.setattr(attention, "sdpa_attention_forward", lambda *a, **k: (calls.append(1), own(*a, **k))[1])
    return calls


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_numbers_and_gradients(size: Any, additive: bool, scaling: float | None, stood_back: list[int]) -> None:
    given = Given(*size)
    mask = torch.where(given.mask, 0.0, torch.finfo(torch.float32).min) if additive else given.mask
    wanted = given.run(exact, mask.double() if additive else mask, torch.float64, scaling=scaling)
    found = given.run(attention._attention, mask, scaling=scaling)
    assert not stood_back
    for mine, right in zip(found, wanted, strict=True):
        assert (mine - right).abs().max() < 2e-6 * max(1.0, float(right.detach().abs().max()))
    assert all(
        torch.equal(a, b) for a, b in zip(found, given.run(attention._attention, mask, scaling=scaling), strict=True)
    )


def test_what_is_broken_stays_broken(stood_back: list[int]) -> None:
    """A number that is none reaches the output where PyTorch's would, and nowhere else."""
    for place in range(4):
        given = Given(2, 2, 2, 3, 4, 8)
        (given.own[place] if place < 3 else given.before[0])[1, 0, -1, 3] = torch.nan
        found, wanted = (given.run(how, given.mask)[0].isnan() for how in (attention._attention, exact))
        assert wanted.any() and torch.equal(found, wanted)
    assert not stood_back
    given = Given(2, 2, 2, 3, 4, 8)
    given.own[0] *= 1e4  # one place gets all
    found, wanted = (given.run(how, given.mask)[0] for how in (attention._attention, exact))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    "why", ["bfloat16", "dropout", "softcap", "many places", "no mask", "a mask a head", "unknown text before"]
)
def test_stands_back(why: str, stood_back: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    given = Given(2, 2, 2, 9 if why == "many places" else 3, 4, 8)
    options: dict[str, Any] = {"dropout": 0.5} if why == "dropout" else {"softcap": 30.0} if why == "softcap" else {}
    mask: Any = (
        {"no mask": None, "a mask a head": given.mask.expand(2, 2, 3, 7)}.get(why, given.mask)
        if why != "many places"
        else given.mask
    )
    dtype = torch.bfloat16 if why == "bfloat16" else torch.float32
    if why == "unknown text before":
        monkeypatch.setattr("test_attention.joined", lambda a, b: torch.cat([a, b], -2))
    if why == "softcap":  # PyTorch's own has none, and says so
        with pytest.raises(ValueError, match="softcap"):
            given.run(attention._attention, mask, dtype, **options)
    else:
        given.run(attention._attention, mask, dtype, **options)
    assert stood_back == [1]


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2"])
def test_in_a_network(kind: Any, tmp_path: Path, stood_back: list[int]) -> None:
    """A value's logits and gradient, recorded and not, are those of the network's own attention."""
    model = CausalLM(str(tiny_checkpoint(kind, tmp_path)), device="cpu")
    rows, positions, reads = [[5, 6, 7, 8, 9], [9, 8, 7, 6]], [3, 1], [(0, 4), (1, 3), (1, 2)]
    found: dict[bool, list[Tensor]] = {}
    for quick in (False, True):
        model.quick = quick
        tail = TailInjection(model, model.layer_at(0).name, "mlp", rows, positions, reads)
        loss = Differentiable(lambda delta, tail=tail: (tail.read(delta).logsumexp(1),), record=True)  # type: ignore[misc]
        found[quick] = []
        for scale in (0.0, 1.0, 3.0):
            found[quick] += [*loss.values(scale * tail.out), loss.gradient()]
        assert not loss.refused
    for mine, right in zip(found[True], found[False], strict=True):
        torch.testing.assert_close(mine, right, rtol=2e-5, atol=1e-6)
    assert any(not torch.equal(a, b) for a, b in zip(found[True], found[False], strict=True)) and not stood_back
    assert model.net.config._attn_implementation == "sdpa"


def test_only_where_it_is_wanted(tmp_path: Path) -> None:
    model = CausalLM(str(tiny_checkpoint("gpt2", tmp_path)), device="cpu")
    net, config = model.net, model.net.config
    assert not model.quick
    with TailInjection(model, model.layer_at(0).name, "mlp", [[5, 6, 7]], [1], [(0, 2)])._quick():
        assert config._attn_implementation == "sdpa"
    with pytest.raises(ZeroDivisionError), quick_attention(net):
        assert config._attn_implementation == "edit-robust-behind"
        raise ZeroDivisionError
    config._attn_implementation = "eager"
    with quick_attention(net):
        assert config._attn_implementation == "eager"
    with quick_attention(nn.Linear(2, 2)):
        pass
