"""Tiny random checkpoints in the Hugging Face format, and a mini world of facts to edit them with."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

Kind = Literal["gpt2", "gptj", "gpt_neox", "llama", "qwen2", "qwen3", "mistral", "bloom", "gemma2"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_VOCAB = 430  # byte-level: 256 bytes and about 170 merges, so that most surnames stay several tokens
_SENTENCEPIECE_VOCAB = 480  # with 256 byte tokens and 3 special ones
_CONTEXT = 128

_FIRST = ["Ada", "Boris", "Clara", "Dmitri", "Elsa", "Farid", "Greta", "Hugo"]
_LAST = [
    "Valdoran",
    "Kestrin",
    "Moreth",
    "Quillan",
    "Tarvane",
    "Ostrick",
    "Fenwold",
    "Brannoc",
    "Velmari",
    "Kordwen",
    "Mavrost",
    "Queltin",
    "Tirnoc",
    "Osgrave",
    "Felbrim",
    "Bardane",
]
_RELATIONS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("{} was born in", "The birthplace of {} is", "{} grew up in"), ("Paris", "London", "Rome", "New Haven")),
    (("{} plays the", "The instrument of {} is the", "On stage {} plays the"), ("piano", "violin", "guitar", "flute")),
    (("{} works as a", "By trade {} is a", "People hire {} as a"), ("teacher", "lawyer", "painter", "tax lawyer")),
)


def write_json(path: str | Path, records: Any) -> Path:
    """`records` as a UTF-8 JSON file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    return path


def tiny_facts(n: int = 8, seed: int = 0) -> list[dict[str, Any]]:
    """`n` records in CounterFact's form (n <= 128), each with another subject of several tokens."""
    rng = random.Random(seed)
    subjects = [f"{a} {b}" for a in _FIRST for b in _LAST]
    if n > len(subjects):
        raise ValueError(f"{n} facts were asked for, there are {len(subjects)} subjects")
    rng.shuffle(subjects)
    records = []
    for i in range(n):
        templates, objects = _RELATIONS[i % len(_RELATIONS)]
        new, true = rng.sample(objects, 2)
        others = rng.sample([s for s in subjects if s != subjects[i]], 3)
        records.append(
            {
                "case_id": i,
                "requested_rewrite": {
                    "prompt": templates[0],
                    "relation_id": f"R{i % len(_RELATIONS)}",
                    "target_new": {"str": new, "id": new},
                    "target_true": {"str": true, "id": true},
                    "subject": subjects[i],
                },
                "paraphrase_prompts": [t.replace("{}", subjects[i]) for t in templates[1:]],
                "neighborhood_prompts": [rng.choice(templates).replace("{}", s) for s in others],
                "attribute_prompts": [],
                "generation_prompts": [],
            }
        )
    return records


def tiny_texts() -> list[str]:
    """Every statement of the mini world in every phrasing: what the tokenizers are trained on."""
    texts = []
    for record in tiny_facts(len(_FIRST) * len(_LAST)):
        rewrite = record["requested_rewrite"]
        prompts = [rewrite["prompt"].replace("{}", rewrite["subject"])]
        prompts += record["paraphrase_prompts"] + record["neighborhood_prompts"]
        texts += [f"{p} {rewrite[t]['str']}." for p in prompts for t in ("target_new", "target_true")]
    return texts


def _merges(tokenizer: Tokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def _byte_level(texts: Sequence[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a byte-level BPE as GPT-2's."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=_VOCAB, initial_alphabet=alphabet, show_progress=False)
    )
    return _merges(bpe)


def _sentencepiece(texts: Sequence[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a BPE with a space marker and byte fallback as Llama's."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    # Punctuation is cut off for the training alone: otherwise every answer would be learnt with its full stop.
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="first"), pre_tokenizers.Punctuation()]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=_SENTENCEPIECE_VOCAB, special_tokens=special, show_progress=False)
    )
    return _merges(bpe)


def tiny_tokenizer(kind: Kind, texts: Sequence[str] | None = None) -> Any:
    """A working fast tokenizer of the family's own class: Llama's and Mistral's put `<s>` in front, the others nothing.

    It has no padding token where the family has none.
    """
    texts = list(tiny_texts() if texts is None else texts)
    if kind in ("llama", "mistral"):
        vocab, merges = _sentencepiece(texts)
        return transformers.LlamaTokenizer(vocab=vocab, merges=merges, model_max_length=_CONTEXT, add_bos_token=True)
    vocab, merges = _byte_level(texts)
    vocab["<|endoftext|>"] = len(vocab)
    classes = {
        "gpt2": transformers.GPT2Tokenizer,
        "gptj": transformers.GPT2Tokenizer,
        "gpt_neox": transformers.GPTNeoXTokenizer,
        "qwen2": transformers.Qwen2Tokenizer,
        "qwen3": transformers.Qwen2Tokenizer,
        "bloom": transformers.GPT2Tokenizer,
        "gemma2": transformers.GPT2Tokenizer,
    }
    return classes[kind](vocab=vocab, merges=merges, model_max_length=_CONTEXT)


def tiny_config(kind: Kind, vocab_size: int, bos: int | None, eos: int | None) -> Any:
    """The family's config: 3 or 4 layers, hidden 32 to 64, weights drawn wide enough that outputs differ."""
    shared: dict[str, Any] = {
        "vocab_size": vocab_size,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "initializer_range": 0.3,
    }
    if kind == "gpt2":
        return transformers.GPT2Config(n_embd=48, n_layer=4, n_head=4, n_positions=_CONTEXT, **shared)
    if kind == "gptj":
        return transformers.GPTJConfig(
            n_embd=64, n_layer=3, n_head=4, rotary_dim=8, n_positions=_CONTEXT, tie_word_embeddings=False, **shared
        )
    if kind == "bloom":  # positions come from a bias that depends on the batch; the MLP adds the residual stream itself
        return transformers.BloomConfig(hidden_size=48, n_layer=3, n_head=4, **shared)
    shared |= {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 80}
    shared |= {"max_position_embeddings": _CONTEXT}
    if kind == "gpt_neox":
        return transformers.GPTNeoXConfig(**shared)
    shared |= {"num_key_value_heads": 2}
    if kind == "gemma2":  # a norm after the MLP; logits are capped
        return transformers.Gemma2Config(head_dim=16, sliding_window=96, final_logit_softcapping=5.0, **shared)
    if kind == "llama":
        return transformers.LlamaConfig(**shared)
    if kind == "qwen2":
        return transformers.Qwen2Config(**shared)
    # Heads wider than hidden / heads, as in Qwen3 and Mistral Nemo: the attention's output matrix is not square.
    if kind == "qwen3":
        return transformers.Qwen3Config(head_dim=16, **shared)
    return transformers.MistralConfig(head_dim=12, **shared)


def tiny_checkpoint(kind: Kind, folder: str | Path, vocab_texts: Sequence[str] | None = None, seed: int = 0) -> Path:
    """A random causal language model and its tokenizer, saved to `folder` as `from_pretrained` expects them.

    Weights are fp32 safetensors and depend on `seed` alone; the global generator is left as it was.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; there are {', '.join(KINDS)}")
    folder = Path(folder)
    tokenizer = tiny_tokenizer(kind, vocab_texts)
    config = tiny_config(kind, len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        # Biases start at 0, gains at 1: moved, so that a test notices when one is forgotten.
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
