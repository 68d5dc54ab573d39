"""Checkpoints of CLIPs in other forms than open_clip's: OpenAI's state dicts, and Hugging Face's folders."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edit_robust.core.errors import UserError, nearest
from edit_robust.models.vision.weights import read_weights

#: Numbers that OpenAI's archives keep beside the weights. Only checkpoints that are theirs have them.
OPENAI_MARKS = ("input_resolution", "context_length", "vocab_size")
#: What a state dict of a CLIP holds, whoever wrote it down.
IMAGE_KEY, TEXT_KEY = "visual.positional_embedding", "token_embedding.weight"


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file. UserError for a TorchScript archive, which holds code, and for anything else
    that is no file of weights."""
    if path.is_file() and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.split("/")[1:2] == ["code"] for name in archive.namelist()):
                raise UserError(
                    f"{path} is a TorchScript archive, which holds code, and is not opened here; convert it once: "
                    f"torch.save(torch.jit.load('{path.name}').state_dict(), '{path.stem}-weights.pt')"
                )
    return {k.removeprefix("module."): v for k, v in read_weights(path).items()}


def is_openai(state: Mapping[str, Any]) -> bool:
    """Whether a state dict says of itself that it is OpenAI's, whose networks have QuickGELU."""
    return any(mark in state for mark in OPENAI_MARKS)


