"""Any Hugging Face causal language model, adapted by structure, with a plain path and a fast one.

The plain path runs the whole network on one sequence at a time and is what the fast path is tested against.
The fast path batches, shares prefixes, starts at the edited layer and reads logits only where they are needed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from edit_robust.core import Editable, Example, Layer, Scores, UserError, nearest
from edit_robust.core.options import Aside, DataFile
from edit_robust.core.work import ShowProgress, silent
from edit_robust.models.devices import DTYPES, resolve_device
from edit_robust.models.language.anatomy import Anatomy, dissect, hidden_of
from edit_robust.models.language.encoder import Encoder
from edit_robust.models.language.injection import PlainSite, Site, TailSite
from edit_robust.models.language.scorer import Scorer

log = logging.getLogger(__name__)

Call = tuple[tuple[Any, ...], dict[str, Any]]


class CausalLM(Editable):
    """A causal language model.

    path:          local folder in the Hugging Face format, a hub id, or `builtin:NAME` for a shipped model.
    dtype:         float32, bfloat16 or float16.       device: auto, cpu, cuda or cuda:N.
    device_map:    `auto` or a map, to spread the model over several GPUs.
    fast:          False runs the plain path everywhere.
    batch_tokens:  padded tokens of a batch.           cache_gb: memory for what edits cannot change.
    """

    asks: ClassVar[str] = "text"

    def __init__(
        self,
        path: DataFile,
        name: str | None = None,
        dtype: str = "float32",
        device: str = "auto",
        device_map: str | dict[str, Any] | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        fast: bool = True,
        batch_tokens: int = 4096,
        cache_gb: Aside[float] = 4.0,
    ) -> None:
        if dtype not in DTYPES:
            raise UserError(f"model.dtype={dtype} is not a type of number; {nearest(dtype, DTYPES)}")
        self.device = resolve_device(device)
        source, net, tokenizer = load_pretrained(
            path, DTYPES[dtype], self.device, device_map, revision=revision, trust_remote_code=trust_remote_code
        )
        self.name = name or Path(source).name
        self.dtype = DTYPES[dtype]
        self.fast, self.batch_tokens, self.cache_gb = fast, batch_tokens, cache_gb
        self.text = Encoder(tokenizer)
        self.progress: ShowProgress = silent
        self.config = net.config
        self.hidden_size = int(getattr(net.config, "hidden_size", 0) or net.config.n_embd)
        self.max_tokens = int(getattr(net.config, "max_position_embeddings", None) or 2048)
        self.anatomy: Anatomy = dissect(net, self.hidden_size)
        super().__init__(net, {layer.name: layer for layer in self.anatomy.layers})
        windows = [getattr(net.config, k, None) for k in ("sliding_window", "window_size", "attention_chunk_size")]
        self.window = min((w for w in windows if isinstance(w, int) and w > 0), default=self.max_tokens)
        self._calls: dict[int, list[Call]] = {}
        self.splits = self._parts_make_the_whole()
        if self.fast and not self.splits:
            log.warning("%s cannot be started in its middle with the same result; the plain path is used", self.name)
            self.fast = False

    # -- structure -------------------------------------------------------------------------------------------------

    @property
    def n_layers(self) -> int:
        return len(self.anatomy.blocks)

    def layer_at(self, index: int) -> Layer:
        """The edited projection of block `index` (negative counts from the end)."""
        n = self.n_layers
        if not -n <= index < n:
            raise UserError(f"layer.index={index} does not exist: {self.name} has layers 0 to {n - 1}")
        return self.anatomy.layers[index % n]

    @property
    def input_device(self) -> torch.device:
        return next(self.anatomy.owner.parameters()).device

    # -- running ---------------------------------------------------------------------------------------------------

    def tokens(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Right-padded token ids [rows, longest]. Causal attention makes padding on the right invisible."""
        width = max(len(r) for r in rows)
        if width > self.max_tokens:
            raise UserError(f"a text of {width} tokens is longer than the {self.max_tokens} of {self.name}")
        ids = np.zeros((len(rows), width), dtype=np.int64)
        for i, r in enumerate(rows):
            ids[i, : len(r)] = r
        return torch.from_numpy(ids).to(self.input_device)

    def hidden(self, ids: Tensor, **kwargs: Any) -> Float[Tensor, "b t d"]:
        """Hidden states after the final norm."""
        out = self.anatomy.owner(input_ids=ids, **{"use_cache": False, **kwargs})
        return hidden_of(out[0] if not isinstance(out, Tensor) else out)

    def logits(self, hidden: Float[Tensor, "... d"]) -> Float[Tensor, "... v"]:
        """Head applied to normed hidden states, in float32."""
        weight = next(self.anatomy.head.parameters())
        return self.anatomy.head(hidden.to(weight.device)).float()

    def finish(self, hidden: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """What runs between the last block and the head."""
        for module in self.anatomy.after:
            hidden = module(hidden)
        return hidden

    @contextmanager
    def recording(self) -> Iterator[list[Call]]:
        """Collect how each block is called during a forward pass inside the block; hidden states are left out."""
        calls: list[Call] = []

        def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls.append((("hidden", *args[1:]), {k: v for k, v in kwargs.items() if k != "hidden_states"}))

        hooks = [b.register_forward_pre_hook(keep, with_kwargs=True) for b in self.anatomy.blocks]
        try:
            yield calls
        finally:
            for h in hooks:
                h.remove()

    def calls(self, width: int) -> list[Call]:
        """How blocks are called for unpadded sequences of `width` tokens: positions and masks, for any batch."""
        if width not in self._calls:
            ids = torch.zeros(1, width, dtype=torch.long, device=self.input_device)
            with torch.no_grad(), self.recording() as calls:
                self.hidden(ids)
            self._calls[width] = calls
        return self._calls[width]

    def replay(self, hidden: Float[Tensor, "b t d"], calls: Sequence[Call], start: int) -> Float[Tensor, "b t d"]:
        """Run blocks `start`, `start`+1, ... on hidden states, called as recorded; before the final norm."""
        for block, (args, kwargs) in zip(self.anatomy.blocks[start:], calls[start:], strict=True):
            hidden = hidden_of(block(hidden, *args[1:], **kwargs))
        return hidden

    @torch.no_grad()
    def enter_all(self, ids: Tensor) -> Float[Tensor, "b t d"]:
        """The stream after the last block, before the final norm, for right-padded sequences."""
        seen: list[Tensor] = []

        def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen.append(args[0] if args else kwargs["hidden_states"])
            raise _Enough

        hook = self.anatomy.blocks[0].register_forward_pre_hook(keep, with_kwargs=True)
        try:
            with suppress(_Enough):
                self.hidden(ids)
        finally:
            hook.remove()
        return self.replay(seen[0], self.calls(ids.shape[1]), 0)

    @torch.no_grad()
    def enter(self, layer: Layer, ids: Tensor) -> tuple[Float[Tensor, "b t d_in"], Float[Tensor, "b t d"]]:
        """The projection's inputs, and its block's output as it would be if the projection gave zero."""
        keys: list[Tensor] = []
        rest: list[Tensor] = []

        def silence(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            keys.append(args[0].reshape(*ids.shape, -1))  # some families flatten the tokens of a batch
            return torch.zeros_like(output)

        def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            rest.append(hidden_of(output))
            raise _Enough

        hooks = [
            layer.module.register_forward_hook(silence),
            self.anatomy.blocks[layer.index].register_forward_hook(leave),
        ]
        try:
            with suppress(_Enough):
                self.hidden(ids)
        finally:
            for h in hooks:
                h.remove()
        return keys[0], rest[0]

    def _parts_make_the_whole(self) -> bool:
        """Do the fast paths give the network's own logits? Tried once, on two rows of a few tokens."""
        if not self.anatomy.additive:
            return False
        rows = [[i % int(self.config.vocab_size) for i in row] for row in ([1, 2, 3, 4, 5], [6, 7, 8])]
        reads = [(0, 2), (0, 4), (1, 1), (1, 2)]
        layer = self.layer_at((self.n_layers - 1) // 2)
        try:
            with torch.no_grad():
                ids = self.tokens(rows)
                keys, rest = self.enter(layer, ids)
                hidden = self.replay(rest + layer.module(keys), self.calls(ids.shape[1]), layer.index + 1)
                whole = self.net(input_ids=ids, use_cache=False).logits.float()
                found = [
                    (parts[at], whole[at].to(parts.device))
                    for parts in (self.logits(self.finish(h)) for h in (hidden, self.enter_all(ids)))
                    for at in reads
                ]
                plain, tail = (kind(self, layer.name, "mlp", rows, [2, 1], reads) for kind in (PlainSite, TailSite))
                found += [(tail.keys, plain.keys), (tail.out, plain.out), (tail.read(plain.out), plain.read(plain.out))]
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as e:
            log.debug("%s: %s", self.name, e)
            return False
        loose = 1e-4 if self.dtype == torch.float32 else 0.05
        return all(torch.allclose(a, b, rtol=loose, atol=loose * 10) for a, b in found)

    # -- questions -------------------------------------------------------------------------------------------------

    def scorer(self, examples: Sequence[Example], layers: Sequence[str] = ()) -> Scorer:
        """Examples made ready to be asked again and again while only `layers` (names) change."""
        return Scorer(self, examples, layers)

    def score(self, examples: Sequence[Example]) -> Scores:
        """Log-probabilities of every example's choices (see `Scores`)."""
        return Scorer(self, examples).score()

    @torch.no_grad()
    def trace(
        self, rows: Sequence[Sequence[int]], positions: Sequence[int], layers: Sequence[str]
    ) -> dict[str, Tensor]:
        """Inputs [rows, d_in] of some projections at one position of each sequence."""
        last = max(self.layers[n].index for n in layers)
        found: dict[str, list[Tensor]] = {n: [] for n in layers}
        for batch in self.batches([len(r) for r in rows]):
            at = torch.tensor([positions[i] for i in batch])
            seen = self.run_to(last, self.tokens([rows[i] for i in batch]), layers)
            for n in layers:
                found[n].append(seen[n][torch.arange(len(batch)), at.to(seen[n].device)])
        order = torch.tensor([i for batch in self.batches([len(r) for r in rows]) for i in batch])
        inverse = torch.argsort(order)
        return {n: torch.cat(found[n])[inverse.to(found[n][0].device)] for n in layers}

    @torch.no_grad()
    def run_to(self, last: int, ids: Tensor, layers: Sequence[str]) -> dict[str, Float[Tensor, "b t d_in"]]:
        """Run as far as block `last`'s projection and return the projections' inputs; later blocks never run."""
        seen: dict[str, Tensor] = {}

        def keep(name: str) -> Any:
            def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
                seen[name] = args[0].detach().reshape(*ids.shape, -1)
                if len(seen) == len(layers):
                    raise _Enough

            return hook

        hooks = [self.layers[n].module.register_forward_pre_hook(keep(n)) for n in layers]
        try:
            with suppress(_Enough):
                self.hidden(ids)
        finally:
            for h in hooks:
                h.remove()
        return seen

    @torch.no_grad()
    def block_output(self, layer: str, rows: Sequence[Sequence[int]], positions: Sequence[int]) -> Float[Tensor, "n d"]:
        """The residual stream after the block of `layer`, at one position of each sequence, in float32."""
        block = self.anatomy.blocks[self.layers[layer].index]
        seen: list[Tensor] = []

        def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            seen.append(hidden_of(output))
            raise _Enough

        found: list[Tensor] = [torch.empty(0)] * len(rows)
        hook = block.register_forward_hook(leave)
        try:
            for batch in self.batches([len(r) for r in rows]):
                with suppress(_Enough):
                    self.hidden(self.tokens([rows[i] for i in batch]))
                hidden = seen.pop()
                for b, i in enumerate(batch):
                    found[i] = hidden[b, positions[i]].float()
        finally:
            hook.remove()
        return torch.stack(found)

    def trainable(
        self, rows: Sequence[Sequence[int]], reads: Sequence[tuple[int, int]], layers: Sequence[str]
    ) -> Callable[[], Float[Tensor, "reads v"]]:
        """A function that gives logits at the reads (row, position), differentiable in the layers' parameters.

        The fast one runs everything below the lowest of the layers once, now.
        """
        ids = self.tokens(rows)
        at = (torch.tensor([r for r, _ in reads]), torch.tensor([p for _, p in reads]))
        if not self.fast:
            return lambda: self.net(input_ids=ids, use_cache=False).logits.float()[at]
        lowest = self.layers[min(layers, key=lambda n: self.layers[n].index)]
        keys, rest = self.enter(lowest, ids)
        calls = self.calls(ids.shape[1])

        def logits() -> Tensor:
            hidden = self.replay(rest + lowest.module(keys), calls, lowest.index + 1)
            return self.logits(self.finish(hidden[at]))

        return logits

    def batches(self, lengths: Sequence[int], budget: int | None = None) -> list[list[int]]:
        """Indices grouped by similar length into batches of at most `batch_tokens` padded tokens."""
        budget = budget or self.batch_tokens
        order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
        groups: list[list[int]] = []
        for i in order:
            if groups and (len(groups[-1]) + 1) * lengths[i] <= budget:
                groups[-1].append(i)
            else:
                groups.append([i])
        return groups

    def site(
        self,
        layer: str,
        where: str,
        rows: Sequence[Sequence[int]],
        positions: Sequence[int],
        reads: Sequence[tuple[int, int]],
        plain: bool | None = None,
    ) -> Site:
        """A place to inject a vector: `where` is "mlp" (the projection's output) or "block" (the residual stream).

        rows: token sequences; positions: the injection point of each; reads: (row, position) to take logits at.
        plain: None: as the model's `fast` says. Where only the plain site is exact, it is the one that is given.
        """
        plain = not self.fast if plain is None else plain
        plain = plain or not self.splits or max(len(r) for r in rows) > self.window
        return (PlainSite if plain else TailSite)(self, layer, where, rows, positions, reads)

    @torch.no_grad()
    def sample(
        self, prompt: str, n: int, length: int, generator: torch.Generator, top_k: int = 5, batch: int = 32
    ) -> list[str]:
        """n continuations of a prompt up to `length` tokens in total, by top-k sampling from a passed generator.

        An empty prompt starts from the begin-of-text token, which counts as one token and is not shown.
        """
        start = self.text.encode(prompt) or [self.text.begin]
        ids = torch.tensor([start] * n)
        while ids.shape[1] < length:
            logits = self.logits(self.hidden(ids.to(self.input_device))[:, -1]).cpu()
            top = logits.topk(min(top_k, logits.shape[-1]), dim=-1)
            pick = torch.multinomial(top.values.softmax(-1), 1, generator=generator)
            ids = torch.cat([ids, top.indices.gather(1, pick)], 1)
        return [self.text.decode(row) for row in ids.tolist()]


class _Enough(Exception):
    """Everything asked for has been seen; the rest of the forward pass is not needed."""


def load_pretrained(
    path: str, dtype: torch.dtype, device: torch.device, device_map: Any, revision: str | None, trust_remote_code: bool
) -> tuple[str, Any, Any]:
    """Read a checkpoint and its tokenizer. Every way in which that fails is one clear line."""
    import transformers
    from safetensors import SafetensorError

    from edit_robust.assets import asset_dir

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    source = str(asset_dir(path.removeprefix("builtin:"))) if path.startswith("builtin:") else path
    here = Path(source).expanduser()
    if here.exists():
        source = str(here)
        if not (here / "config.json").is_file():
            raise UserError(f"model.path={path} has no config.json: a folder in the Hugging Face format is needed")
    elif path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise UserError(f"model.path={path} does not exist")
    common: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, device_map=device_map, output_loading_info=True, **common
        )
    except SafetensorError as e:
        raise UserError(f"the weights in {path} are truncated or damaged ({e})") from e
    except torch.cuda.OutOfMemoryError as e:
        raise UserError(f"{path} does not fit on {device}: try model.dtype=bfloat16 or model.device_map=auto") from e
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as e:
        first = " ".join(str(e).split())[:240]
        hint = "" if here.exists() else "; with no connection to the hub, give model.path=FOLDER"
        raise UserError(f"the model {path} cannot be loaded: {first}{hint}") from e
    net, report = loaded
    missing = sorted(report.get("missing_keys", []))
    mismatched = report.get("mismatched_keys", [])
    if missing or mismatched:
        odd = missing[0] if missing else str(next(iter(mismatched)))
        raise UserError(
            f"the weights in {path} are not those of its config.json: "
            f"{len(missing) + len(mismatched)} tensors do not fit, first {odd}"
        )
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **common)
    except (OSError, ValueError, KeyError, ImportError) as e:
        raise UserError(f"the tokenizer of {path} cannot be loaded: {' '.join(str(e).split())[:200]}") from e
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(f"{path} has no fast tokenizer (tokenizer.json), which is needed to find subjects in prompts")
    if not tokenizer("a", add_special_tokens=False)["input_ids"]:  # made up from the config, without a vocabulary
        raise UserError(f"{path} has no tokenizer: a tokenizer.json is needed beside the weights")
    net.eval().requires_grad_(False)
    if device_map is None:
        net.to(device)
    return source, net, tokenizer
