"""Few-shot questions about a downstream task after an edit, against the two ways of asking that one would write.

One prompt at a time is what the code of the scaling paper (arXiv 2401.07453) does; one padded batch a task is the
sensible user's way. Both generate with the network's own `generate` and its cache; neither scores the options, which
here comes out of the same pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edit_robust.core.question_sets import Asked, QuestionSet
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.tasks.language.downstream.formats import FORMATS, SEPARATOR
from edit_robust.tasks.worlds.facts.world import FactWorld

#: GPT-2's width, heads and window; blocks, and the one that is edited, about where it is in GPT2-XL (17 of 48).
_WIDTH, _HEADS, _WINDOW, _BLOCKS, _EDITED = 768, 12, 1024, 4, 1


@dataclass(frozen=True)
class Compared:
    """Seconds for n questions each way, and how many texts are not what one prompt at a time gives."""

    n: int
    here: float
    one_by_one: float
    padded: float
    unequal: int


def compare_downstream(n: int = 200, alone: int = 50, shots: int = 4) -> Compared:
    """Ask n questions in MRPC's form after an edit: here, in one padded batch, and the first `alone` one by one.

    The seconds one by one are those of the first `alone`, times n / alone.
    """
    asked = _questions(n, shots)
    model = _random_model([asked.prefix, *(f"{q.prompt} {q.right}" for q in asked.questions)])
    prompts = [q.prompt for q in asked.questions]
    layer = model.layer_at(_EDITED)
    changes = model.parameter_names([layer.name])
    ready = model.few_shot(
        prompts, [[f" {o}" for o in q.options] for q in asked.questions], 3, prefix=asked.prefix, changes=changes
    )
    noise = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(1))
    layer.weight.data += 0.02 * layer.weight.std() * noise
    rows = [model.text.encode(f"{asked.prefix}{p}") for p in prompts]
    found: dict[str, list[str]] = {}
    here = _seconds(lambda: found.update(here=list(ready.ask().texts)))
    padded = _seconds(lambda: found.update(padded=_generate(model, rows)))
    single = _seconds(lambda: found.update(single=[_generate(model, [row])[0] for row in rows[:alone]]))
    unequal = sum(a != b for a, b in zip(found["here"], found["padded"], strict=True))
    unequal += sum(a != b for a, b in zip(found["here"], found["single"], strict=False))
    return Compared(n, here, single * n / alone, padded, unequal)


def _questions(n: int, shots: int) -> QuestionSet:
    """Pairs of documents of the fact world, alike or not, in MRPC's prompt."""
    texts = FactWorld.generate(0).held_out_text(n_docs=2 * (n + shots))
    form = FORMATS["mrpc"]
    prompts = [form.prompt({"sentence1": a, "sentence2": b}) for a, b in zip(texts[::2], texts[1::2], strict=True)]
    shown = tuple(f"{p} {form.order[i % 2]}{SEPARATOR}" for i, p in enumerate(prompts[:shots]))
    asked = tuple(Asked(p, form.order[i % 2], form.order) for i, p in enumerate(prompts[shots:]))
    return QuestionSet("mrpc", "gcf", asked, shown, form.marker)


def _random_model(texts: Sequence[str]) -> CausalLM:
    """A random GPT-2 of few blocks, with a tokenizer learnt on the texts."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    end = "<|endoftext|>"
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=4000, special_tokens=[end], initial_alphabet=alphabet)
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=end, bos_token=end)
    config = transformers.GPT2Config(
        n_embd=_WIDTH, n_head=_HEADS, n_layer=_BLOCKS, n_positions=_WINDOW, vocab_size=len(tokenizer),
        initializer_range=0.06, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    net = transformers.GPT2LMHeadModel(config)
    return CausalLM(net=net, tokenizer=tokenizer, name="random")


def _generate(model: CausalLM, rows: Sequence[Sequence[int]]) -> list[str]:
    """Three tokens after each row, greedily, all rows in one batch padded on the left."""
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(r)) + list(r) for r in rows])
    mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
    net: Any = model.net
    out: Tensor = net.generate(ids, attention_mask=mask, max_new_tokens=3, do_sample=False, pad_token_id=0)
    return [model.text.decode(row[width:].tolist()) for row in out]


def _seconds(action: Callable[[], Any]) -> float:
    """Of the processor with one thread, of the clock with several."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    with torch.no_grad():
        start = clock()
        action()
        return clock() - start


def downstream_rows(n: int = 200) -> Iterator[Any]:
    """The benchmark's rows: at least 10 times as fast as one prompt at a time, and 3 times one padded batch."""
    from bench_rows import Row

    got = compare_downstream(n)
    equal = f"{got.unequal} of {got.n + 50} generated texts differ"
    what = f"{n} few-shot questions after an edit (random, {_BLOCKS} x {_WIDTH})"
    for name, before, floor in ((", one at a time", got.one_by_one, 10.0), (", padded batch", got.padded, 3.0)):
        yield Row(what + name, n, before, got.here, before / got.here, floor, equal, got.unequal > 0)


if __name__ == "__main__":
    from bench_rows import shown

    torch.set_num_threads(1)
    raise SystemExit(shown(list(downstream_rows()), 1, "otherwise: the network's own generate"))
