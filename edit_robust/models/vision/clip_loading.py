"""Where CLIPs come from: open_clip by architecture and tag, files and folders in four formats, built-in ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from edit_robust.core.errors import UserError, nearest
from edit_robust.models.vision import clip_formats as formats
from edit_robust.models.vision.clip_stem import add_stem
from edit_robust.models.vision.clip_text import Tokenizer
from edit_robust.models.vision.preprocessing import Preprocessing
from edit_robust.models.vision.weights import put_weights

OPENAI = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
MODES = {"shortest": "center", "squash": "squash"}
CONFIGS = ("open_clip_config.json", "config.json")  # of a folder; the second one where it holds a model_cfg
WEIGHTS = (
    *("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors"),
    *("open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth", "model.pth"),
)  # fmt: skip
_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "vocab.txt", "special_tokens_map.json"),
    *("added_tokens.json", "spiece.model", "tokenizer.model"),
)


@dataclass(frozen=True)
class Loaded:
    """An open_clip model with its weights, and what goes with it.

    words: names of its own classes and templates, where a built-in model brings them.
    config: open_clip's description of the network.   stem: of `add_stem`, where it has one.
    files: of a tokenizer that open_clip does not bring itself.
    """

    clip: Any
    tokenizer: Tokenizer
    preprocessing: Preprocessing
    name: str
    quick_gelu: bool
    words: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    stem: Mapping[str, Any] | None = None
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class ClipSource:
    """Where a CLIP comes from: the options of `Clip` of the same names."""

    path: str | None
    name: str | None
    pretrained: str | None = None
    quick_gelu: bool | None = None
    input_size: int | None = None

    def load(self) -> Loaded:
        """The model. Raises UserError for what is unknown, absent, unreadable, or of another architecture."""
        import open_clip

        torch.manual_seed(0)  # `random` weights are the same every time
        if self.path and self.path.startswith("builtin:"):
            from edit_robust.assets import asset_dir

            return self._folder(asset_dir(self.path.removeprefix("builtin:")))
        if self.path and self.path != "random" and (folder := Path(self.path).expanduser()).is_dir():
            return self._hugging_face(folder) if formats.is_hugging_face(folder) else self._folder(folder)
        if self.name is None:
            return self._nameless_file()
        config = open_clip.get_model_config(self.name)
        if config is None:
            known = nearest(self.name, _close(self.name, open_clip.list_models()), "architectures like it")
            raise UserError(f"open_clip has no architecture {self.name!r}; {known}")
        tag = self._tag(open_clip.list_pretrained_tags_by_model(self.name))
        about: Mapping[str, Any] = open_clip.get_pretrained_cfg(self.name, tag) if tag else {}
        if self.path == "random":
            quick = bool(config.get("quick_gelu") if self.quick_gelu is None else self.quick_gelu)
            config = self._as_made(config, quick)
            clip = self._made(config)
        else:
            path = Path(self.path).expanduser() if self.path else self._downloaded(about)
            state = formats.read_state(path)
            quick = self._activation(config, state, about, path)
            config = self._as_made(config, quick)
            clip = self._made(config)
            fill(clip, state, path, self.name, resize=self.input_size is not None)
        tokenizer = self._tokenizer_by_name(self.name, config)
        return Loaded(clip, tokenizer, _preprocessing(clip, about), self.name, quick, config=config)

    # -- by name -----------------------------------------------------------------------------------------------------

    def _tag(self, tags: list[str]) -> str | None:
        """The tag that is asked for; where none is and a preprocessing is needed, the architecture's first."""
        if self.pretrained is None:
            if self.path is None:
                raise UserError(
                    f"model.pretrained must be given: {self.name} has weights {', '.join(tags[:6]) or 'nowhere'}; "
                    "or model.path=FILE, or model.path=random"
                )
            return tags[0] if tags else None
        if self.pretrained not in tags:
            raise UserError(
                f"open_clip has no weights {self.pretrained!r} of {self.name}; {nearest(self.pretrained, tags, 'tags')}"
            )
        return self.pretrained

    def _downloaded(self, about: Mapping[str, Any]) -> Path:
        import open_clip

        try:
            return Path(open_clip.download_pretrained(dict(about)))
        except Exception as e:  # a hub has many errors for no network
            raise UserError(
                f"the weights {self.pretrained} of {self.name} could not be downloaded ({type(e).__name__}); give a "
                "local file or folder with model.path=PATH, or model.path=random"
            ) from e

    def _activation(
        self, config: Mapping[str, Any], state: Mapping[str, Any], about: Mapping[str, Any], path: Path
    ) -> bool:
        """Whether weights of a file go with QuickGELU: as the option, the file, or the tag says.

        UserError where none of them does: open_clip would go on silently, and answer otherwise.
        """
        if self.quick_gelu is not None:
            return self.quick_gelu
        if formats.is_openai(state):
            return True
        if self.pretrained is not None:
            return bool(about.get("quick_gelu", config.get("quick_gelu", False)))
        if config.get("quick_gelu") or "timm_model_name" in config["vision_cfg"]:
            return bool(config.get("quick_gelu"))
        raise UserError(
            f"{path} does not tell whether it goes with QuickGELU, as OpenAI's, DFN's and MetaCLIP's weights do: give "
            "model.quick_gelu=true or false, or model.pretrained=TAG of the weights that it holds"
        )

    def _tokenizer_by_name(self, name: str, config: Mapping[str, Any]) -> Tokenizer:
        import open_clip

        try:
            tokenizer: Tokenizer = open_clip.get_tokenizer(
                name, context_length=config["text_cfg"].get("context_length")
            )
        except Exception as e:  # tokenizers of other makers are downloaded
            reason = " ".join(str(e).split())[:80]
            raise UserError(f"the tokenizer of {name} could not be downloaded ({type(e).__name__}: {reason})") from e
        return tokenizer

    # -- files and folders -------------------------------------------------------------------------------------------

    def _nameless_file(self) -> Loaded:
        """A file in OpenAI's format: its architecture follows from the shapes."""
        import open_clip

        if not self.path or self.path == "random":
            raise UserError("model.name must be given: an architecture of open_clip, such as ViT-B-32")
        path = Path(self.path).expanduser()
        state = formats.read_state(path)
        if not formats.is_openai(state) or formats.IMAGE_KEY not in state:
            raise UserError(
                f"{path} does not tell its architecture; give it with model.name=ARCHITECTURE, such as ViT-B-32"
            )
        quick = True if self.quick_gelu is None else self.quick_gelu
        config = self._as_made(formats.openai_config(state), quick)
        clip = self._made(config)
        fill(clip, state, path, path.stem, resize=self.input_size is not None)
        tokenizer = open_clip.SimpleTokenizer(context_length=config["text_cfg"]["context_length"])
        return Loaded(clip, tokenizer, _preprocessing(clip, {}), path.stem, quick, config=config)

    def _folder(self, folder: Path) -> Loaded:
        """A folder as open_clip writes it, or a built-in one: config, weights, and the tokenizer's files."""
        config = next((c for name in CONFIGS if "model_cfg" in (c := _json(folder / name))), None)
        if config is None:
            raise UserError(
                f"{folder} holds no CLIP: there is neither {CONFIGS[0]} nor a config.json of Hugging Face in it"
            )
        path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
        if path is None:
            raise UserError(f"{folder} has a config, but no weights ({', '.join(WEIGHTS[:3])}, ...)")
        model = config["model_cfg"]
        quick = bool(model.get("quick_gelu")) if self.quick_gelu is None else self.quick_gelu
        name = self.name or folder.name
        model = self._as_made(model, quick)
        clip, stem = self._made(model), config.get("stem")
        add_stem(clip, stem)
        fill(clip, formats.read_state(path), path, name, resize=self.input_size is not None)
        words = (tuple(config["classes"]), tuple(config["templates"])) if "classes" in config else None
        tokenizer = _tokenizer_in(folder, model["text_cfg"])
        how, files = _preprocessing(clip, config.get("preprocess_cfg", {})), _tokenizer_files(folder, model["text_cfg"])
        return Loaded(clip, tokenizer, how, name, quick, words, model, stem, files)

    def _hugging_face(self, folder: Path) -> Loaded:
        """A folder as transformers writes a CLIPModel, with its tokenizer."""
        model, preprocess = formats.hugging_face_config(folder)
        quick = bool(model["quick_gelu"]) if self.quick_gelu is None else self.quick_gelu
        name = self.name or folder.name
        model = self._as_made(model, quick)
        clip = self._made(model)
        fill(clip, formats.hugging_face_state(folder), folder, name, resize=self.input_size is not None)
        tokenizer = formats.hugging_face_tokenizer(folder, model["text_cfg"]["context_length"])
        model["text_cfg"]["hf_tokenizer_name"] = name  # of which open_clip reads the files in the folder
        how, files = _preprocessing(clip, preprocess), _tokenizer_files(folder, model["text_cfg"])
        return Loaded(clip, tokenizer, how, name, quick, config=model, files=files)

    def _as_made(self, config: Mapping[str, Any], quick_gelu: bool) -> dict[str, Any]:
        """A config with what the options change in it, and without weights to be downloaded."""
        config = deepcopy(dict(config)) | {"quick_gelu": quick_gelu}
        config["vision_cfg"]["timm_model_pretrained"] = config["text_cfg"]["hf_model_pretrained"] = False
        if self.input_size is not None:
            config["vision_cfg"]["image_size"] = self.input_size
        return config

    def _made(self, config: Mapping[str, Any]) -> Any:
        """The network of a config, randomly initialised."""
        import open_clip

        options = deepcopy(dict(config))
        custom = options.pop("custom_text", False) or "hf_model_name" in options["text_cfg"]
        if custom:
            kind = open_clip.CoCa if "multimodal_cfg" in options else open_clip.CustomTextCLIP
        else:
            kind = open_clip.CLIP
        try:
            return kind(**options).eval()
        except Exception as e:  # a config of another version, or a text tower that has to be downloaded
            raise UserError(f"{self.name or self.path} cannot be made: {' '.join(str(e).split())[:160]}") from e


