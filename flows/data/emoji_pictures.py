"""npm's packages of emoji -> pictures and their table, for the source `emoji`."""

from collections.abc import Callable
from pathlib import Path

from storage.emoji import (
    AUTHORS,
    NAMED_AS,
    NAMES,
    PACKAGES_NAME,
    STYLES,
    Picture,
    Pin,
    concept_is_held_out,
    concepts_in_all,
    read_authors,
    read_concepts,
    write_table,
)
from storage.emoji_drawing import draw_emoji
from storage.errors import SourceError, explaining_disk_errors
from storage.icon_sets import named_as, read_icon_set
from storage.npm import Package, fetch_package
from storage.svg import SIDES_PIXELS

_PICTURES_A_LINE = 500


def acquire_emoji(
    path: Path, styles: tuple[str, ...], side_pixels: int, say: Callable[[str], None]
) -> dict[str, int]:
    """Draw every concept that all the styles have, and write the table that `rdm import` reads.

    packages --read--> concepts, icons --draw--> <style>/<code points>.png --> emoji.json

    What lies there already is kept: packages of the same version, pictures of the same drawing and
    size. So it goes on where it was stopped. The table comes last, and is of the styles of this
    call alone. say: is told, line by line, what a waiting person wants to know. Returns the counts
    concepts, held_out_concepts, pictures, drawn, kept and rejected. Raises SourceError (no npm, no
    network, packages that are not what they were), CannotWrite where the disk refuses, ValueError
    for no style or an unknown one, and for a side outside storage.svg.SIDES_PIXELS.
    """
    unknown = [style for style in styles if style not in STYLES]
    if unknown or not styles or len(set(styles)) != len(styles):
        raise ValueError(f"styles: {styles!r}, must be some of {', '.join(STYLES)}, each once")
    least, most = SIDES_PIXELS
    if not least <= side_pixels <= most:
        raise ValueError(f"side_pixels: {side_pixels}, must be {least} to {most}")
    with explaining_disk_errors(path):
        return _acquire(path, styles, side_pixels, say)


def _acquire(
    path: Path, styles: tuple[str, ...], side_pixels: int, say: Callable[[str], None]
) -> dict[str, int]:
    packages: list[Package] = []

    def fetched(pin: Pin) -> Package:
        package = fetch_package(pin.name, pin.version, path / PACKAGES_NAME, pin.integrity)
        size = package.path.stat().st_size
        say(f"{package.label}: {'kept' if package.was_kept else 'fetched'}, {size:,} bytes")
        packages.append(package)
        return package

    all_concepts = read_concepts(fetched(NAMES))
    sets = {}
    for style in styles:
        sets[style] = read_icon_set(fetched(STYLES[style]))
        if style in NAMED_AS:
            sets[style] = named_as(sets[style], read_icon_set(fetched(STYLES[NAMED_AS[style]])))
    authors = {style: read_authors(fetched(AUTHORS[style])) for style in styles if style in AUTHORS}
    concepts = concepts_in_all(all_concepts, list(sets.values()))
    if not concepts:
        cure = "Delete the folder and run the same command again."
        raise SourceError(path / PACKAGES_NAME, f"no emoji is in all of {', '.join(styles)}", cure)
    say(f"{len(concepts):,} of {len(all_concepts):,} emoji are in {', '.join(styles)}")

    pictures: list[Picture] = []
    kept = 0
    for style, icons in sets.items():

        def progress(done: int, of: int, style: str = style) -> None:
            if done % _PICTURES_A_LINE == 0 or done == of:
                say(f"{style}: {done:,} of {of:,} pictures")

        drawn = draw_emoji(path, style, icons, concepts, side_pixels, authors.get(style), progress)
        pictures += drawn.pictures
        kept += drawn.kept
    write_table(path, pictures, packages, side_pixels)
    rejected = sum(picture.reason is not None for picture in pictures)
    return {
        "concepts": len(concepts),
        "held_out_concepts": sum(concept_is_held_out(one.code_points) for one in concepts),
        "pictures": len(pictures) - rejected,
        "drawn": len(pictures) - rejected - kept,
        "kept": kept,
        "rejected": rejected,
    }
