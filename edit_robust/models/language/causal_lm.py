"""Any Hugging Face causal language model, adapted by structure, with a plain path and a fast one.

The plain path (`fast=False`) runs the whole network on one sequence at a time and is what the fast path is tested
against. The fast path batches, shares prefixes, starts at the edited layer and reads logits only where they are needed.
Of these, it leaves out what does not give the whole network's numbers (`abilities`); at the least it runs padded
batches of whole sequences.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from edit_robust.core import Example, Scores, UserError, nearest
from edit_robust.core.options import Aside, DataFile
from edit_robust.core.weights import check_weights
from edit_robust.models.base import Generated
from edit_robust.models.devices import DTYPES, resolve_device
from edit_robust.models.language import generation
from edit_robust.models.language.activations import WIDE, quicken
from edit_robust.models.language.anatomy import dissect
from edit_robust.models.language.checkpoints import weights_in
from edit_robust.models.language.decoder import Decoder
from edit_robust.models.language.encoder import Encoder
from edit_robust.models.language.entry import entry_for
from edit_robust.models.language.fast_paths import find_abilities
from edit_robust.models.language.few_shot import FewShot
from edit_robust.models.language.gradients import OutputGradients, output_gradients
from edit_robust.models.language.identity import config_digest, tokenizer_digest
from edit_robust.models.language.injection import Injection, PlainInjection, TailInjection
from edit_robust.models.language.loading import check_tokenizer, load_pretrained
from edit_robust.models.language.scorer import Scorer

log = logging.getLogger(__name__)


class CausalLM(Decoder):
    """A causal language model: from a checkpoint, or a module of one's own. Exactly one of `path` and `net` is given.

    path:          local folder in the Hugging Face format, a hub id, or `builtin:NAME` for a shipped model.
    name:          shown in tables; null takes it from the path, or from the class of `net`.
    dtype:         float32, bfloat16 or float16; null: float32, or what `net` has.
    device:        auto, cpu, cuda or cuda:N; auto leaves a `net` where it is.
    device_map:    `auto` or a map, to spread the model over several GPUs.
    fast:          False runs the plain path everywhere: slow, and the reference.
    batch_tokens:  padded tokens of a batch.           cache_gb: memory for what edits cannot change.
    net:           a module that is called as transformers' causal models are (`net(input_ids=..., use_cache=False)`
                   gives `.logits`) and has `get_output_embeddings`. It is used itself, not a copy: put into evaluation
                   mode, and its parameters require no gradients any more.
    tokenizer:     of `net`; a fast one of transformers.
    Raises UserError for options that do not fit each other, and for networks that cannot be edited.
    """

    def __init__(
        self,
        path: DataFile | None = None,
        name: str | None = None,
        dtype: str | None = None,
        device: str = "auto",
        device_map: str | dict[str, Any] | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        fast: bool = True,
        batch_tokens: int = 4096,
        cache_gb: Aside[float] = 4.0,
        net: nn.Module | None = None,
        tokenizer: Any = None,
    ) -> None:
        if (path is None) == (net is None):
            raise UserError("a language model needs either a path (path=FOLDER) or a module (net=...), and not both")
        if dtype is not None and dtype not in DTYPES:
            raise UserError(f"model.dtype={dtype} is not a type of number; {nearest(dtype, DTYPES)}")
        if path is not None:
            source, found, tokenizer = load_pretrained(
                path, DTYPES[dtype or "float32"], resolve_device(device), device_map, revision, trust_remote_code
            )
            own = Path(source).name
        else:
            assert net is not None
            found, own = _own_module(net, tokenizer, dtype, device), type(net).__name__.lower()
        anatomy = dissect(found)
        config = getattr(found, "config", None)
        max_tokens = int(getattr(config, "max_position_embeddings", None) or 2048)
        super().__init__(found, anatomy, Encoder(tokenizer), name or own, max_tokens)
        self.identify(config_digest(config), tokenizer_digest(tokenizer))
        self.fast, self.batch_tokens, self.cache_gb = fast, batch_tokens, cache_gb
        if path is not None:
            self.device, self.dtype = resolve_device(device), DTYPES[dtype or "float32"]
        self.quick = path is not None and fast and self.layer_at(0).shape[1] >= WIDE
        if self.quick:
            quicken(found)
        self.abilities = find_abilities(self)
        if self.fast and (slower := self.abilities.warning()):
            log.warning("%s: %s", self.name, slower)

    def weights_in(self, path: str) -> dict[str, Tensor]:
        """Every parameter's value in a checkpoint of the same network; see `models.language.checkpoints`."""
        return weights_in(self.net, path, self.name)

    # -- questions -------------------------------------------------------------------------------------------------

    def scorer(self, examples: Sequence[Example], changes: Sequence[str] = ()) -> Scorer:
        """Examples made ready to be asked again and again while only the parameters `changes` (names) change."""
        return Scorer(self, examples, changes)

    def scorer_of_tokens(
        self, examples: Sequence[Example], encoded: Sequence[Sequence[tuple[list[int], int]]], changes: Sequence[str]
    ) -> Scorer:
        """The same for choices that come as token ids, prompt included, with the prompt's number of tokens."""
        return Scorer(self, examples, changes, encoded)

    def score(self, examples: Sequence[Example]) -> Scores:
        """Log-probabilities of every example's choices (see `Scores`)."""
        return Scorer(self, examples).score()

    def few_shot(
        self,
        prompts: Sequence[str],
        options: Sequence[Sequence[str]],
        tokens: int,
        *,
        prefix: str = "",
        changes: Sequence[str] = (),
        cache_gb: float | None = None,
    ) -> FewShot:
        """Prompts behind a common prefix, made ready to be asked again and again while only `changes` change: what the
        model says after each (greedily, so many tokens), and how likely each of the prompt's options is.

        Make it while the model is unedited: what the changes cannot change is computed now (see `FewShot`).
        """
        return FewShot(self, prompts, options, tokens, prefix=prefix, changes=changes, cache_gb=cache_gb)

    # -- what editors need -----------------------------------------------------------------------------------------

    def trainable(
        self, rows: Sequence[Sequence[int]], reads: Sequence[tuple[int, int]], changes: Sequence[str]
    ) -> Callable[[], Float[Tensor, "reads v"]]:
        """A function that gives logits at the reads (row, position), differentiable in the parameters `changes`.

        The fast one runs what does not depend on them once, now.
        """
        ids = self.tokens(rows)
        at = (torch.tensor([r for r, _ in reads]), torch.tensor([p for _, p in reads]))
        if not self.fast:
            return lambda: self.whole(ids)[at]
        entry = entry_for(self, changes)
        if entry is None:
            return lambda: self.logits_at(ids, at)
        kept, calls = entry.capture(ids), self.calls(ids.shape[1], len(ids))

        def logits() -> Tensor:
            hidden = self.replay(entry.resume(kept), calls, entry.start)
            return self.logits(self.finish(hidden[at]))

        return logits

    def injection(
        self,
        layer: str,
        where: str,
        rows: Sequence[Sequence[int]],
        positions: Sequence[int],
        reads: Sequence[tuple[int, int]],
        plain: bool | None = None,
    ) -> Injection:
        """A place to inject a vector: `where` is "mlp" (the projection's output) or "block" (the residual stream).

        rows: token sequences; positions: the injection point of each; reads: (row, position) to take logits at.
        plain: None: as the model's `fast` says. The fast one runs whole sequences where tails would not be exact.
        """
        if not self.fast if plain is None else plain:
            return PlainInjection(self, layer, where, rows, positions, reads)
        if not self.abilities.tails or max(len(r) for r in rows) > self.window:
            return PlainInjection(self, layer, where, rows, positions, reads, few=True)
        return TailInjection(self, layer, where, rows, positions, reads)

    def output_gradients(
        self,
        rows: Sequence[Sequence[int]],
        reads: Sequence[tuple[int, int]],
        targets: Sequence[int],
        layers: Sequence[str],
        weights: Sequence[float] | None = None,
    ) -> dict[str, OutputGradients]:
        """Inputs u [tokens, d_in] and output gradients delta [tokens, d_out] of some projections, by layer name.

        The loss is the sum over reads (row, position) of -log p(target), each times its weight (default 1); the
        gradient of a projection's weight as [d_out, d_in] is then delta^T u.
        """
        return output_gradients(self, rows, reads, targets, layers, weights)

    # -- text ------------------------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        *,
        prefix: str = "",
        sample: bool = False,
        top_k: int | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        stop: Sequence[str] | None = None,
        batch_size: int | None = None,
        max_length: int | None = None,
    ) -> list[str]:
        """What the model says after each prompt, without the prompt: up to `max_new_tokens` tokens, an end-of-text
        token, or the first of the texts `stop`, which is left out.

        prefix:     stands before every prompt (few-shot examples); what it shares with all of them is read once.
        sample:     False takes the likeliest token every time. True draws from the `top_k` likeliest (None: from all)
                    at a `temperature`, and needs a `generator`. What is drawn for a prompt depends on the generator's
                    state, the prompt, and how often the same prompt stands before it in the list; on nothing else.
        batch_size: prompts that run side by side; None: as many as `batch_tokens` allows.
        max_length: tokens of prompt and text together; a prompt that has as many by itself is followed by nothing.
        Raises UserError for a prompt that fills the model's window.
        """
        return generation.generate(
            self,
            prompts,
            max_new_tokens,
            prefix=prefix,
            sample=sample,
            top_k=top_k,
            temperature=temperature,
            generator=generator,
            stop=stop,
            batch_size=batch_size,
            max_length=max_length,
        )

    def write(self, prompts: Sequence[str], max_new_tokens: int, **options: Any) -> list[Generated]:
        """The same as `generate`, whose options it takes, with each text's tokens and whether it ended by itself."""
        return generation.write(self, prompts, max_new_tokens, **options)

    @torch.no_grad()
    def sample(
        self, prompt: str, n: int, length: int, generator: torch.Generator, top_k: int = 5, batch: int = 32
    ) -> list[str]:
        """n continuations of a prompt up to `length` tokens in total, by top-k sampling from a passed generator.

        The prompt is part of what is returned. An empty prompt starts from the begin-of-text token, which counts as
        one token and is not shown. All rows draw from one generator: `generate` is for text that must not depend on
        what stands beside it.
        """
        start = self.text.encode(prompt) or [self.text.begin]
        ids = torch.tensor([start] * n)
        while ids.shape[1] < length:
            logits = self.logits(self.hidden(ids.to(self.input_device))[:, -1]).cpu()
            top = logits.topk(min(top_k, logits.shape[-1]), dim=-1)
            pick = torch.multinomial(top.values.softmax(-1), 1, generator=generator)
            ids = torch.cat([ids, top.indices.gather(1, pick)], 1)
        return [self.text.decode(row) for row in ids.tolist()]


def _own_module(net: nn.Module, tokenizer: Any, dtype: str | None, device: str) -> Any:
    """A module of one's own, ready to be edited."""
    if tokenizer is None:
        raise UserError("a module of your own needs its tokenizer: CausalLM(net=..., tokenizer=...)")
    check_tokenizer(tokenizer, "tokenizer=...")
    check_weights(net)  # before anything is moved: packed and offloaded weights cannot be
    net.eval().requires_grad_(False)
    if device != "auto":
        net.to(resolve_device(device))
    return net if dtype is None else net.to(DTYPES[dtype])
