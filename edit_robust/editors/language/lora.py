"""LoRA (Hu et al. 2022, arXiv 2106.09685) as an editor: an adapter of low rank is trained on the new fact and merged.

    W x + (alpha / r) B A x,   A [r, d_in] drawn at random, B [d_out, r] = 0 at the start

Only A and B are trained, with Adam, on -log p of the target's tokens (teacher forcing), the mean over a request's
tokens, then over requests. The change is (alpha / r) B A. Adapters are those of the package peft, on the model in
memory; they are float32 where the model is in half precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, ClassVar
from zlib import crc32

import torch
from torch import Tensor, nn

from edit_robust.core import Delta, LowRank, Request, TextRequest, UserError
from edit_robust.core.editable import Layer
from edit_robust.core.work import Workspace
from edit_robust.editors.base import Edit, State, check_numbers, continuation, refuse_nonfinite
from edit_robust.editors.helpers.reproducible import reproducible
from edit_robust.models.language.causal_lm import CausalLM
from edit_robust.models.language.entry import AtBlock
from edit_robust.tasks.base import Task

ENOUGH = 1e-2
#: What peft calls the one adapter that there is.
ADAPTER = "default"


class Lora:
    """Adapters at the down-projections of some blocks, a new one for every edit, at the weights as they are then.

    rank: r, at most the smaller side of the weights.   lora_alpha: the change is scaled by lora_alpha / rank.
    num_steps: of Adam; a step is skipped below a loss of 0.01, and when all batches are below it training ends.
    batch_size: requests a gradient step sees when several are edited at once.
    UserError without the package peft.
    """

    batches = True
    needs: ClassVar[tuple[str, ...]] = ("trainable",)
    takes: ClassVar[type[Request]] = TextRequest

    def __init__(
        self,
        name: str = "lora",
        layers: int | list[int] | str = "auto",
        rank: int = 8,
        lora_alpha: float = 32.0,
        lr: float = 5e-3,
        num_steps: int = 70,
        weight_decay: float = 0.0,
        batch_size: int = 64,
    ) -> None:
        if find_spec("peft") is None:
            raise UserError("editor=lora needs the package peft: pip install 'edit-robust[lora]'")
        check_numbers(
            {"rank": rank, "lora_alpha": lora_alpha, "lr": lr, "num_steps": num_steps, "batch_size": batch_size},
            {"weight_decay": weight_decay},
        )
        self.name, self.layers, self.rank, self.lora_alpha = name, layers, rank, lora_alpha
        self.lr, self.num_steps, self.weight_decay, self.batch_size = lr, num_steps, weight_decay, batch_size

    def auto_layers(self, n_layers: int) -> list[int]:
        """All blocks, as adapters are used elsewhere."""
        return list(range(n_layers))

    def prepare(self, model: CausalLM, layers: Sequence[str], task: Task, work: Workspace) -> State:
        edited = [model.layers[n] for n in sorted(layers, key=lambda n: model.layers[n].index)]
        for layer in edited:
            if self.rank > min(layer.shape):
                d_out, d_in = layer.shape
                raise UserError(f"editor.rank={self.rank} is more than a matrix of {d_out} x {d_in} has ({layer.name})")
        weights = tuple(layer.weight_name for layer in edited)
        return State(tuple(layer.name for layer in edited), work.seed, weights)

    def edit_each(self, model: CausalLM, requests: Sequence[Request], state: State) -> list[Edit]:
        return [self.edit(model, [r], state) for r in requests]

    def edit(self, model: CausalLM, requests: Sequence[Request], state: State) -> Edit:
        layers = [model.layers[n] for n in state.layers]
        chunks = [requests[i : i + self.batch_size] for i in range(0, len(requests), self.batch_size)]
        batches = [(_loss_of(model, chunk, layers[0].index), len(chunk)) for chunk in chunks]
        seed = state.given + crc32("\x00".join(r.id for r in requests).encode())
        with self._adapted(model, layers, seed) as adapters, reproducible(model.device):
            trained = [p for pair in adapters.values() for p in pair]
            optimiser = torch.optim.Adam(trained, lr=self.lr, weight_decay=self.weight_decay)
            steps, last = 0, 0.0
            for _ in range(self.num_steps):
                losses = []
                for batch, n in batches:
                    optimiser.zero_grad()
                    with torch.enable_grad():
                        loss = batch()
                    losses.append((loss.item(), n))
                    if not loss.item() >= ENOUGH:  # also when it is NaN: nothing more can be learnt from it
                        continue
                    loss.backward()
                    optimiser.step()
                    steps += 1
                last = sum(x * n for x, n in losses) / len(requests)
                if last < ENOUGH:
                    break
            scale = self.lora_alpha / self.rank
            terms = {
                layer.weight_name: LowRank((scale * b.detach().float()).contiguous(), a.detach().float().T.contiguous())
                for layer, (a, b) in zip(layers, adapters.values(), strict=True)
            }
        delta = Delta(terms, model.position)
        info = {"edit_loss": last, "edit_steps": float(steps), "delta_norm": delta.norm()}
        if last != last:  # NaN: the loss says so even where the factors do not
            delta = delta.scale(float("nan"))
        return refuse_nonfinite(Edit(delta, [dict(info) for _ in requests]))

    @contextmanager
    def _adapted(
        self, model: CausalLM, layers: Sequence[Layer], seed: int
    ) -> Iterator[dict[str, tuple[nn.Parameter, nn.Parameter]]]:
        """Inside the block the projections carry adapters: their A and B by the projection's name. They are drawn from
        the seed; afterwards the network is the one before, module by module."""
        from peft import LoraConfig, inject_adapter_in_model

        net: Any = model.net
        before = vars(net).get("peft_config")
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.lora_alpha,  # type: ignore[arg-type]
            target_modules=[layer.name for layer in layers],
            lora_dropout=0.0,
            fan_in_fan_out=layers[0].kind == "conv1d",
        )
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                inject_adapter_in_model(config, net, ADAPTER)
            found = {}
            for layer in layers:
                wrapped: Any = net.get_submodule(layer.name)
                # in half precision most of Adam's steps would be rounded away, and its epsilon is 0 in float16
                pair = wrapped.lora_A[ADAPTER].float(), wrapped.lora_B[ADAPTER].float()
                found[layer.name] = (pair[0].weight, pair[1].weight)
            yield found
        finally:
            for layer in layers:
                parent, _, own = layer.name.rpartition(".")
                setattr(net.get_submodule(parent), own, layer.module)
            if before is None:
                vars(net).pop("peft_config", None)
            else:
                net.peft_config = before


def _loss_of(model: CausalLM, requests: Sequence[Request], lowest: int) -> Callable[[], Tensor]:
    """A function that gives the loss of a batch, from the block `lowest` on; what lies below is computed now."""
    pairs = model.text.pairs([(r.prompt, continuation(r)) for r in requests])
    ids = model.tokens([tokens[:-1] for tokens, _ in pairs])
    reads, goals, shares = [], [], []
    for i, (tokens, n) in enumerate(pairs):
        goal = tokens[n:]
        reads += [(i, n - 1 + j) for j in range(len(goal))]
        goals += goal
        shares += [1.0 / (len(goal) * len(requests))] * len(goal)
    at = (torch.tensor([r for r, _ in reads]), torch.tensor([p for _, p in reads]))
    wanted, share = torch.tensor(goals), torch.tensor(shares)
    if model.fast and model.abilities.blocks:
        entry = AtBlock(model, lowest)
        kept, calls = entry.capture(ids), model.calls(ids.shape[1], len(ids))

    def logits() -> Tensor:
        if not model.fast:
            return model.whole(ids)[at]
        if not model.abilities.blocks:
            return model.logits_at(ids, at)
        return model.logits(model.finish(model.replay(entry.resume(kept), calls, lowest)[at]))

    def loss() -> Tensor:
        logp = logits().log_softmax(-1)
        picked = logp.gather(1, wanted.to(logp.device)[:, None])[:, 0]
        return -(picked * share.to(logp.device)).sum()

    return loss
