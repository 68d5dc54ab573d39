"""Tiny CLIPs with random weights, saved in every format that can be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.tokenizer import bytes_to_unicode
from safetensors.torch import save_file

SIZE, CONTEXT = 32, 16
NAMES, TEMPLATES = ["cat", "dog", "car"], ["a photo of a {}.", "a drawing of a {}."]
VISION = {"image_size": SIZE, "patch_size": 16, "width": 64, "layers": 2, "head_width": 64}
TEXT = {"context_length": CONTEXT, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
CONFIG: dict[str, Any] = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}
#: As SigLIP is built: a tower of timm, a text tower of its own, a bias for the logits.
SIGLIP: dict[str, Any] = {
    "embed_dim": 24, "init_logit_bias": -10, "custom_text": True,
    "vision_cfg": {"image_size": SIZE, "timm_model_name": "test_vit", "timm_pool": "avg", "timm_proj": "linear"},
    "text_cfg": TEXT | {"no_causal_mask": True, "pool_type": "last", "proj_bias": True},
}  # fmt: skip
PREPROCESSING = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3], "interpolation": "bilinear", "resize_mode": "squash"}


def make(config: dict[str, Any] = CONFIG, quick_gelu: bool = True) -> Any:
    """An open_clip model whose weights are larger than fresh ones, so that activations matter."""
    torch.manual_seed(1)
    config = json.loads(json.dumps(config)) | {"quick_gelu": quick_gelu}
    custom = config.pop("custom_text", False)
    net = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**config).eval()
    with torch.no_grad():
        for p in net.visual.parameters():
            p.mul_(1.5).add_(0.02 * torch.randn(p.shape))
    return net


def openai_file(net: Any, path: Path) -> Path:
    """A state dict with the numbers that OpenAI's archives keep beside the weights, in half precision as theirs."""
    marks = {"input_resolution": SIZE, "context_length": CONTEXT, "vocab_size": 49408}
    torch.save({**net.state_dict(), **{k: torch.tensor(v) for k, v in marks.items()}}, path)
    return path


def open_clip_folder(net: Any, path: Path, config: dict[str, Any] = CONFIG, quick_gelu: bool = True) -> Path:
    """A folder as open_clip writes it."""
    path.mkdir()
    about = {"model_cfg": config | {"quick_gelu": quick_gelu}, "preprocess_cfg": PREPROCESSING}
    (path / "open_clip_config.json").write_text(json.dumps(about))
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, path / "open_clip_model.safetensors")
    return path


def hugging_face_folder(path: Path, activation: str) -> Any:
    """A folder as transformers writes a CLIPModel, with a tokenizer of single letters; the model."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(2)
    text = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "vocab_size": 514, "max_position_embeddings": 40, "hidden_act": activation, "bos_token_id": 512,
        "eos_token_id": 513, "pad_token_id": 513,
    }  # fmt: skip
    vision = {
        "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3,
        "image_size": SIZE, "patch_size": 8, "hidden_act": activation,
    }  # fmt: skip
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3)
        model.logit_scale.fill_(2.5)
    model.save_pretrained(path)
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (path / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (path / "merges.txt").write_text("#version: 0.2\n")
    special = {
        "bos_token": "<|startoftext|>",
        **dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>"),
    }
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", **special}))
    images = {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}, "resample": 3}
    images |= {"image_mean": [0.4, 0.4, 0.4], "image_std": [0.3, 0.3, 0.3]}
    (path / "preprocessor_config.json").write_text(json.dumps(images))
    return model
