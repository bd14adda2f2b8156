"""Small CLIPs that lie in this package: open_clip is told of them, and their tokenizers are made.

A model is three files beside each other: the architecture (open_clip's own JSON), the tokenizer's
merges, and weights that a program beside them made.
"""

import gzip
import io
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file

from rdm_core.weights import halved

EMBEDDED_TOGETHER = 256


def register(config: Path, merges: Path) -> None:
    """Make open_clip know the model that a config, <name>.json, describes; calling it again changes
    nothing.

    open_clip looks for the merges at the path its config names, and that path depends on where this
    package is installed. So the config is completed here and handed over through a temporary file,
    which open_clip reads at once.
    """
    if config.stem in open_clip.list_models():
        return
    content = json.loads(config.read_bytes())
    content["text_cfg"]["tokenizer_kwargs"] = {"bpe_path": str(merges)}
    with tempfile.TemporaryDirectory() as folder:
        completed = Path(folder) / config.name
        completed.write_text(json.dumps(content), encoding="utf-8")
        open_clip.add_model_config(completed)


def learn_merges(
    texts: Iterable[str], first: Sequence[tuple[str, str]] = (), most: int | None = None
) -> list[tuple[str, str]]:
    """Byte-pair merges under which every word of the texts becomes one token.

    Those of `first` come first; then the most frequent pair, ties in alphabetical order, until no
    word has two parts or there are `most` merges.  Words are runs of letters; texts must be
    lower-case ASCII.
    """
    counts = Counter(word for text in texts for word in text.replace(",", " ").split())
    parts = {word: (*word[:-1], word[-1] + "</w>") for word in counts}
    merges: list[tuple[str, str]] = []
    for merge in first:
        merges.append(merge)
        parts = {word: _join(pieces, merge) for word, pieces in parts.items()}
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in counts.items():
            for pair in pairwise(parts[word]):
                pairs[pair] += count
        if not pairs or len(merges) == most:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        parts = {word: _join(pieces, best) for word, pieces in parts.items()}


def write_merges(merges: list[tuple[str, str]], path: Path) -> None:
    """Write merges as open_clip's tokenizer reads them: gzip, one header line, a pair a line.

    No newline ends the file: the tokenizer would take it for one more, empty, merge.
    """
    text = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)])
    buffer = io.BytesIO()
    # Without a name and a time in its header, equal merges give equal bytes.
    with gzip.GzipFile(fileobj=buffer, mode="wb", filename="", mtime=0) as stream:
        stream.write(text.encode())
    path.write_bytes(buffer.getvalue())


def _join(pieces: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """Merge each occurrence of the pair, from the left."""
    joined: list[str] = []
    for piece in pieces:
        if joined and (joined[-1], piece) == pair:
            joined[-1] += piece
        else:
            joined.append(piece)
    return tuple(joined)


def save(model: open_clip.CLIP, path: Path) -> None:
    """Write the weights in half precision, which open_clip widens again on loading."""
    save_file(halved(model.state_dict()), path)


@torch.inference_mode()
def embed_images(
    model: open_clip.CLIP,
    preprocess: Callable[[Image.Image], torch.Tensor],
    pictures: Sequence[np.ndarray] | np.ndarray,
) -> torch.Tensor:
    """Unit vectors [N, D] of uint8 pictures [side, side, 3]."""
    vectors = []
    for start in range(0, len(pictures), EMBEDDED_TOGETHER):
        some = pictures[start : start + EMBEDDED_TOGETHER]
        batch = torch.stack([preprocess(Image.fromarray(picture)) for picture in some])
        vectors.append(model.encode_image(batch, normalize=True))
    return torch.cat(vectors)
