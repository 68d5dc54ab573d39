"""Text to tokens with exact boundaries: where a continuation starts, and where a subject ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edit_robust.core import UserError

Span = tuple[int, int]


class Encoder:
    """A fast tokenizer that tells which characters a token covers."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        special = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, 0]
        self.begin: int = next(t for t in special if t is not None)

    def __len__(self) -> int:
        return len(self.tokenizer)

    def encode(self, text: str) -> list[int]:
        """Tokens, with the begin-of-text token where the tokenizer adds one and without an end-of-text token."""
        return self.spans([text])[0][0]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def spans(self, texts: Sequence[str]) -> list[tuple[list[int], list[Span]]]:
        """Token ids and the characters [start, end) each covers; special tokens cover (0, 0)."""
        if not texts:
            return []
        out = self.tokenizer(
            list(texts), return_offsets_mapping=True, return_special_tokens_mask=True, add_special_tokens=True
        )
        result = []
        for ids, offsets, special in zip(
            out["input_ids"], out["offset_mapping"], out["special_tokens_mask"], strict=True
        ):
            n = len(ids)
            while n > 1 and special[n - 1] and any(not s for s in special[:n]):  # an end-of-text token
                n -= 1
            spans = [(0, 0) if s else (int(a), int(b)) for (a, b), s in zip(offsets[:n], special[:n], strict=True)]
            result.append((list(ids[:n]), spans))
        return result

    def pairs(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[int], int]]:
        """Tokens of prompt + continuation, and how many of them belong to the prompt, see `joined`."""
        return [(ids, n) for ids, n, _ in self.joined(pairs)]

    def joined(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[int], int, list[Span]]]:
        """Tokens of prompt + continuation, how many of them belong to the prompt, and the characters each covers.

        The two are tokenised together, as the model would read them; a token that straddles the boundary counts
        as the continuation's. Raises UserError for a continuation without a token.
        """
        result = []
        for (prompt, continuation), (ids, spans) in zip(pairs, self.spans([p + c for p, c in pairs]), strict=True):
            n = next((i for i, (_, end) in enumerate(spans) if end > len(prompt)), len(ids))
            if n == len(ids):
                raise UserError(f"the target {continuation.strip()!r} has no token after {prompt[-60:]!r}")
            result.append((ids, n, spans))
        return result

    def last_of(self, spans: Sequence[Span], end: int) -> int:
        """Index of the token that holds the character before `end`: a subject's last token."""
        return max((i for i, (a, b) in enumerate(spans) if b > a and a < end), default=0)