def openai_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """open_clip's config of a vision transformer's state dict, read off the shapes; heads are 64 wide, as OpenAI's."""
    width = state["visual.conv1.weight"].shape[0]
    patch = state["visual.conv1.weight"].shape[-1]
    grid = round((state[IMAGE_KEY].shape[0] - 1) ** 0.5)
    text_width = state["ln_final.weight"].shape[0]
    return {
        "embed_dim": state["text_projection"].shape[1],
        "vision_cfg": {
            "image_size": patch * grid, "patch_size": patch, "width": width,
            "layers": _blocks(state, "visual.transformer.resblocks."), "head_width": min(64, width),
            "mlp_ratio": state["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0] / width,
        },
        "text_cfg": {
            "context_length": state["positional_embedding"].shape[0], "vocab_size": state[TEXT_KEY].shape[0],
            "width": text_width, "heads": max(1, text_width // 64), "layers": _blocks(state, "transformer.resblocks."),
            "mlp_ratio": state["transformer.resblocks.0.mlp.c_fc.weight"].shape[0] / text_width,
        },
    }  # fmt: skip


def _blocks(state: Mapping[str, Any], prefix: str) -> int:
    return len({k.removeprefix(prefix).partition(".")[0] for k in state if k.startswith(prefix)})


# -- Hugging Face ------------------------------------------------------------------------------------------------------

_ACTIVATIONS = {"quick_gelu": True, "gelu": False}
_RESAMPLING = {2: "bilinear", 3: "bicubic"}
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_BLOCK = (
    ("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"), ("self_attn.out_proj", "attn.out_proj"), ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
)  # fmt: skip


def is_hugging_face(folder: Path) -> bool:
    """Whether a folder has a config.json as transformers writes it."""
    return "model_type" in _json(folder / "config.json")


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as e:
        raise UserError(f"{path} is no readable json: {str(e)[:80]}") from e
    return found if isinstance(found, dict) else {}


def hugging_face_config(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """open_clip's model_cfg and preprocess_cfg of a Hugging Face CLIP. UserError for another kind of model."""
    config = _json(folder / "config.json")
    if config.get("model_type") != "clip":
        raise UserError(
            f"{folder} holds a {config.get('model_type')!r} model; of Hugging Face's formats CLIP can be read "
            "(model_type clip); SigLIP and others come from open_clip: model=open-clip model.name=ARCHITECTURE"
        )
    from transformers import CLIPConfig

    full: Any = CLIPConfig(**config)
    towers = []
    for about, part in (("vision_config", full.vision_config), ("text_config", full.text_config)):
        if part.hidden_act not in _ACTIVATIONS:
            known = nearest(part.hidden_act, _ACTIVATIONS)
            raise UserError(f"{folder}: {about}.hidden_act={part.hidden_act} is unknown; {known}")
        towers.append(part)
    vision, text = towers
    if vision.hidden_act != text.hidden_act:
        raise UserError(f"{folder}: the towers have different activations, which open_clip's networks cannot have")
    eos = text.eos_token_id
    by_id = eos not in (None, 2) and eos != text.vocab_size - 1
    model = {
        "embed_dim": full.projection_dim,
        "quick_gelu": _ACTIVATIONS[vision.hidden_act],
        "vision_cfg": {
            "image_size": vision.image_size, "patch_size": vision.patch_size, "width": vision.hidden_size,
            "layers": vision.num_hidden_layers, "head_width": vision.hidden_size // vision.num_attention_heads,
            "mlp_ratio": vision.intermediate_size / vision.hidden_size, "norm_kwargs": {"eps": vision.layer_norm_eps},
        },
        "text_cfg": {
            "context_length": text.max_position_embeddings, "vocab_size": text.vocab_size, "width": text.hidden_size,
            "heads": text.num_attention_heads, "layers": text.num_hidden_layers,
            "mlp_ratio": text.intermediate_size / text.hidden_size, "norm_kwargs": {"eps": text.layer_norm_eps},
            **({"pool_type": "eos", "eos_id": eos} if by_id else {}),
        },
    }  # fmt: skip
    return model, _hugging_face_preprocessing(_json(folder / "preprocessor_config.json"), vision.image_size)


def _hugging_face_preprocessing(found: Mapping[str, Any], size: int) -> dict[str, Any]:
    side = found.get("crop_size", found.get("size", size))
    side = next(iter(side.values())) if isinstance(side, Mapping) else side
    how = {"size": int(side), "interpolation": _RESAMPLING.get(found.get("resample", 3), "bicubic")}
    how["resize_mode"] = "shortest" if found.get("do_center_crop", True) else "squash"
    return how | {k: tuple(found[f"image_{k}"]) for k in ("mean", "std") if f"image_{k}" in found}


def hugging_face_state(folder: Path) -> dict[str, Tensor]:
    """The weights of a Hugging Face CLIP under open_clip's names: q, k and v in one matrix, projections transposed."""
    path = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"{folder} has a config.json, but no weights ({' or '.join(_WEIGHTS)})")
    theirs = read_weights(path)
    out = {"logit_scale": theirs["logit_scale"]}
    out["visual.class_embedding"] = theirs["vision_model.embeddings.class_embedding"].reshape(-1)
    out["visual.conv1.weight"] = theirs["vision_model.embeddings.patch_embedding.weight"]
    out[IMAGE_KEY] = theirs["vision_model.embeddings.position_embedding.weight"]
    out[TEXT_KEY] = theirs["text_model.embeddings.token_embedding.weight"]
    out["positional_embedding"] = theirs["text_model.embeddings.position_embedding.weight"]
    out["visual.proj"] = theirs["visual_projection.weight"].T.contiguous()
    out["text_projection"] = theirs["text_projection.weight"].T.contiguous()
    norms = (("vision_model.pre_layrnorm", "visual.ln_pre"), ("vision_model.post_layernorm", "visual.ln_post"))
    for a, b in (*norms, ("text_model.final_layer_norm", "ln_final")):
        out |= {f"{b}.{own}": theirs[f"{a}.{own}"] for own in ("weight", "bias")}
    for a, b in (("vision_model.encoder.layers.", "visual.transformer.resblocks."),
                 ("text_model.encoder.layers.", "transformer.resblocks.")):  # fmt: skip
        for i in range(_blocks(theirs, a)):
            out |= _block(theirs, f"{a}{i}", f"{b}{i}")
    return out


def _block(theirs: Mapping[str, Tensor], a: str, b: str) -> dict[str, Tensor]:
    """One transformer block."""
    found = {f"{b}.{y}.{own}": theirs[f"{a}.{x}.{own}"] for x, y in _BLOCK for own in ("weight", "bias")}
    for own in ("weight", "bias"):
        found[f"{b}.attn.in_proj_{own}"] = torch.cat([theirs[f"{a}.self_attn.{p}_proj.{own}"] for p in "qkv"])
    return found


def hugging_face_tokenizer(folder: Path, context: int) -> Any:
    """Texts to token ids [n, context], with the tokenizer files of the folder. UserError where there are none."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as e:  # transformers has many errors for files that are not there
        reason = " ".join(str(e).split())[:100]
        raise UserError(f"{folder} has no tokenizer that can be read ({type(e).__name__}: {reason})") from e

    def tokenize(texts: Sequence[str]) -> Tensor:
        made = tokenizer(list(texts), padding="max_length", truncation=True, max_length=context, return_tensors="pt")
        ids: Tensor = made["input_ids"]
        return ids

    return tokenize
