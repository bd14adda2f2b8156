"""Train the small CLIP of emoji: `python -m rdm_core.emoji.train_clip --pictures FOLDER ... --out
clip.safetensors`, on folders that `rdm acquire emoji` made.

    pictures -> turn, scale, shift, recolour, outline -> image tower --+
    names, keywords, and now and then the style -> tokens -> text tower -+-> InfoNCE
    pictures of one concept in two styles ------------------------------+-> InfoNCE

Concepts that are held out and the styles of `NO_TRAINING` are never shown. A step on one core
takes about half a second. What came of it: docs/emoji.md; the gates are in
tests/rdm_core/emoji/test_encoder.py.
"""

import argparse
import math
import random
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from PIL import Image

from rdm_core.emoji import encoder
from rdm_core.emoji.pictures import Pictures, read_pictures
from rdm_core.small_clip import embed_images, learn_merges, save, write_merges

SIDE = 64  # of the encoder's input
CONCEPTS = 96  # a step, each in two styles
MAX_SCALE = 50.0  # of the logits
MERGES = 2000  # rare words stay in pieces, which held-out names share with known ones
SAME_CONCEPT_SCALE = 10.0  # of the logits between pictures: a softer softmax
SAME_CONCEPT_WEIGHT = 0.5


def main() -> None:
    """Read, train, save, measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=Path, nargs="+", required=True, help="folders")
    parser.add_argument("--out", type=Path, required=True, help="where the weights go")
    parser.add_argument("--start", help="weights to go on from, at half rate")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--merges", action="store_true", help="learn the tokenizer's merges anew")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    pictures = read_pictures(args.pictures, SIDE)
    shown = pictures.for_training()
    if args.merges:
        print(f"vocabulary: {write_tokenizer(shown, encoder.MERGES)}")
        return
    encoder.register()
    model, _, preprocess = open_clip.create_model_and_transforms(
        encoder.MODEL_NAME, pretrained=args.start
    )
    tokenizer = open_clip.get_tokenizer(encoder.MODEL_NAME)
    print(f"{len(shown)} of {len(pictures)} pictures, styles {sorted(set(shown.styles))}")

    def tell(step: int) -> None:
        if step % 500 == 0:
            save(model, args.out)
            report(model, preprocess, tokenizer, pictures)

    train(model, tokenizer, shown, args.steps, 1e-3 if args.start else 2e-3, tell)
    save(model, args.out)
    model = open_clip.create_model(encoder.MODEL_NAME, pretrained=str(args.out)).eval()
    report(model, preprocess, tokenizer, pictures)


def write_tokenizer(pictures: Pictures, path: Path) -> int:
    """Learn the tokenizer's merges from the texts of some pictures and write them.

    Returns the vocabulary's size: 512 bytes, the merges, and two marks. The config's vocab_size
    must equal it, and the weights fit only these merges.
    """
    texts = []
    for options in pictures.texts:
        texts += [" ".join(words_of(text)) for text in options]
    merges = learn_merges([*texts, *sorted(set(pictures.styles))], most=MERGES)
    write_merges(merges, path)
    return 512 + len(merges) + 2


def words_of(text: str) -> list[str]:
    """The runs of ASCII letters in a text, in lower case."""
    return re.findall("[a-z]+", text.lower())


def train(
    model: open_clip.CLIP,
    tokenizer: Callable[[list[str]], torch.Tensor],
    pictures: Pictures,
    steps: int,
    rate: float = 2e-3,
    tell: Callable[[int], None] = lambda step: None,
) -> None:
    """Fit the model in place: AdamW, warm-up, cosine decay; `tell` is called after each step."""
    draw = random.Random(0)
    rows_of = defaultdict(list)
    for row, concept in enumerate(pictures.concepts):
        rows_of[concept].append(row)
    near = _by_subgroup(pictures)
    pixels = torch.from_numpy(pictures.pixels)
    model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch takes it, its stubs do not
    optimizer = torch.optim.AdamW(model.parameters(), rate, betas=(0.9, 0.98), weight_decay=0.2)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 100, 0.5 + 0.5 * math.cos(math.pi * step / steps))
    )
    started = time.time()
    for step in range(steps):
        rows = []
        for concept in _concepts_of_a_step(draw, list(rows_of), near):
            rows += draw.sample(rows_of[concept], min(2, len(rows_of[concept])))
        captions = [Caption.drawn(draw, pictures, row) for row in rows]
        changed = augment(pixels[rows])
        with torch.autocast("cpu", torch.bfloat16):
            images = model.encode_image(changed, normalize=True)
            texts = model.encode_text(tokenizer([one.text for one in captions]), normalize=True)
        images, texts = images.float(), texts.float()
        own = matches(pictures, rows, captions)
        same = torch.tensor(
            [[pictures.concepts[a] == pictures.concepts[b] for b in rows] for a in rows]
        )
        scale = model.logit_scale.exp().clamp(max=MAX_SCALE)
        itself = torch.eye(len(rows), dtype=torch.bool)
        loss = info_nce(scale * images @ texts.T, own, torch.zeros_like(own))
        alike = SAME_CONCEPT_SCALE * images @ images.T
        loss = loss + SAME_CONCEPT_WEIGHT * info_nce(alike, same & ~itself, itself)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            seconds = time.time() - started
            print(
                f"step {step:5d}  loss {loss.item():.3f}  scale {scale.item():.1f}  "
                f"{seconds:.0f} s",
                flush=True,
            )
        tell(step + 1)
    with torch.no_grad():
        model.logit_scale.clamp_(max=math.log(MAX_SCALE))


def _by_subgroup(pictures: Pictures) -> list[list[str]]:
    """Concepts that are alike, subgroup by subgroup."""
    near: dict[tuple[str, str], dict[str, bool]] = defaultdict(dict)
    for concept, groups in zip(pictures.concepts, pictures.groups, strict=True):
        near[groups][concept] = True
    return [list(concepts) for concepts in near.values()]


def _concepts_of_a_step(
    draw: random.Random, all_of_them: Sequence[str], near: Sequence[Sequence[str]]
) -> list[str]:
    """Half of them from a few subgroups, which are hard to tell apart; half from anywhere."""
    chosen: dict[str, None] = {}
    for subgroup in draw.sample(near, len(near)):
        chosen.update(dict.fromkeys(draw.sample(subgroup, min(12, len(subgroup)))))
        if len(chosen) >= CONCEPTS // 2:
            break
    chosen.update(dict.fromkeys(draw.sample(all_of_them, CONCEPTS)))
    return list(chosen)[:CONCEPTS]


@dataclass(frozen=True)
class Caption:
    """A text, the words of the vocabulary of names and keywords in it, and the style it names."""

    text: str
    concept: str
    keywords: frozenset[str]
    style: str | None

    @classmethod
    def drawn(cls, draw: random.Random, pictures: Pictures, row: int) -> "Caption":
        """A caption of one picture: mostly its name, else keywords; sometimes an article before,
        a word left out, the style behind.
        """
        name, *keywords = pictures.texts[row]
        kind = draw.random()
        if kind < 0.4 or not keywords:
            said = [name]
        elif kind < 0.6:
            said = [name, *draw.sample(keywords, min(draw.randint(1, 2), len(keywords)))]
        else:
            kinds = [" ".join(words_of(part)) for part in pictures.groups[row]]
            said = draw.sample([*keywords, *kinds], draw.randint(1, 2))
        words = words_of(" ".join(said))
        if len(words) > 2 and draw.random() < 0.3:
            words.pop(draw.randrange(len(words)))
        text = " ".join(words) or name
        if draw.random() < 0.3:
            text = f"a {text}"
        style = pictures.styles[row] if draw.random() < 0.3 else None
        if style:
            text = f"{text} {style.replace('_', ' ')}"
        return cls(text, pictures.concepts[row], frozenset(said), style)


def matches(pictures: Pictures, rows: Sequence[int], captions: Sequence[Caption]) -> torch.Tensor:
    """Which captions are true of which pictures, bool [N, M]: of the same concept, or with all the
    keywords that are said; and of the style, if one is named.
    """
    true = torch.zeros(len(rows), len(captions), dtype=torch.bool)
    for place, row in enumerate(rows):
        kinds = [" ".join(words_of(part)) for part in pictures.groups[row]]
        known = {*pictures.texts[row], *kinds}
        for number, caption in enumerate(captions):
            if caption.style in (None, pictures.styles[row]):
                same = caption.concept == pictures.concepts[row]
                true[place, number] = same or caption.keywords <= known
    return true


def info_nce(logits: torch.Tensor, right: torch.Tensor, left_out: torch.Tensor) -> torch.Tensor:
    """InfoNCE in both directions with several right answers (arXiv 2004.11362, equation 2).

    logits [N, M]; right, left_out: bool [N, M]. Rows and columns without a right answer count
    nothing.
    """
    logits = logits.masked_fill(left_out, -1e4)
    loss = logits.new_zeros(())
    for table, wanted in ((logits, right), (logits.T, right.T)):
        counts = wanted.sum(dim=1)
        shares = (F.log_softmax(table, dim=1) * wanted).sum(dim=1) / counts.clamp(min=1)
        loss = loss - shares[counts > 0].mean() / 2
    return loss


def augment(pixels: torch.Tensor) -> torch.Tensor:
    """Other hands: turned, scaled, shifted, mirrored, recoloured, outlined, blurred; then
    open_clip's normalisation.

    uint8 [B, SIDE, SIDE, 3] on white -> float32 [B, 3, SIDE, SIDE].
    """
    ink = 1 - pixels.permute(0, 3, 1, 2).float() / 255  # white is nothing
    count = len(ink)
    angle = (torch.rand(count) - 0.5) * 0.6
    scale = torch.exp((torch.rand(count) - 0.4) * 0.5)
    mirrored = torch.where(torch.rand(count) < 0.25, -1.0, 1.0)
    stretch = torch.exp((torch.rand(count) - 0.5) * 0.2)
    shift = (torch.rand(count, 2) - 0.5) * 0.24
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    turn = torch.stack(
        [
            torch.stack([cos * mirrored * stretch, -sin, shift[:, 0]], dim=1),
            torch.stack([sin * mirrored, cos / stretch, shift[:, 1]], dim=1),
        ],
        dim=1,
    )
    places = F.affine_grid(turn, list(ink.shape), align_corners=False)
    images = 1 - F.grid_sample(ink, places, mode="bilinear", align_corners=False)

    def some(share: float) -> torch.Tensor:
        return (torch.rand(count, 1, 1, 1) < share).float()

    mix = torch.eye(3) + some(0.6)[:, :, 0] * 0.2 * torch.randn(count, 3, 3)
    mixed = 1 - torch.einsum("bij,bjhw->bihw", mix, 1 - images)  # white stays white
    images = torch.lerp(mixed, mixed.mean(dim=1, keepdim=True), some(0.12) * 0.9)
    pale = some(0.2) * torch.rand(count, 1, 1, 1)
    images = 1 - (1 - images) * (1 - 0.8 * pale)
    images = torch.lerp(images, _outlined(images), some(0.4) * torch.rand(count, 1, 1, 1))
    blurred = F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    images = torch.lerp(images, blurred, some(0.4) * torch.rand(count, 1, 1, 1))
    images = images + torch.randn_like(images) * 0.06 * torch.rand(count, 1, 1, 1) ** 2
    mean, std = (
        torch.tensor(values).view(3, 1, 1)
        for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    return ((images.clamp(0, 1) - mean) / std).contiguous(memory_format=torch.channels_last)


def _outlined(images: torch.Tensor) -> torch.Tensor:
    """Black lines where colours meet, [B, 3, H, W] of 0..1."""
    highest = F.max_pool2d(images, 3, stride=1, padding=1)
    lowest = -F.max_pool2d(-images, 3, stride=1, padding=1)
    edges = ((highest - lowest).amax(dim=1, keepdim=True) * 2.5 - 0.4).clamp(0, 1)
    return images * (1 - edges)


@torch.inference_mode()
def recalls(
    model: open_clip.CLIP,
    tokenizer: Callable[[list[str]], torch.Tensor],
    vectors: torch.Tensor,
    pictures: Pictures,
    rows: Sequence[int],
    ranks: Iterable[int] = (1, 10),
) -> dict[str, float]:
    """How often a name finds its picture among those of some rows: "R@1", "R@10", and what chance
    would give, "chance@10".

    vectors: unit vectors [N, D] of all pictures.
    """
    names = [" ".join(words_of(pictures.texts[row][0])) for row in rows]
    texts = model.encode_text(tokenizer(names), normalize=True)
    scores = texts @ vectors[list(rows)].T
    rank = (scores > scores.diagonal()[:, None]).sum(dim=1)
    found = {}
    for most in ranks:
        found[f"R@{most}"] = float((rank < most).float().mean())
        found[f"chance@{most}"] = most / len(rows)
    return found


def report(
    model: open_clip.CLIP,
    preprocess: Callable[[Image.Image], torch.Tensor],
    tokenizer: Callable[[list[str]], torch.Tensor],
    pictures: Pictures,
) -> None:
    """Print the recalls of each style among known and held-out concepts."""
    was_training = model.training
    model.eval()
    vectors = embed_images(model, preprocess, pictures.pixels)
    for style in dict.fromkeys(pictures.styles):
        for held_out in (False, True):
            rows = [
                row
                for row in range(len(pictures))
                if pictures.styles[row] == style and pictures.held_out[row] == held_out
            ]
            measured = recalls(model, tokenizer, vectors, pictures, rows)
            told = "  ".join(f"{name} {value:.3f}" for name, value in measured.items())
            print(f"{style:9s} {'held out' if held_out else 'known':8s} {len(rows):5d}  {told}")
    model.train(was_training)


if __name__ == "__main__":
    main()
