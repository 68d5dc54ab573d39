"""How much runs on large models take: the formulas of docs/scale.md, where they can be called.

d is the width, f the inputs of the edited projection, L the edited blocks, n the edits, P the parameters; GB are 10^9
bytes. Operations count a multiplication and an addition as two. Seconds are operations over a rate that is given, and
were not timed on the real models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

GB = 1e9
#: Bytes of single and of double precision.
SINGLE, DOUBLE = 4, 8
#: Sampled contexts of a value optimisation, its rows' tokens from the subject's last token on, and its steps.
ROWS, TOKENS, STEPS = 22, 8, 20
#: Texts for second moments and their length; questions about a request, and their tokens.
TEXTS, LENGTH, QUESTIONS, QUESTION_TOKENS = 100_000, 1024, 13, 20
#: Few-shot questions of a check of the four GLUE tasks, and tokens that are not of the shared shots.
GLUE, GLUE_TOKENS = 800, 60
#: A pass back and forth takes three times one forth.
BACK_AND_FORTH = 3
#: Memory for answers that edits cannot change: model.cache_gb.
CACHE_GB = 4.0


@dataclass(frozen=True)
class Language:
    """A language model. blocks: all of them.   edited: blocks that MEMIT edits.   lowest: the first of them."""

    name: str
    d: int
    f: int
    parameters: float
    blocks: int
    edited: int
    lowest: int
    mend: float

    @property
    def square(self) -> float:
        """Bytes of C, or of its factor, of one block."""
        return DOUBLE * self.f**2


@dataclass(frozen=True)
class Taken:
    """gpu_gb: at most at once.   disk_gb: written.   gpu_hours.   cpu_hours: of the processor beside."""

    gpu_gb: float
    disk_gb: float
    gpu_hours: float
    cpu_hours: float = 0.0


def editing_gb(model: Language, editor: str) -> float:
    """The most memory a run holds at once (GB), phase by phase as in docs/scale.md."""
    one = {"rome": 1, "ft": 1}.get(editor, model.edited)
    load = SINGLE * model.parameters
    copies = 2 * SINGLE * one * model.d * model.f
    phase = {
        "rome": (1 + 2) * model.square,
        "ft": 2 * SINGLE * model.d * model.f,
        "mend": 4 * SINGLE * model.mend,  # the network, its gradient and Adam's two moments
    }.get(editor, (model.edited + 3) * model.square)
    return (load + copies + phase) / GB + CACHE_GB


def moments_gb(model: Language) -> float:
    """Disk of second moments, once a model and text: of the blocks that MEMIT edits, ROME's among them."""
    return model.edited * model.square / GB


def changes_gb(model: Language, editor: str, edits: int) -> float:
    """Disk of the changes that a run of so many edits keeps, and of the weights that it keeps now and then."""
    one = {"rome": 1, "ft": 1}.get(editor, model.edited)
    weights = SINGLE * one * model.d * model.f
    factors = 0.0 if editor == "ft" else SINGLE * edits * one * (model.d + model.f)
    return (factors + weights) / GB


def operations(model: Language, editor: str, edits: int, every: int, glue: bool) -> Mapping[str, float]:
    """Operations of a run by phase: edits, questions right after each, checks of all past edits, GLUE's questions."""
    whole = 2 * model.parameters
    above = whole * (model.blocks - model.lowest) / model.blocks
    values = ROWS * TOKENS * STEPS * BACK_AND_FORTH * above
    edit = {"ft": 25 * QUESTION_TOKENS * BACK_AND_FORTH * whole, "mend": QUESTION_TOKENS * BACK_AND_FORTH * whole}
    solves = model.edited * 2 * model.f**2
    checks = edits // every
    past = every * checks * (checks + 1) / 2
    return {
        "edits": edits * (edit.get(editor, values + solves)),
        "questions": 2 * edits * QUESTIONS * QUESTION_TOKENS * above,
        "checks": past * QUESTION_TOKENS * above,
        "glue": (checks + 1) * GLUE * GLUE_TOKENS * whole if glue else 0.0,
    }


def moments_operations(model: Language) -> float:
    """Operations of reading the text for second moments, once a model, and of summing and factoring them."""
    read = TEXTS * LENGTH * 2 * model.parameters * (model.lowest + model.edited) / model.blocks
    return read + model.edited * (2 * TEXTS * LENGTH * model.f**2 + model.f**3 / 3)


def language_run(model: Language, editor: str, edits: int, every: int, glue: bool, rate: float) -> Taken:
    """What one walk takes. rate: operations a second that the GPU sustains."""
    hours = sum(operations(model, editor, edits, every, glue).values()) / rate / 3600
    return Taken(editing_gb(model, editor), changes_gb(model, editor, edits), hours)


@dataclass(frozen=True)
class Vision:
    """An image model. operations: of one image.   suffix: share of them from the edited layer on, on average."""

    name: str
    parameters: float
    operations: float
    suffix: float


#: Processor seconds of an image of 224 x 224 under all 95 variants of ImageNet-C (README), on one core.
CORRUPT_95 = 0.19


def vision_run(model: Vision, images: int, variants: int, models: int, steps: int, batch: int, rate: float) -> Taken:
    """What one run takes. images: judged by.   variants: corruptions, clean and natural among them.

    models: edited models that answer (edits x alphas).   steps: of training, times the images of a step in `batch`.
    """
    asked = images * variants * model.operations * (1 + models * model.suffix)
    trained = steps * batch * BACK_AND_FORTH * model.operations
    memory = SINGLE * model.parameters * 6 / GB + CACHE_GB
    disk = images * variants * models / 8 / GB + SINGLE * model.parameters * min(models, 1) / GB
    cores = images * CORRUPT_95 * max(variants - 1, 0) / 95 / 3600
    return Taken(memory, disk, (asked + trained) / rate / 3600, cores)
