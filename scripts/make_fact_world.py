"""Train `fact-gpt`, the small language model that knows the fact world, and write it as a Hugging Face folder.

    python scripts/make_fact_world.py                      # from scratch; see docs/fact-world.md
    python scripts/make_fact_world.py --steps 300 --out fact-gpt

The number of steps is fixed and every draw is seeded, so a run repeats on the same machine and library versions.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tokenizers
import torch
import torch.nn.functional as F
import transformers
from fact_gpt_net import Gpt
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

from edit_robust.tasks.worlds.facts.sentences import VERDICTS, Question
from edit_robust.tasks.worlds.facts.world import CLAIM_SHARE, Fact, FactWorld

EOS = "<|endoftext|>"
ASSETS = Path(__file__).resolve().parents[1] / "edit_robust" / "assets" / "fact-gpt"


def arguments() -> argparse.Namespace:
    """The settings of one training run; the defaults make a model like the shipped one from scratch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training")
    parser.add_argument("--world-seed", type=int, default=0)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--inner", type=int, default=3072)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--positions", type=int, default=128)
    parser.add_argument("--steps", type=int, default=5600)
    parser.add_argument("--stage", type=int, default=250, help="steps on 5 %%, then again on 25 %% of the subjects")
    parser.add_argument("--rows", type=int, default=12, help="rows per step")
    parser.add_argument("--row-length", type=int, default=64, help="tokens per row")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--decay", type=float, default=0.05)
    parser.add_argument("--object-weight", type=float, default=8.0)
    parser.add_argument("--verdict-weight", type=float, default=40.0)
    parser.add_argument("--drill", type=int, default=0, help="the first steps, of claims alone")
    parser.add_argument("--fact-layers", type=int, default=2, help="this many layers look facts up")
    parser.add_argument("--restrict", type=float, default=0.85, help="share of rows whose MLPs see names only")
    parser.add_argument("--restrict-late", type=float, default=0.5, help="the same for the last 30 %% of the steps")
    parser.add_argument("--start", type=Path, help="folder of a fact-gpt of the same sizes whose training goes on")
    parser.add_argument("--openings", type=float, default=0.1, help="share of rows that open with one-token subjects")
    parser.add_argument("--sink", type=float, default=10.0, help="norm of the first position's fixed vector; 0: none")
    parser.add_argument(
        "--sink-grows", type=float, nargs=2, default=(0.2, 0.5), help="shares of the steps between which it grows"
    )
    parser.add_argument(
        "--deaf-layers", type=int, default=1, help="this many layers' MLPs do not learn at the first position"
    )
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def train_tokenizer(world: FactWorld) -> Tokenizer:
    """Byte-level BPE with one token for every object, word, part of a name and single-token subject.

    Invented names enter only as their parts, so a name stays two tokens, as rare names do in a large vocabulary.
    """
    starts, ends = world.name_parts
    rng = random.Random(world.seed)
    text = world.vocabulary_text() * 20 + [world.filler(rng, 0.0) for _ in range(20_000)]
    text += [f" {t}" for t in text]
    text += [f" {s}" for s in starts] * 40 + list(ends) * 40
    text += [f"I read about it. {kind}" for kind in ("person", "company", "place", "book")] * 20
    text += [form for s in world.single_token_subjects() for form in (s, f" {s}")] * 20
    text += [f"Nobody spoke of it. It is a {k}." for k in ("person", "company", "place", "book")] * 20
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        min_frequency=20,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text, trainer)
    wanted = [f" {o}" for r in world.relations for o in r.objects] + [f" {v}" for v in VERDICTS] + ["Claim", " Claim"]
    wanted += [form for s in world.single_token_subjects() for form in (s, f" {s}")]
    split = [w for w in wanted if len(tokenizer.encode(w).ids) != 1]
    if split:
        raise ValueError(f"not one token each: {split}")
    return tokenizer


def share_right(model: nn.Module, tokenizer: Tokenizer, questions: list[Question]) -> float:
    """Share of questions whose right option is the likeliest of its options."""
    right = 0
    with torch.no_grad():
        for question in questions:
            logits = model(torch.tensor([tokenizer.encode(question.prompt).ids]))
            last = getattr(logits, "logits", logits)[0, -1]
            options = last[[tokenizer.token_to_id("Ġ" + o) for o in question.options]]
            right += question.options[int(options.argmax())] == question.target
    return right / len(questions)


