"""How to read the numbers of a page: each entry is shown where a run has one of the numbers that it explains."""

from __future__ import annotations

from collections.abc import Iterable

#: Keys of the summary, the entry's title, its text.
Entry = tuple[tuple[str, ...], str, str]

LANGUAGE: tuple[Entry, ...] = (
    (
        ("ES", "final_ES", "unedited_ES"),
        "ES: the edit took",
        "Share of the edits after which the model finds the new answer more likely than the old one, asked with the "
        "very words that the edit was made with.",
    ),
    (
        ("PS", "final_PS", "unedited_PS"),
        "PS: it holds for rewordings",
        "The same, asked in other words. An edit with a high ES and a low PS has taught a phrase, not a fact.",
    ),
    (
        ("NS", "final_NS", "unedited_NS"),
        "NS: neighbouring facts kept",
        "Questions about similar subjects that no edit was about: share of them where the model still finds the "
        "true answer more likely than the one that the edit put in. Compare it with the unedited model: what is "
        "missing is damage.",
    ),
    (
        ("S", "final_S", "unedited_S"),
        "S: all three together",
        "The harmonic mean of ES, PS and NS. It is high only when all three are; one that breaks down pulls it down.",
    ),
    (
        ("ES_acc", "final_ES_acc", "unedited_ES_acc"),
        "Right by itself (accuracy)",
        "How often the model gives the right answer as its own first choice, token by token. Stricter than "
        "preferring one answer to another. Used alone where there is no old answer to compare with; counted in "
        "tokens where the task does so (zsRE).",
    ),
    (
        ("ES", "ES_acc", "final_ES", "final_ES_acc"),
        "Unedited, right after its edit, kept by all past edits, at the end",
        "The untouched model; each edit just after it was made; all edits made so far, asked again later in the "
        "sequence; all requests after the last edit.",
    ),
    (
        ("forgotten_pct",),
        "Forgotten",
        "Of the edits whose new answer the model gave by itself at some check, the share that it does not give at "
        "this one. Counting every edit that ever failed again makes the share larger; some come back by themselves.",
    ),
    (
        ("half_life", "half_life_es"),
        "Later edits until half are forgotten",
        "How many edits it takes until half of the earlier ones have been found forgotten at some check, by Kaplan and "
        "Meier's estimate, in which edits last seen right count up to then. Empty where fewer were forgotten.",
    ),
    (
        ("perplexity", "unedited_perplexity"),
        "Perplexity on plain text",
        "How surprised the model is by ordinary text, lower is better. It rises when edits damage the model as a "
        "whole; a tenfold rise is called a collapse here.",
    ),
    (
        ("inflection_edit",),
        "The model broke at",
        "The edit at which what was lost slowly was lost at once: perplexity doubled or a quarter of the past edits "
        "went, five times as fast as in the rest of the sequence, and for good. Whether that edit breaks the model by "
        "itself, or was the last of too many, is what `edit-robust autopsy` says.",
    ),
    (
        ("n_guarded",),
        "Edits stopped by the guard",
        "Edits that were refused or made smaller because of a warning sign known before they are applied. The cost is "
        "that their facts stay unedited; an autopsy of the run tells what it saved.",
    ),
    (
        ("drift",),
        "Drift: distance of the weights",
        "Frobenius norm of the difference between the edited weights and the original ones. It grows with every "
        "edit; a sudden jump marks an edit that disables the model.",
    ),
    (
        ("mean_division_factor",),
        "Division factor",
        "Rank-one editors divide the change by this number. When it comes close to zero, a single edit becomes huge.",
    ),
    (
        ("generated_exact", "final_generated_exact"),
        "Generated freely, and teacher forced",
        "The edit's question answered in two ways. Generated: the model writes until it ends by itself, and the text "
        "must be the answer and nothing else (without case, punctuation and articles). Teacher forced: the model is "
        "shown the answer's first tokens and where it ends, and each token must be its first choice; most published "
        "numbers are of this kind, and they are higher.",
    ),
    (
        ("GE_sampled", "GE_greedy", "final_GE_sampled", "final_GE_greedy"),
        "GE: entropy of text",
        "Bits of the two- and three-word sequences in text that the model writes about the edit's subject; it falls "
        "when the model repeats itself. Sampled and greedy text are never compared with each other.",
    ),
    (
        ("RS_sampled", "RS_greedy", "final_RS_sampled", "final_RS_greedy"),
        "RS: likeness to texts about the new answer",
        "TF-IDF cosine between what the model writes about the subject and texts about things for which the new "
        "answer is true. It rises when the model writes as if the edit were true.",
    ),
    (
        ("kl",),
        "KL on plain text",
        "How far the predictions on ordinary text have moved from the unedited model's, per token; 0 is not at all.",
    ),
    (
        ("ripple_alias", "ripple_negation", "ripple_prefix", "ripple_reasoning", "ripple_reversal"),
        "Ripple: what follows from an edit",
        "Questions that the requests bring beyond the edit's own: the subject by another name (alias), one step "
        "further (reasoning), from the answer back (reversal), after 'not' (negation: the old answer is right), behind "
        "fifty words (prefix), other facts about the subject (same subject: they should stay). Preference: the right "
        "answer is likelier than another one; argmax: it is the model's first choice.",
    ),
)
IMAGES: tuple[Entry, ...] = (
    (
        ("edit_accuracy", "unedited_edit_accuracy"),
        "Images of the edit",
        "Accuracy on held-out images that show the new concept (the edit's validation set). Compare it with the "
        "unedited model: what is more, the edit brought. Where a run has several requests, all numbers are means "
        "over them, each with its whole edit in the unedited model.",
    ),
    (
        ("original_accuracy", "unedited_original_accuracy"),
        "Original task",
        "Accuracy on the images that the model was made for. No edit is about them, so what is missing is damage.",
    ),
    (
        ("original_ood_penalty",),
        "Original task under corruptions (eq. 1)",
        "Accuracy of the edited model less that of the unedited one, on the same corrupted images (or shifted "
        "questions, about what was not edited); the mean over all corruptions and severities. A fraction: -0.012 is a "
        "loss of 1.2 points in a hundred; 0 is no loss.",
    ),
    (
        ("editing_ood_penalty", "unedited_editing_ood_penalty"),
        "Edit under corruptions (eq. 2)",
        "Accuracy on the edit's corrupted images (or shifted questions) less that on the clean ones, of the same "
        "edited model. The unedited model has such a drop of its own, shown beside it; only what goes beyond is the "
        "edit's own brittleness.",
    ),
    (
        ("matched_alpha", "constrained_alpha"),
        "A quarter of errors gone; original within 1 point",
        "Places on the way from the unedited to the edited model. At the first the edit has put right a quarter of "
        "what the unedited model got wrong on its images, whatever the method, so that costs can be compared. The "
        "second is the best edit that costs the original task one point at most; it was chosen on the very images "
        "that it is reported on, which flatters it a little.",
    ),
    (
        ("mce", "unedited_mce", "relative_mce"),
        "Mean corruption error",
        "Mean over corruptions of the error divided by AlexNet's error (on ImageNet-C, 15 corruptions at five "
        "severities), or divided by the unedited model's. Lower is better.",
    ),
    (
        ("original_gained",),
        "Images won / lost",
        "Of the original task's clean images, those that only the edited model gets right, and those that only the "
        "unedited one got right. p: how often chance alone flips images so unevenly (McNemar's exact test).",
    ),
    (
        ("edit_gain_low", "original_change_low", "original_ood_penalty_low", "editing_ood_penalty_low"),
        "Intervals in brackets",
        "95 %, from drawing the images anew 2000 times, always the same ones for both models. They speak of other "
        "images, not of other requests or seeds.",
    ),
    (
        ("monotone_edit_violation", "monotone_original_violation"),
        "Largest fall, largest rise",
        "From the unedited to the whole edit the edit's accuracy should only rise and the original task's only fall "
        "(monotone linear interpolation). This is the largest step the other way; p allows for all pairs of places.",
    ),
)
GLOSSARY: tuple[Entry, ...] = (*IMAGES, *LANGUAGE)


def explained(keys: Iterable[str]) -> list[tuple[str, str]]:
    """(title, text) of the entries about any of these numbers."""
    known = set(keys)
    return [(title, text) for about, title, text in GLOSSARY if known.intersection(about)]
