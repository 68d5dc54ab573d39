"""A folder that open_clip loads by `open_clip.create_model_and_transforms("local-dir:FOLDER")`, both towers in it."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from edit_robust.exports.edited import Edited
from edit_robust.models.base import Model
from edit_robust.models.vision import clip_stem
from edit_robust.models.vision.clip import Clip

CONFIG, WEIGHTS, HEAD, STEM = "open_clip_config.json", "open_clip_model.safetensors", "head.safetensors", "stem.py"
RESIZE = {"center": "shortest", "squash": "squash"}


def lacks(model: Model) -> str:
    """What a model lacks for this format, in words."""
    return "" if isinstance(model, Clip) else "is no CLIP"


def write(edited: Edited, folder: Path, rank: int | None) -> str:
    """Write the folder: config, weights of both towers, the tokenizer's files, and the head where that was trained.

    -> how it is loaded
    """
    model = edited.model
    assert isinstance(model, Clip)
    source, how = model.source, model.preprocessing
    config: dict[str, Any] = {
        "model_cfg": source.config,
        "preprocess_cfg": {
            "size": how.size,
            "mean": list(how.mean),
            "std": list(how.std),
            "interpolation": how.interpolation,
            "resize_mode": RESIZE[how.mode],
        },
    }
    if source.stem:
        config["stem"] = source.stem
        folder.joinpath(STEM).write_text(_stem_source(), encoding="utf-8")
    if source.words:
        config["classes"], config["templates"] = (list(words) for words in source.words)
    folder.joinpath(CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in model.text.clip.state_dict().items()},
              folder / WEIGHTS, metadata={"format": "pt"})  # fmt: skip
    for file in source.files:
        shutil.copy(file, folder / file.name)
    text = _loading(bool(source.stem))
    if model.head_parameters:
        head = model.param("head").detach().cpu().contiguous().clone()
        save_file({"head": head}, folder / HEAD, metadata={"classes": json.dumps(list(model.classes or ()))})
        text += f"""

# the head was edited, too: logits = features @ head.T, features of length 1, classes in the file's header
from safetensors.torch import load_file

head = load_file("FOLDER/{HEAD}")["head"]"""
    return text


def _loading(stem: bool) -> str:
    if stem:
        return f"""# open_clip has no stem of convolutions: {STEM} in this folder puts it in
import sys

sys.path.insert(0, "FOLDER")
from stem import create_model_and_transforms

model, preprocess, tokenizer = create_model_and_transforms("FOLDER")"""
    return """import open_clip

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:FOLDER")
model.eval()
tokenizer = open_clip.get_tokenizer("local-dir:FOLDER")"""


def _stem_source() -> str:
    """A module that loads this folder with open_clip's parts and the stem, which open_clip does not have."""
    head = '''"""Loads the CLIP of this folder: open_clip's network, its patches made by 3 x 3 convolutions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from safetensors.torch import load_file
from torch import Tensor, nn
'''
    tail = f'''def create_model_and_transforms(folder: str) -> tuple[nn.Module, Any, Any]:
    """The model in evaluation mode, how images are made ready, and the tokenizer."""
    here = Path(folder)
    config = json.loads((here / "{CONFIG}").read_text(encoding="utf-8"))
    model = open_clip.CLIP(**config["model_cfg"]).eval()
    add_stem(model, config["stem"])
    model.load_state_dict(load_file(here / "{WEIGHTS}"))
    preprocess = image_transform_v2(PreprocessCfg(**config["preprocess_cfg"]), is_train=False)
    text = config["model_cfg"]["text_cfg"]
    options = dict(text.get("tokenizer_kwargs") or {{}})
    if "bpe_path" in options:
        options["bpe_path"] = str(here / options["bpe_path"])
    return model, preprocess, open_clip.SimpleTokenizer(context_length=text["context_length"], **options)
'''
    parts = [inspect.getsource(clip_stem.ConvolutionalStem), inspect.getsource(clip_stem.add_stem)]
    return "\n\n".join([head, *parts, tail]).replace("import torch\n", "")