def fill(clip: Any, state: dict[str, Any], path: Path, name: str, resize: bool) -> None:
    """Put a checkpoint's tensors into the network, whichever of open_clip's forms they have."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed

    state = {k: v for k, v in state.items() if k not in formats.OPENAI_MARKS}
    state = convert_state_dict(clip, state)
    if "positional_embedding" in state and not hasattr(clip, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    for scalar in ("logit_scale", "logit_bias"):
        if scalar in state and getattr(clip, scalar, None) is not None:
            state[scalar] = state[scalar].reshape(getattr(clip, scalar).shape)
    state.pop("text.transformer.embeddings.position_ids", None)  # older versions of transformers wrote them
    if resize and formats.IMAGE_KEY in state:
        resize_pos_embed(state, clip)
    put_weights(clip, state, path, name)


def _tokenizer_in(folder: Path, text: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of an open_clip folder: its own merges, files of Hugging Face, or CLIP's."""
    import open_clip

    options = dict(text.get("tokenizer_kwargs") or {})
    context = int(text.get("context_length", 77))
    if text.get("hf_tokenizer_name"):
        made: Tokenizer = open_clip.tokenizer.HFTokenizer(str(folder), context_length=context, **options)
        return made
    if "bpe_path" in options:
        options["bpe_path"] = str(folder / options["bpe_path"])
    made = open_clip.SimpleTokenizer(context_length=context, **options)
    return made


