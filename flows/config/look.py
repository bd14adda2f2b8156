"""What can be asked of a database without building anything: parameters of `rdm search`, `map`,
`compare`, `duplicates`.
"""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from flows.config.parameters import Conditioned, Count, Neighbors, Seed, UnderRoot, path_as_text

SHEETS, TABLES = (".html", ".png"), (".csv", ".parquet", ".json")


def _answer(path: Path) -> Path:
    if path.suffix not in SHEETS + TABLES:
        endings = ", ".join(SHEETS + TABLES)
        raise ValueError(f"out: {path_as_text(path)} ends with none of {endings}")
    return path


AnswerFile = Annotated[Path, AfterValidator(_answer)]
"""A contact sheet, with credits as .html, with what of them fits under a picture as .png; or a
table of everything that was found: .csv, .parquet or .json.
"""


class SearchDatabase(Conditioned, UnderRoot):
    """A database, and what is looked for in it."""

    database: str
    """Database (embeddings and index of one name) that is searched."""
    texts: tuple[str, ...] = ()
    """Prompts."""
    templates: tuple[str, ...] = Field(("{}",), min_length=1)
    """Sentences that each prompt is put into, at {}; what is looked for is the mean of all of
    them.
    """
    images: tuple[Path, ...] = ()
    """Image files."""
    keys: tuple[str, ...] = ()
    """Rows of the database itself; other crops of the same image are left out of what is found."""
    vectors: Path | None = None
    """A .npy file of one vector [D] or several [Q, D] of the database's encoder."""
    k: int = Field(12, ge=1)
    """Rows found for each query; where there are fewer, all of them."""
    exact: bool = False
    """Compare with every row, whatever index there is."""
    out: AnswerFile | None = None
    """What was found: a contact sheet (.html or .png) or a table (.csv, .parquet or .json)."""

    @model_validator(mode="after")
    def _something_to_look_for(self) -> "SearchDatabase":
        if not (self.texts or self.images or self.keys or self.vectors):
            raise ValueError("texts, images, keys or vectors: give something to look for")
        return self


class CompareDatabases(UnderRoot):
    """Two databases: versions of one (name@id), or one set of images under two encoders."""

    one: str
    """Embeddings that are compared with."""
    other: str
    """Embeddings that are compared."""
    k: Neighbors = 10
    """Nearest rows that are compared."""
    queries: Count = 1000
    """Kept rows whose neighbors are compared."""
    same_above: float = Field(0.9999, gt=0, le=1)
    """Cosine from which a row's vector counts as unchanged."""
    seed: Seed = 0
    """Of the draw of these rows."""


class FindDuplicates(Conditioned, UnderRoot):
    """A database, and perhaps another set of images to compare it with."""

    database: str
    """Database that is searched for pairs."""
    other: str | None = None
    """Embeddings, an evaluation set's for example, whose rows are looked for in the database;
    unless given, its own rows.
    """
    cap: float | None = Field(None, gt=0, lt=1)
    """Cosine above which two images count as one; unless given, what altered copies of its images
    have.
    """
    calibrate_with: Count = 200
    """Images that are altered for it."""
    k: Neighbors = 8
    """Nearest rows that are looked at for each; where every one of them is a copy, more are hidden,
    which is said.
    """
    seed: Seed = 0
    """Of the draw of images to alter."""
    keys: Path | None = None
    """Without `other`: a file for the keys of all but the first of each group of copies, for `rdm
    remove --keys`.
    """
    out: AnswerFile | None = None
    """A contact sheet of the highest pairs (.html or .png), or a table of all (.csv, .parquet or
    .json).
    """

    force: bool = False
    """Write the files where a large part of the database would be copies, or the cap is in
    doubt.
    """

    @model_validator(mode="after")
    def _fits_together(self) -> "FindDuplicates":
        if self.keys is not None and self.other is not None:
            raise ValueError("keys: with `other` nothing is surplus; leave one out")
        return self


class MapDatabase(Conditioned, UnderRoot):
    """A database, laid out on a page."""

    database: str
    """Embeddings that are mapped."""
    out: Path = Path("map.html")
    """The page."""
    rows: int = Field(5000, ge=10, le=50_000)
    """Rows on the map, drawn by the seed where the database has more."""
    perplexity: float = Field(30.0, ge=2, le=200)
    """About how many neighbors each row is kept near to."""
    thumbnail: int = Field(48, ge=8, le=128)
    """Pixels of a picture."""
    seed: Seed = 0
    """Of the draw and of the layout."""

    @model_validator(mode="after")
    def _a_page(self) -> "MapDatabase":
        if self.out.suffix != ".html":
            raise ValueError(f"out: {self.out} does not end with .html")
        return self
