"""How likely captions are for images: what classifies by examples, and what picks the best of
several captions (RA-CM3, arXiv 2211.12561, sections 4.3 and 5.2).

B samples, C captions of each, L words of a caption.
"""

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from rdm_core.context import Context
from rdm_core.families.multimodal.draw import BATCH, Branch, Known
from rdm_core.families.multimodal.layout import MAIN, Sequence

if TYPE_CHECKING:
    from rdm_core.families.multimodal.model import Multimodal


@torch.no_grad()
def caption_scores(
    model: "Multimodal", context: Context, codes: torch.Tensor, texts: torch.Tensor
) -> torch.Tensor:
    """log p(text | image, documents) in nats, float64 [B, C], of texts int64 [B, C, M] as the
    encoder's tokenizer gives them, for codes int64 [B, h, w] with the documents of contexts.

    It is the sum over the words and the caption's end, so that captions of different lengths can be
    compared by it; divided by the words it is what perplexities are made of. Documents and image
    are computed once for all captions. Raises RequestError for a text that is too long.
    """
    layout, device = model.layout, model.device
    all_captions = layout.captions(texts)
    retrieved, there = model.retrieved(context)
    main = torch.cat([all_captions[:, 0], codes.long().flatten(1)], dim=1)
    unknown = torch.zeros_like(main, dtype=torch.bool)
    unknown[:, : layout.length] = True
    given = Known(main, unknown, retrieved, there)
    scores = torch.zeros(all_captions.shape[:2], dtype=torch.float64)
    for number in there.unique():
        alike = (there == number).nonzero()[:, 0]
        for rows in alike.split(max(1, BATCH // texts.shape[1])):
            some, candidates = given.rows(rows).to(device), all_captions[rows].to(device)
            scores[rows] = _scores(model, some, candidates).cpu()
    return scores


def _scores(model: "Multimodal", given: Known, captions: torch.Tensor) -> torch.Tensor:
    """`caption_scores` float64 [B, C] of captions int64 [B, C, L], where all samples have equally
    many documents.
    """
    network, layout, count = model.transformer, model.layout, captions.shape[1]
    branch = Branch(network, given)
    first = branch.start().repeat_interleave(count, dim=0)
    flat = captions.flatten(0, 1)
    places = branch.places.repeat_interleave(count, dim=0)
    kept = branch.cache.repeated(count)
    behind = Sequence(flat, places, torch.full_like(places, MAIN), flat != layout.pad)[:-1]
    hidden = first[:, None]
    if layout.length > 1:
        hidden = torch.cat([hidden, network.hidden(behind, places[:, 1:], kept)], dim=1)
    logits = network.word_logits(hidden).double()
    targets = flat - layout.codes
    each = -functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    # Words, and the first <pad>, which ends a caption.
    counted = functional.pad(flat[:, :-1] != layout.pad, (1, 0), value=True)
    return (each * counted).sum(dim=1).view(captions.shape[:2])
