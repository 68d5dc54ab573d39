"""ROME, MEMIT and FT-C written as plainly as they can be: one prompt at a time, whole forward passes, torch's own
optimiser, dense inverses, tokens found by tokenising the parts apart. Nothing of the project is used here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Fact = tuple[str, str, str]  # prompt with {}, subject, target


class Reference:
    def __init__(self, net: Any, tokenizer: Any, projection: str, block: str, transposed: bool) -> None:
        self.net, self.tok, self.transposed = net, tokenizer, transposed
        self.projection: Callable[[int], Any] = lambda i: net.get_submodule(projection.format(i))
        self.block: Callable[[int], Any] = lambda i: net.get_submodule(block.format(i))

    def begin(self, text: str) -> list[int]:
        return list(self.tok(text)["input_ids"])

    def go_on(self, text: str) -> list[int]:
        return list(self.tok(text, add_special_tokens=False)["input_ids"]) if text else []

    def locate(self, template: str, subject: str) -> tuple[list[int], int]:
        """Tokens of the template with the subject in it, and the index of the subject's last token."""
        prefix, suffix = template.split("{}")
        opens = not prefix.strip()
        ids = self.begin(subject) if opens else self.begin(prefix.rstrip()) + self.go_on(" " + subject)
        return ids + self.go_on(suffix), len(ids) - 1

    @contextmanager
    def adding(self, module: nn.Module, at: int, delta: Tensor) -> Iterator[None]:
        def hook(m: Any, args: Any, out: Any) -> Any:
            h = (out if isinstance(out, Tensor) else out[0]).clone()
            h[0, at] += delta
            return h if isinstance(out, Tensor) else (h, *out[1:])

        handle = module.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    def seen(self, module: nn.Module, ids: list[int]) -> tuple[Tensor, Tensor]:
        """Inputs and outputs of a module, position by position."""
        found: list[Tensor] = []

        def hook(m: Any, args: Any, out: Any) -> None:
            found.extend([args[0][0], (out if isinstance(out, Tensor) else out[0])[0]])

        handle = module.register_forward_hook(hook)
        with torch.no_grad():
            self.net(torch.tensor([ids]))
        handle.remove()
        return found[0], found[1]

    def value(self, i: int, where: str, fact: Fact, templates: Sequence[str], o: dict[str, float]) -> Tensor:
        module = self.projection(i) if where == "mlp" else self.block(i)
        prompt, subject, target = fact
        goal = self.go_on(" " + target)
        prompts = [self.locate(t.replace("{}", prompt), subject) for t in templates]
        kl_ids, kl_at = self.locate("{} is a", subject)
        bare_ids, bare_at = self.locate(prompt, subject)
        init = self.seen(module, bare_ids)[1][bare_at]
        delta = torch.zeros_like(init, requires_grad=True)
        adam = torch.optim.Adam([delta], lr=o["lr"])
        unedited = None
        for step in range(int(o["steps"])):
            adam.zero_grad()
            nll = torch.zeros(())
            for ids, at in prompts:
                with self.adding(module, at, delta):
                    logp = self.net(torch.tensor([ids + goal[:-1]])).logits[0].log_softmax(-1)
                nll = nll - sum(logp[len(ids) - 1 + j, t] for j, t in enumerate(goal)) / len(goal) / len(prompts)
            with self.adding(module, kl_at, delta):
                now = self.net(torch.tensor([kl_ids])).logits[0, kl_at].log_softmax(-1)
            unedited = now.detach() if unedited is None else unedited
            kl = o["kl"] * F.kl_div(unedited[None], now[None], log_target=True, reduction="batchmean")
            loss = nll + kl + o["decay"] * delta.norm() / init.norm() ** 2
            if loss < 0.05 or step == o["steps"] - 1:
                break
            loss.backward()
            adam.step()
            with torch.no_grad():
                if delta.norm() > o["clamp"] * init.norm():
                    delta.mul_(o["clamp"] * init.norm() / delta.norm())
        return (init + delta).detach()

    def keys(self, i: int, fact: Fact, templates: Sequence[str]) -> Tensor:
        places = [self.locate(t.replace("{}", fact[0]), fact[1]) for t in templates]
        return torch.stack([self.seen(self.projection(i), ids)[0][at] for ids, at in places])

    def rome(self, i: int, fact: Fact, templates: Sequence[str], moment: Tensor, o: dict[str, float]) -> Tensor:
        v = self.value(i, "mlp", fact, templates, o)
        mean, bare = self.keys(i, fact, templates).mean(0), self.keys(i, fact, ["{}"])[0]
        u = torch.inverse(moment.double()) @ mean.double()
        u = u / u.norm()
        ids, at = self.locate(fact[0], fact[1])
        out = self.seen(self.projection(i), ids)[1][at]
        return torch.outer((v - out).double() / (bare.double() @ u), u)

    def memit(
        self, layers: Sequence[int], facts: Sequence[Fact], groups: Any, moments: Any, lam: float, o: dict[str, float]
    ) -> list[Tensor]:
        templates = [t for g in groups for t in g]
        goals = torch.stack([self.value(layers[-1], "block", f, templates, o) for f in facts])
        before = {i: self.projection(i).weight.detach().clone() for i in layers}
        changes = []
        for n, i in enumerate(layers):
            keys = [torch.stack([self.keys(i, f, g).mean(0) for g in groups]).mean(0) for f in facts]
            k = torch.stack(keys).double().T
            places = [self.locate(f[0], f[1]) for f in facts]
            now = torch.stack([self.seen(self.block(layers[-1]), ids)[1][at] for ids, at in places])
            residual = (goals - now).double().T / (len(layers) - n)
            change = residual @ torch.linalg.solve(lam * moments[i].double() + k @ k.T, k).T
            changes.append(change)
            with torch.no_grad():
                self.projection(i).weight.add_((change.T if self.transposed else change).float())
        with torch.no_grad():
            for i, w in before.items():
                self.projection(i).weight.copy_(w)
        return changes

    def fine_tune(self, i: int, fact: Fact, lr: float, steps: int, eps: float, at_prompt: bool) -> dict[str, Tensor]:
        """FT-C; changes of the parameters, in (d_out, d_in) orientation."""
        parameters = dict(self.projection(i).named_parameters())
        before = {n: p.detach().clone() for n, p in parameters.items()}
        for p in parameters.values():
            p.requires_grad_(True)
        adam = torch.optim.Adam(parameters.values(), lr=lr)
        prompt, goal = self.begin(fact[0].replace("{}", fact[1])), self.go_on(" " + fact[2])
        for _ in range(steps):
            adam.zero_grad()
            logp = self.net(torch.tensor([prompt + ([] if at_prompt else goal[:-1])])).logits[0].log_softmax(-1)
            last = len(prompt) - 1
            loss = -sum(logp[last + (0 if at_prompt else j), t] for j, t in enumerate(goal)) / len(goal)
            if loss < 1e-2:
                break
            loss.backward()
            adam.step()
            with torch.no_grad():
                for n, p in parameters.items():
                    p.copy_(torch.maximum(torch.minimum(p, before[n] + eps), before[n] - eps))
        changes = {}
        with torch.no_grad():
            for n, p in parameters.items():
                change = p.detach() - before[n]
                changes[n] = change.T if self.transposed and change.dim() == 2 else change
                p.copy_(before[n])
                p.grad = None
        self.net.requires_grad_(False)
        return changes