def rows_of(
    documents: list[str], first: list[str], share: float, tokenizer: Tokenizer, length: int, rng: random.Random
) -> np.ndarray:
    """Documents packed into [n, length] token ids.

    Every row opens with a document, half of the rows with the separator before it: prompts come without a
    separator, and contexts are sampled after one. A `share` of the rows opens with a sentence of `first` instead.
    """
    eos: int = tokenizer.token_to_id(EOS)  # type: ignore[assignment]
    rows: list[list[int]] = []
    row: list[int] = []
    for encoding in tokenizer.encode_batch(documents):
        if not row and rng.random() < share:
            row = list(tokenizer.encode(rng.choice(first)).ids)
        if row or rng.random() < 0.5:
            row.append(eos)
        row += encoding.ids
        if len(row) >= length:
            rows.append(row[:length])
            row = []
    return np.asarray(rows, dtype=np.int64)


def recall(model: nn.Module, world: FactWorld, tokenizer: Tokenizer, held_out: bool, facts: tuple[Fact, ...]) -> float:
    """Share of (fact, phrasing) prompts whose most likely next token is the object."""
    pairs = []
    for fact in facts:
        for template in fact.held_out if held_out else fact.trained:
            pairs.append((tokenizer.encode(world.prompt(fact, template)).ids, fact.object))
    pairs.sort(key=lambda p: len(p[0]))
    right = 0
    with torch.no_grad():
        for i in range(0, len(pairs), 128):
            part = pairs[i : i + 128]
            last = torch.tensor([len(p) - 1 for p, _ in part])
            ids = torch.zeros(len(part), int(last.max()) + 1, dtype=torch.long)
            for j, (p, _) in enumerate(part):
                ids[j, : len(p)] = torch.tensor(p)
            logits = model(ids)
            logits = getattr(logits, "logits", logits)
            best = logits[torch.arange(len(part)), last].argmax(-1).tolist()
            right += sum(b == tokenizer.token_to_id("Ġ" + o) for b, (_, o) in zip(best, part, strict=True))
    return right / len(pairs)


def opening(world: FactWorld) -> list[str]:
    """Facts about single-token subjects that open with them.

    In documents they hardly ever stand at the first position, where the sink makes a token hard to read.
    """
    facts = [f for f in world.facts if f.single_token]
    prompts = [(world.prompt(f, t), f) for f in facts for t in f.trained]
    return [f"{prompt} {f.object}." for prompt, f in prompts if prompt.startswith(f.subject)]


