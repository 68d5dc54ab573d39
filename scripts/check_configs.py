"""Compose and bind every choice of every group, every preset and every experiment, without loading a weight."""

from __future__ import annotations

import sys

from edit_robust.config.check import check
from edit_robust.config.compose import GROUPS, choices, compose, expand
from edit_robust.config.fit import partners
from edit_robust.core.errors import UserError

#: Choices that build on another one of their group.
WITH = {"forgetting": "[answers,forgetting]", "text-shifts": "[answers,text-shifts]"}
#: What some choices need to be complete.
NEEDS = {
    "editor=checkpoint": ["editor.path=folder"],
    "model=hf": ["model.path=folder"],
    "model=timm": ["model.name=resnet18"],
    "model=torchvision": ["model.name=resnet18"],
    "model=module": ["model.factory=torchvision.models.resnet18"],
    "task=facts": ["task.path=facts.csv"],
    "task=mnist": ["task.path=mnist.npz"],
    "task=svhn": ["task.path=mnist.npz"],
    "task=kitti-distance": ["task.path=mnist.npz"],
    "task=image-folder": ["task.path=mnist.npz"],
    "task=pairs": ["task.path=pairs.csv", "task.original=images"],
    "task=vehicles-on-snow": ["task.snow=snow", "task.original=images"],
    "task=concept-style": ["task.original=images", "task.segmentations=segmentations", "task.styles=styles"],
}


def jobs() -> list[list[str]]:
    """One list of overrides a choice; for an experiment that sweeps, one for each value of what it sweeps."""
    found = []
    for group in GROUPS:
        for name in choices(group):
            if group == "preset":
                editor, _, model = name.partition("/")
                task = [o for o in partners("preset", name) if o.startswith("task=")]
                found.append([f"editor={editor}", f"model={model}", *task])
            else:
                own = f"{group}={WITH.get(name, name)}"
                found.append([own, *partners(group, name), *NEEDS.get(f"{group}={name}", [])])
            if group == "experiment":
                cfg = compose([f"experiment={name}"], with_hydra=True)
                swept = [f"{k}={v}" for k, v in (cfg.hydra.sweeper.params or {}).items()]
                found += expand([f"experiment={name}", *swept])
    return found


def main() -> int:
    """Print what does not fit; the number of complaints is the exit code."""
    complaints = 0
    tried = jobs()
    for overrides in tried:
        try:
            check(compose(overrides))
        except UserError as e:
            complaints += 1
            print(f"{' '.join(overrides)}: {e}", file=sys.stderr)
    print(f"{len(tried)} configs composed and bound, {complaints} complaints")
    return complaints


if __name__ == "__main__":
    raise SystemExit(main())