def _tokenizer_files(folder: Path, text: Mapping[str, Any]) -> tuple[Path, ...]:
    """The files of a folder that its tokenizer is made from; none where open_clip brings the tokenizer."""
    names: tuple[str, ...] = _TOKENIZER_FILES if text.get("hf_tokenizer_name") else ()
    if "bpe_path" in (text.get("tokenizer_kwargs") or {}):
        names = (text["tokenizer_kwargs"]["bpe_path"],)
    return tuple(folder / name for name in names if (folder / name).is_file())


def _preprocessing(clip: Any, about: Mapping[str, Any]) -> Preprocessing:
    """How images are made ready: the weights' own description, OpenAI's where there is none."""
    size = clip.visual.image_size
    height, width = size if isinstance(size, tuple | list) else (size, size)
    if height != width:
        raise UserError(f"this CLIP takes images of {height} x {width}; a square is needed")
    mode = about.get("resize_mode") or "shortest"
    if mode not in MODES:
        raise UserError(f"this CLIP resizes its images by {mode!r}; {nearest(mode, MODES)}")
    mean, std = (tuple(about.get(k) or OPENAI[k]) for k in ("mean", "std"))
    interpolation = about.get("interpolation") or "bicubic"
    return Preprocessing(int(height), int(height), mean, std, interpolation, MODES[mode])  # type: ignore[arg-type]


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as e:
        raise UserError(f"{path} is no readable json: {str(e)[:80]}") from e
    return found if isinstance(found, dict) else {}


def _close(name: str, known: list[str]) -> list[str]:
    from difflib import get_close_matches

    return get_close_matches(name, known, n=5, cutoff=0.4) or known[:8]
