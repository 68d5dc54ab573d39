"""The model in memory as lm-evaluation-harness sees it. Importing this needs the extra `lm-eval`.

It gives the numbers of the harness's own adapter of Hugging Face models, with the same tokens in the same windows, but
keeps between two times of asking what the changed parameters cannot change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from edit_robust.core.data import Example
from edit_robust.core.errors import UserError
from edit_robust.evaluate.downstream import end_of

if TYPE_CHECKING:
    from edit_robust.models.base import HarnessModel

#: Tokens that a text may be continued with where a task does not say.
_NEW_TOKENS = 256


class InMemory(TemplateLM):  # type: ignore[misc]
    """A model of ours as the harness sees it.

    changes: names of all parameters that may change.   seed: of what is drawn where a task samples.
    """

    def __init__(self, model: HarnessModel, changes: Sequence[str], seed: int) -> None:
        super().__init__()
        self.model, self.changes, self.seed = model, tuple(changes), seed
        self.tokenizer = model.text.tokenizer
        self._scorers: dict[int, Any] = {}

    @property
    def eot_token_id(self) -> int:
        return int(self.model.text.begin if self.tokenizer.eos_token_id is None else self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        own = self.tokenizer.bos_token_id
        return self.eot_token_id if own is None else int(own)

    @property
    def tokenizer_name(self) -> str:
        return str(self.model.name)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        begins = string.startswith(self.tokenizer.decode(self.prefix_token_id) or "\0")
        if add_special_tokens is None and not begins:
            return list(self.tokenizer.encode(string))
        return list(self.tokenizer.encode(string, add_special_tokens=bool(add_special_tokens)))

    def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> list[tuple[float, bool]]:
        """(log-probability of the continuation, whether it is what the model says by itself) of each request."""
        pairs = []
        for _, context, continuation in requests:
            ids = [*context, *continuation][-(self.model.max_tokens + 1) :]
            pairs.append((ids, max(len(ids) - len(continuation), 1)))
        scores = self._scorer(pairs).score()
        return [
            (float(logp * n), bool(hits == 1))
            for logp, hits, n in zip(scores.logp[:, 0], scores.hits[:, 0], scores.tokens[:, 0], strict=True)
        ]

    def _scorer(self, pairs: Sequence[tuple[list[int], int]]) -> Any:
        """Made at the first point: the same questions come again at the others."""
        key = hash(tuple((tuple(ids), n) for ids, n in pairs))
        if key not in self._scorers:
            examples = [Example(str(i), "", ("",)) for i in range(len(pairs))]
            self._scorers[key] = self.model.scorer_of_tokens(examples, [[p] for p in pairs], self.changes)
        return self._scorers[key]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Log-probability of whole texts, each token in a window of its own past."""
        windows: list[tuple[None, list[int], list[int]]] = []
        counts = []
        for request in requests:
            found = [
                make_disjoint_window(w)
                for w in get_rolling_token_windows(
                    token_list=self.tok_encode(request.args[0]),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self.model.max_tokens,
                    context_len=1,
                )
            ]
            windows += [(None, context, continuation) for context, continuation in found]
            counts.append(len(found))
        values = iter(v for v, _ in self._loglikelihood_tokens(windows))
        return [sum(next(values) for _ in range(n)) for n in counts]

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """What follows each text, up to the first of its stop texts."""
        found = [""] * len(requests)
        alike: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            alike.setdefault(repr(sorted(request.args[1].items())), []).append(i)
        for which in alike.values():
            texts = self._continue([requests[i].args[0] for i in which], dict(requests[which[0]].args[1]))
            for i, text in zip(which, texts, strict=True):
                found[i] = text
        return found

    def _continue(self, contexts: Sequence[str], options: dict[str, Any]) -> list[str]:
        until = options.get("until") or []
        tokens = int(options.get("max_gen_toks") or options.get("max_new_tokens") or _NEW_TOKENS)
        room = self.model.max_tokens - tokens
        if room < 1:
            raise UserError(
                f"lm-eval asks for {tokens} new tokens, and {self.model.name} reads {self.model.max_tokens}"
            )
        temperature = float(options.get("temperature") or 0.0)
        sample = bool(options.get("do_sample", temperature > 0)) and temperature > 0
        return self.model.generate(
            [end_of(c, self.model, room) for c in contexts],
            tokens,
            sample=sample,
            top_k=options.get("top_k") if sample else None,
            temperature=temperature if sample else 1.0,
            generator=torch.Generator().manual_seed(self.seed) if sample else None,
            stop=[until] if isinstance(until, str) else list(until),
        )