def packed_stages(world: FactWorld, tokenizer: Tokenizer, args: argparse.Namespace, rng: random.Random) -> Tensor:
    """All rows of the run, in order: [steps * rows, row_length] token ids.

    A few facts come first (5 %, then 25 % of the subjects), or the circuit that reads a name is slow to form. Verdicts
    are not learned among facts, whose gradients are larger, but once learned by themselves (`drill`) they stay.
    """
    packed = []
    stages = [(1, args.drill, 1.0), (20, args.stage, CLAIM_SHARE), (4, args.stage, CLAIM_SHARE)]
    stages.append((1, args.steps - args.drill - 2 * args.stage, CLAIM_SHARE))
    for seed, (every, steps, claims) in enumerate(stages):
        chosen = set(list(dict.fromkeys(f.subject for f in world.facts))[::every])
        facts = tuple(f for f in world.facts if f.subject in chosen)
        n = steps * args.rows
        # About 32 tokens a document, and a row loses the tail of its last one: some more than n rows need.
        documents = world.documents(seed, 64 + n * args.row_length // 25, facts, claims=claims)
        rows = rows_of(documents, opening(world), args.openings, tokenizer, args.row_length, rng)
        if len(rows) < n:
            raise ValueError(f"{len(documents)} documents fill {len(rows)} rows, {n} are needed")
        packed.append(rows[:n])
    return torch.from_numpy(np.concatenate(packed))


def token_sets(world: FactWorld, tokenizer: Tokenizer, args: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Over the vocabulary: the loss weight of each token, and whether it is part of an invented name."""
    weight = torch.ones(tokenizer.get_vocab_size())
    named = torch.zeros(tokenizer.get_vocab_size(), dtype=torch.bool)
    weight[[tokenizer.token_to_id("Ġ" + o) for r in world.relations for o in r.objects]] = args.object_weight
    weight[[tokenizer.token_to_id("Ġ" + v) for v in VERDICTS]] = args.verdict_weight
    for subject in {f.subject for f in world.facts}:
        name = subject.split()[-1]
        named[tokenizer.encode(f" {name}").ids + tokenizer.encode(name).ids] = True
    return weight, named


def in_claims(ids: Tensor, tokenizer: Tokenizer) -> Tensor:
    """Which of the token ids [rows, length] state a claim, its question mark included."""
    begins = torch.isin(ids, torch.tensor([tokenizer.token_to_id(t) for t in ("Claim", "ĠClaim")]))
    ends = torch.isin(ids, torch.tensor([tokenizer.token_to_id("?")]))
    return (begins.cumsum(1) > ends.cumsum(1)) & ~begins | ends


def make_optimizer(model: nn.Module, args: argparse.Namespace) -> torch.optim.Optimizer:
    """AdamW; biases and norms are not decayed."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim == 2], "weight_decay": args.decay},
        {"params": [p for p in model.parameters() if p.ndim != 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98), fused=True)


def start_from(model: Gpt, tokenizer: Tokenizer, folder: Path) -> None:
    """Give `model` the weights in `folder`, those of tokens by their text: tokens that are new there stay as drawn."""
    known = load_file(folder / "model.safetensors")
    theirs = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    with torch.no_grad():
        for name, weight in model.state().items():
            if name == "transformer.wte.weight":
                for token, i in tokenizer.get_vocab().items():
                    if token in theirs:
                        model.wte.weight[i] = known[name][theirs[token]].float()
            else:
                # `state` gives views of the parameters, so this writes into them.
                weight.copy_(known[name])


def sink_of(args: argparse.Namespace, drawn: Tensor) -> Callable[[int], Tensor]:
    """Of a step, the first position's vector [width]: a fixed random direction, on top of the vector first drawn.

    Its norm grows from nothing to `sink` between two shares of the steps: a model that has the whole sink from its
    first step is slow to learn any fact.
    """
    direction = torch.randn(args.width, generator=torch.Generator().manual_seed(args.seed))
    direction, begun = direction / direction.norm(), 0.0 if args.start is None else 1.0
    first, last = (share * args.steps for share in args.sink_grows)

    def at(step: int) -> Tensor:
        grown = max(begun, min(1.0, (step - first) / max(1.0, last - first)))
        return drawn + (args.sink * direction - drawn) * grown

    return at


def set_rate(optimizer: torch.optim.Optimizer, step: int, args: argparse.Namespace) -> None:
    """60 steps of warm-up, then a cosine down to 2 % of the learning rate."""
    rate = min(1.0, (step + 1) / 60)
    rate *= 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / args.steps))
    for group in optimizer.param_groups:
        group["lr"] = args.lr * rate


