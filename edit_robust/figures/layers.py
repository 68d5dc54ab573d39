"""Short names for parameters."""

from __future__ import annotations

from collections.abc import Sequence


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Readable names that stay distinct: `layer 13`, `layer 13 (mlp.c_proj)`, else the parts that differ."""
    split = {name: name.removesuffix(".weight").split(".") for name in dict.fromkeys(names)}
    depth = {name: [part for part in parts if part.isdigit()] for name, parts in split.items()}
    if all(len(numbers) == 1 for numbers in depth.values()):
        after = {name: ".".join(parts[parts.index(depth[name][0]) + 1 :]) for name, parts in split.items()}
        several = len(set(after.values())) > 1
        short = {
            name: f"layer {depth[name][0]}" + (f" ({after[name]})" if several and after[name] else "") for name in split
        }
    else:
        short = {name: ".".join(parts[-3:]) for name, parts in split.items()}
    return short if len(set(short.values())) == len(short) else {name: name for name in split}
