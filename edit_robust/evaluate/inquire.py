"""How a model is asked at the points of a walk: in words, or with images."""

from __future__ import annotations

from edit_robust.evaluate.base import Inquiry, Setting


def inquire(setting: Setting) -> Inquiry:
    """The inquiry that suits the model."""
    if setting.model.asks == "images":
        from edit_robust.evaluate.image_answers import ImageInquiry

        return ImageInquiry(setting)
    from edit_robust.evaluate.answers import LanguageInquiry

    return LanguageInquiry(setting)