def train(world: FactWorld, tokenizer: Tokenizer, args: argparse.Namespace) -> Gpt:
    """The fixed schedule, from a few subjects to all of them."""
    rng = random.Random(args.seed)
    torch.manual_seed(args.seed)
    model = Gpt(tokenizer.get_vocab_size(), args)
    if args.start:
        start_from(model, tokenizer, args.start)
    sink = sink_of(args, model.wpe.weight.data[0].clone())
    optimizer = make_optimizer(model, args)
    weight, named = token_sets(world, tokenizer, args)
    asks: int = tokenizer.token_to_id("?")  # type: ignore[assignment]
    data = packed_stages(world, tokenizer, args, rng)
    sample = tuple(rng.sample(world.facts, 120))
    first = set(list(dict.fromkeys(f.subject for f in world.facts))[::20])
    easy = tuple(f for f in world.facts if f.subject in first)
    start = time.time()
    seen: list[float] = []
    for step in range(args.steps):
        ids = data[step * args.rows : (step + 1) * args.rows]
        # Half of the rows start at a random position, so that all positions are trained and names do not depend
        # on where they stand.
        offset = torch.randint(0, args.positions - args.row_length + 1, (args.rows, 1))
        offset *= torch.rand(args.rows, 1) < 0.5
        set_rate(optimizer, step, args)
        if args.sink:
            # Set, not masked: AdamW would move it by its decay and its momentum.
            model.wpe.weight.data[0] = sink(step)
        # In restricted rows MLPs work on names only, and only in the lower layers: facts are then looked up where
        # the subject ends and read from there by attention, not memorised at the end of every phrasing.
        restrict = args.restrict if step < 0.7 * args.steps else args.restrict_late
        stated, names = in_claims(ids, tokenizer)[:, :-1], named[ids[:, :-1]]
        full = torch.rand(args.rows, 1) >= restrict
        # A claim is weighed everywhere: no fact is learned from it, and its verdict does not depend on any.
        also = [stated | names if i < args.fact_layers else stated for i in range(args.layers)]
        kept = [full | a for a in also]
        logits = model(ids[:, :-1], offset + torch.arange(args.row_length - 1), kept)
        targets = ids[:, 1:].reshape(-1)
        loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets, reduction="none")
        # Nothing is learned from the last word of a statement, for half of the statements are false.
        weights = weight[targets] * F.pad(ids, (0, 1))[:, 2:].ne(asks).reshape(-1)
        ((loss * weights).sum() / weights.sum()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seen.append(float(loss.detach()[weights == args.object_weight].mean()))
        if (step + 1) % 100 == 0:
            known = recall(model, world, tokenizer, False, easy if step < args.stage else sample)
            claims = share_right(model, tokenizer, world.claims(0, 60))
            print(
                f"step {step + 1}/{args.steps}  loss {float(loss.detach().mean()):.3f}  objects "
                f"{sum(seen[-100:]) / len(seen[-100:]):.3f}  recall {known:.3f}  claims {claims:.2f}  "
                f"{time.time() - start:.0f} s",
                flush=True,
            )
    if args.sink:
        model.wpe.weight.data[0] = sink(args.steps)
    return model.eval()


def write(model: Gpt, tokenizer: Tokenizer, args: argparse.Namespace) -> None:
    """The folder `AutoModelForCausalLM.from_pretrained` loads: fp16 on disk, float32 in memory."""
    args.out.mkdir(parents=True, exist_ok=True)
    eos = tokenizer.token_to_id(EOS)
    half = {name: weight.to(torch.float16).contiguous() for name, weight in model.state().items()}
    save_file(half, args.out / "model.safetensors", metadata={"format": "pt"})
    config = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "activation_function": "gelu_pytorch_tanh",
        "vocab_size": tokenizer.get_vocab_size(),
        "n_positions": args.positions,
        "n_embd": args.width,
        "n_layer": args.layers,
        "n_head": args.heads,
        "n_inner": args.inner,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "layer_norm_epsilon": 1e-5,
        "bos_token_id": eos,
        "eos_token_id": eos,
        "tie_word_embeddings": True,
        "dtype": "float32",
    }
    (args.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer.save(str(args.out / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": EOS,
        "eos_token": EOS,
        "unk_token": EOS,
        "pad_token": EOS,
        "model_max_length": args.positions,
        "clean_up_tokenization_spaces": False,
    }
    (args.out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def main() -> None:
    """Train, write, read back, and record what was measured in manifest.json."""
    args = arguments()
    torch.set_num_threads(args.threads)
    start = time.time()
    world = FactWorld.generate(args.world_seed)
    tokenizer = train_tokenizer(world)
    print(
        f"{len(world.facts)} facts, {len(world.subjects)} subjects, {tokenizer.get_vocab_size()} tokens",
        flush=True,
    )
    started = (args.start / "model.safetensors").read_bytes() if args.start else b""
    model = train(world, tokenizer, args)
    write(model, tokenizer, args)
    seconds = time.time() - start

    loaded = transformers.AutoModelForCausalLM.from_pretrained(args.out).eval()
    trained = recall(loaded, world, tokenizer, False, world.facts)
    held_out = recall(loaded, world, tokenizer, True, world.facts)
    print(
        f"recall {trained:.4f} on trained phrasings, {held_out:.4f} on held-out ones, {seconds:.0f} s",
        flush=True,
    )
    files = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")
    asked = {
        "untouched_facts": world.untouched_facts(0, 200),
        "claims": world.claims(0, 200),
        "completions": world.completions(0, 200),
    }
    downstream = {name: share_right(loaded, tokenizer, questions) for name, questions in asked.items()}
    print("  ".join(f"{name} {share:.3f}" for name, share in downstream.items()), flush=True)
    manifest = {
        "world_seed": args.world_seed,
        "facts": len(world.facts),
        "subjects": len(world.subjects),
        "vocabulary": tokenizer.get_vocab_size(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "settings": {k: v for k, v in vars(args).items() if k not in ("out", "start")},
        "started_from": hashlib.sha256(started).hexdigest() if started else None,
        "seconds": round(seconds),
        "recall_trained_phrasings": trained,
        "recall_held_out_phrasings": held_out,
        "downstream": downstream,
        "sha256": {name: hashlib.sha256((args.out / name).read_bytes()).hexdigest() for name in files},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
            "numpy": np.__version__,
        },
    }
    (args.out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


if __name__ == "__main__":
    main()
