"""How a model is asked at the points of a walk: in words, or with images."""

from __future__ import annotations

from edit_robust.inquiry.base import Inquiry, Setting


def inquire(setting: Setting) -> Inquiry:
    """The inquiry that suits the model."""
    if setting.model.asks == "images":
        from edit_robust.inquiry.images import ImageInquiry

        return ImageInquiry(setting)
    from edit_robust.inquiry.language import LanguageInquiry

    return LanguageInquiry(setting)
