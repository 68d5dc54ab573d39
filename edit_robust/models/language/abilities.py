"""What of a network may be run alone; `fast_paths` finds it out by trying."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Abilities:
    """Parts that give the whole network's numbers when they are run alone.

    reads:          logits at some positions from the hidden states there.
    through_net:    these logits are the network's own function of the hidden states and not the head alone: it caps or
                    scales them.
    blocks:         starting at a block, or behind the last one, from the stream that enters there.
    calls_by_batch: how blocks are called depends on the number of rows.
    projections:    starting at a down-projection, whose output is added to the stream as it is.
    narrow:         running the last MLP at some positions alone.
    tails:          reading prefixes once, keys and values kept; rows of different lengths with a gap between.
    recorded:       running a step of an optimisation again as the list of operations that it came to.
    missing:        why the others are not possible, by name.
    """

    reads: bool = False
    through_net: bool = False
    blocks: bool = False
    calls_by_batch: bool = False
    projections: bool = False
    narrow: bool = False
    tails: bool = False
    recorded: bool = False
    missing: Mapping[str, str] = field(default_factory=dict)

    def warning(self) -> str:
        """One line about what is slower than it could be, and why; "" where nothing is."""
        slower = {
            "reads": "logits are computed at every position",
            "blocks": "every forward pass starts at the tokens, in ordinary batches",
            "projections": "forward passes start at the edited block and not at its projection",
            "tails": "the value optimisation and generated text run whole sequences, in ordinary batches",
        }
        first = next((name for name in slower if name in self.missing), None)
        return "" if first is None else f"{slower[first]}: {self.missing[first]}"
