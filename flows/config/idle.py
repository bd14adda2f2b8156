"""Parameters that would change nothing: a mistake that nobody would notice later."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flows.config.images import Images

ONLY_FOR = {
    "shapes": ("count", "styles", "colours", "shapes", "backgrounds", "positions", "sizes"),
    "folder": ("dataset", "licence", "author"),
}
"""Source -> what is said of it alone."""


def refuse_idle(images: Images) -> None:
    """Raise ValueError for a parameter, other than its default, that does not apply to what is
    imported.
    """
    for source, names in ONLY_FOR.items():
        for name in names if source != images.source else ():
            why = f"is for the source {source!r} alone, this is {images.source!r}"
            _refuse_given(images, name, why)
    if images.source == "shapes":
        _refuse_given(images, "path", "is not for shapes, which are drawn")
    if images.crop != "random":
        _refuse_given(images, "frame", "is for crop=random")
    if images.encoding != "jpg":
        _refuse_given(images, "quality", f"is for encoding=jpg; {images.encoding} loses nothing")


def refuse_precision_of_texts(of: str, precision: str) -> None:
    """Raise ValueError for a precision of the image tower where no image is embedded."""
    if of == "text" and precision not in ("auto", "float32"):
        why = "is of the image tower, and of=text embeds captions, in float32"
        raise ValueError(f"precision: {why} (given: {precision})")


def _refuse_given(images: Images, name: str, why: str) -> None:
    value = getattr(images, name)
    if value != type(images).model_fields[name].default:
        raise ValueError(f"{name}: {why} (given: {value})")
