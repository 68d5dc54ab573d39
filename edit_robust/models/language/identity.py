"""What makes a language model another one although its weights are the same: its config and its tokenizer.

Hashes are made of what counts, not of how a version of a library writes it down: entries that have their default values
are left out, so that an entry which a later version adds changes nothing.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

#: Entries of a config that say where a model comes from or how it is stored and trained, not what it computes.
NOT_COUNTED = (
    *("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "use_cache", "auto_map"),
    *("initializer_range", "return_dict", "output_hidden_states", "output_attentions", "torchscript"),
    *("_attn_implementation", "_attn_implementation_autoset", "_commit_hash"),
)


def config_digest(config: Any) -> str:
    """Hash of a network's config: sizes, position encoding, attention settings and the like; "" without a config."""
    if config is None:
        return ""
    own = _entries(config)
    try:
        default = _entries(type(config)())
    except Exception:  # a class of one's own may need arguments, and may complain of their lack in any way
        default = {}
    return _digest({k: v for k, v in own.items() if k not in NOT_COUNTED and (k not in default or default[k] != v)})


def tokenizer_digest(tokenizer: Any) -> str:
    """Hash of what a fast tokenizer makes of text: vocabulary, merges, normalisation and special tokens."""
    special = [getattr(tokenizer, f"{kind}_token_id", None) for kind in ("bos", "eos", "pad")]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return _digest({"vocabulary": tokenizer.get_vocab(), "special": special})
    rules = json.loads(backend.to_str())
    for state in ("padding", "truncation", "version"):  # of its last use, and of the format
        rules.pop(state, None)
    merges = rules.get("model", {}).get("merges")
    if merges:  # earlier versions wrote each as one text
        rules["model"]["merges"] = [m if isinstance(m, str) else " ".join(m) for m in merges]
    return _digest({"rules": _told(rules), "special": special})


def _entries(config: Any) -> dict[str, Any]:
    """A config as plain values; what is none counts by its type's name."""
    found = config.to_dict() if hasattr(config, "to_dict") else vars(config)
    plain: dict[str, Any] = json.loads(json.dumps(found, default=lambda o: type(o).__name__, skipkeys=True))
    return plain


def _told(node: Any) -> Any:
    """The entries of nested dicts that say something: neither null, nor false, nor empty."""
    if isinstance(node, dict):
        return {k: _told(v) for k, v in node.items() if v is not None and v is not False and v not in ("", [], {})}
    return [_told(v) for v in node] if isinstance(node, list) else node


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
