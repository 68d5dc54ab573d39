"""A CLIP's text tower, and the zero-shot heads that it makes from names of classes and templates."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
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
            return load_file(path)["head"].to(self._device)
        except (SafetensorError, OSError, KeyError) as e:
            raise UserError(f"the stored head {path} cannot be read ({e}); delete it to compute it again") from e

    @property
    def _device(self) -> torch.device:
        device: torch.device = self.clip.logit_scale.device
        return device

    @torch.no_grad()
    def _made(self, ids: Int[Tensor, "texts context"], n_classes: int) -> Float[Tensor, "classes d"]:
        """The head from token ids, those of a class one after the other."""
        encode = self.clip.encode_text
        found = torch.cat([encode(part.to(self._device), normalize=True).float() for part in ids.split(AT_ONCE)])
        mean = found.reshape(n_classes, -1, found.shape[-1]).mean(1)
        head: Tensor = mean / mean.norm(dim=-1, keepdim=True) * self.clip.logit_scale.float().exp()
        return head
