"""A CLIP's text tower, and the zero-shot heads that it makes from names of classes and templates."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edit_robust.core.editable import fingerprint
from edit_robust.core.errors import UserError
from edit_robust.core.files import atomic_path
from edit_robust.core.vocabulary import PLACE

#: Texts to token ids [n, context].
Tokenizer = Callable[[Sequence[str]], Tensor]
AT_ONCE = 256  # texts that are encoded as one batch
MANY = 20_000  # texts that take minutes on a CPU
log = logging.getLogger(__name__)


class TextTower:
    """What reads the words: open_clip's model without its image tower, and its tokenizer.

    clip:  an open_clip model; its image tower is left alone.   folder: where heads are kept; None: nowhere.
    """

    def __init__(self, clip: Any, tokenizer: Tokenizer, folder: Path | None = None) -> None:
        self.clip, self.tokenizer, self.folder = clip, tokenizer, folder
        names = [n for n, _ in clip.named_parameters() if not n.startswith("visual.")]
        held = nn.ParameterDict({n.replace(".", "/"): clip.get_parameter(n) for n in names})
        #: A hash of the tower's weights, the scale of the logits among them.
        self.digest = fingerprint(held, {})

    def head(self, class_names: Sequence[str], templates: Sequence[str]) -> Float[Tensor, "classes d"]:
        """Of each class: the mean of its templates' normalised embeddings, normalised, times exp(logit_scale).

        As PAINT and CLIP build it, without a bias. Taken from the folder where it has been made before from the same
        weights and the same token ids.
        """
        ids = self.tokenizer([t.replace(PLACE, name) for name in class_names for t in templates])
        if self.folder is None:
            return self._made(ids, len(class_names))
        about = f"{self.digest}:{len(class_names)}:{tuple(ids.shape)}:"
        key = hashlib.sha256(about.encode() + ids.cpu().numpy().tobytes()).hexdigest()[:16]
        path = self.folder / f"{key}.safetensors"
        if not path.is_file():
            with atomic_path(path) as temporary:  # two processes write the same
                save_file({"head": self._made(ids, len(class_names)).cpu().contiguous()}, temporary)
        try:
            head = load_file(path)["head"]
        except (SafetensorError, OSError, KeyError) as e:
            raise UserError(f"the stored head {path} cannot be read ({e}); delete it to compute it again") from e
        projection = getattr(self.clip, "text_projection", None)
        width = projection.shape[1] if isinstance(projection, Tensor) else None
        if head.dim() != 2 or len(head) != len(class_names) or (width is not None and head.shape[1] != width):
            raise UserError(
                f"the stored head {path} is {list(head.shape)}, that of another model or of other words: "
                f"{len(class_names)} classes{'' if width is None else f' x {width}'} are needed; delete it"
            )
        return head.to(self._device)

    @property
    def _device(self) -> torch.device:
        device: torch.device = self.clip.logit_scale.device
        return device

    @torch.no_grad()
    def _made(self, ids: Int[Tensor, "texts context"], n_classes: int) -> Float[Tensor, "classes d"]:
        """The head from token ids, those of a class one after the other."""
        if len(ids) >= MANY and self._device.type == "cpu":
            once = "; it is made once" if self.folder else ""
            log.warning("a head is made from %d sentences, which takes long without a GPU%s", len(ids), once)
        found = torch.cat([self._encoded(part.to(self._device)) for part in ids.split(AT_ONCE)])
        mean = found.reshape(n_classes, -1, found.shape[-1]).mean(1)
        head: Tensor = mean / mean.norm(dim=-1, keepdim=True) * self.clip.logit_scale.float().exp()
        return head

    def _encoded(self, ids: Int[Tensor, "texts context"]) -> Float[Tensor, "texts d"]:
        """Normalised embeddings of texts.

        Where every token sees only those before it, as in CLIP's own text tower, what follows the longest text's end is
        not computed: prompts take 10 to 20 of 77 places.
        """
        length = self._longest(ids)
        with _shortened(self.clip, length) if length else nullcontext():
            out: Tensor = self.clip.encode_text(ids[:, :length] if length else ids, normalize=True)
        return out.float()

    def _longest(self, ids: Int[Tensor, "texts context"]) -> int | None:
        """Places up to the last end token; None where the text tower is not CLIP's own, or sees the places behind."""
        pool, mask = getattr(self.clip, "text_pool_type", None), getattr(self.clip, "attn_mask", None)
        if mask is None or pool not in ("argmax", "eos"):
            return None
        ends = ids.argmax(-1) if pool == "argmax" else (ids == self.clip.text_eos_id).int().argmax(-1)
        return int(ends.max()) + 1


@contextmanager
def _shortened(clip: Any, length: int) -> Iterator[None]:
    """Inside the block CLIP's text tower takes texts of `length` tokens."""
    positions, mask = clip.positional_embedding.data, clip.attn_mask
    try:
        clip.positional_embedding.data, clip.attn_mask = positions[:length], mask[:length, :length]
        yield
    finally:
        clip.positional_embedding.data, clip.attn_mask = positions, mask
