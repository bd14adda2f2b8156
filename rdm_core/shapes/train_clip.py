"""Train the small CLIP of the built-in world: `python -m rdm_core.shapes.train_clip --out
clip.safetensors`.

    render -> resize as open_clip's transform does -> augment -> image tower --+
    captions of one to seven factors -> tokens --------------> text tower  ------+-> InfoNCE

1,200 steps of 256 pairs take 10 to 20 minutes on two CPU cores.  The weights in the package
came of such a run in the world without accessories, and went on (`--start`) for 600 steps in the
world with them: they mostly tell an object with an accessory from one without, not which it is.
clip-accessories.safetensors went on from there for 700 steps with `--worn 3600 --images 8000`; it
tells which (zero-shot 100 %, before 60 %).
The gates the result must pass are in tests/rdm_core/shapes/test_encoder.py.
"""

import argparse
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image

from rdm_core.shapes import encoder, world
from rdm_core.small_clip import embed_images, learn_merges, save, write_merges

SIDES = (32, 64)
SIDE = 64  # of the encoder's input
BATCH = 256
MAX_SCALE = 50.0  # of the logits; a colder softmax would pull images and texts apart no further


def main() -> None:
    """Render, train, measure on held-out renders, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="where the weights go (.safetensors)"
    )
    parser.add_argument("--start", help="weights of the same tokenizer to go on from, at half rate")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--images", type=int, default=24_000, help="how many renders to train on")
    parser.add_argument(
        "--worn", type=int, default=0, metavar="OBJECTS",
        help="also learn from so many objects that are shown with each accessory and without",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    started = time.time()
    pixels, factors = training_images(args.images, args.threads)
    worn = worn_images(args.worn, args.threads) if args.worn else None
    print(f"rendered {len(factors)} images in {time.time() - started:.0f} s", flush=True)
    encoder.register()
    model, _, preprocess = open_clip.create_model_and_transforms(
        encoder.MODEL_NAME, pretrained=args.start
    )
    tokenizer = open_clip.get_tokenizer(encoder.MODEL_NAME)
    train(model, tokenizer, pixels, factors, args.steps, 1e-3 if args.start else 2e-3, worn)
    save(model, args.out)

    model = open_clip.create_model(encoder.MODEL_NAME, pretrained=str(args.out)).eval()
    for side in SIDES:
        samples = [world.sample("heldout", index, side) for index in range(1000)]
        images = embed_images(model, preprocess, [sample.pixels for sample in samples])
        measured = zero_shot(model, tokenizer, images, [sample.factors for sample in samples])
        print(
            f"held out, {side} pixels:", {name: round(value, 4) for name, value in measured.items()}
        )


def training_images(count: int, processes: int) -> tuple[torch.Tensor, list[world.Factors]]:
    """Render `count` images of split "clip", alternating sides, all resized to SIDE.

    Returns pixels uint8 [count, SIDE, SIDE, 3] and the factors of each.
    """
    with Pool(processes) as pool:
        rendered = pool.map(_training_image, range(count), chunksize=256)
    return torch.from_numpy(np.stack([pixels for pixels, _ in rendered])), [
        factors for _, factors in rendered
    ]


def worn_images(objects: int, processes: int) -> tuple[torch.Tensor, list[world.Factors]]:
    """Each of so many objects with every value of the accessory, one after the other: as
    `training_images`, [objects * values, SIDE, SIDE, 3].
    """
    with Pool(processes) as pool:
        rendered = pool.map(_worn_image, range(objects * len(world.ACCESSORIES)), chunksize=256)
    return torch.from_numpy(np.stack([pixels for pixels, _ in rendered])), [
        factors for _, factors in rendered
    ]


def _worn_image(index: int) -> tuple[np.ndarray, world.Factors]:
    number, accessory = divmod(index, len(world.ACCESSORIES))
    drawn = world.draw_factors("clip-worn", number)
    factors = replace(drawn, accessory=world.ACCESSORIES[accessory])
    seed = world.derive_seed("clip-worn", number, accessory)
    pixels = world.render(factors, SIDES[number % len(SIDES)], seed)
    resized = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(resized), factors


def _training_image(index: int) -> tuple[np.ndarray, world.Factors]:
    sample = world.sample("clip", index, SIDES[index % len(SIDES)])
    # open_clip's transform resizes a PIL image in the same way.
    resized = Image.fromarray(sample.pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(resized), sample.factors


def write_tokenizer(path: Path) -> int:
    """Learn the tokenizer's merges from captions of split "merges" and write them.

    Returns the vocabulary's size: 512 bytes, the merges, and two marks.  The
    config's vocab_size must equal it, and the weights fit only these merges.
    """
    # The six older factors' words first: a token keeps its number when a factor is added.
    merges: list[tuple[str, str]] = []
    for accessories in ((world.NO_ACCESSORY,), world.ACCESSORIES):
        drawn = [
            world.draw_factors("merges", index, accessories=accessories) for index in range(4000)
        ]
        texts = (text for factors in drawn for text in world.captions(factors))
        if not merges:
            texts = (text for text in texts if "accessory" not in world.parse_caption(text))
        merges = learn_merges(texts, merges)
    write_merges(merges, path)
    return 512 + len(merges) + 2


def train(
    model: open_clip.CLIP,
    tokenizer: Callable[[list[str]], torch.Tensor],
    pixels: torch.Tensor,
    factors: list[world.Factors],
    steps: int,
    rate: float = 2e-3,
    worn: tuple[torch.Tensor, list[world.Factors]] | None = None,
) -> None:
    """Fit the model in place: AdamW, warm-up, cosine decay, one random caption a picture.

    With `worn`, two thirds of a batch are objects with each accessory: pictures that differ in
    nothing else, mostly with captions that name it.
    """
    draw = random.Random(0)
    texts = _Texts(tokenizer)
    codes = _codes_of(factors)
    model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch takes it, its stubs do not
    optimizer = torch.optim.AdamW(model.parameters(), rate, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 60, 0.5 + 0.5 * math.cos(math.pi * step / steps))
    )
    started = time.time()
    for step in range(steps):
        rows = draw.sample(range(len(factors)), min(BATCH // 3 if worn else BATCH, len(factors)))
        chosen = [draw.choice(world.captions(factors[row])) for row in rows]
        shown, shown_codes = pixels[rows], codes[rows]
        if worn:
            dressed = _dressed(draw, len(worn[1]), BATCH - len(rows))
            chosen += [_worn_caption(draw, worn[1][row]) for row in dressed]
            shown = torch.cat([shown, worn[0][dressed]])
            shown_codes = torch.cat([shown_codes, _codes_of([worn[1][row] for row in dressed])])
        tokens, named = texts(chosen)
        with torch.autocast("cpu", torch.bfloat16):
            images = model.encode_image(augment(shown), normalize=True)
            captions = model.encode_text(tokens, normalize=True)
        scale = model.logit_scale.exp().clamp(max=MAX_SCALE)
        loss = info_nce(images.float(), captions.float(), scale, matches(shown_codes, named))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 25 == 0 or step == steps - 1:
            print(
                f"step {step:5d}  loss {loss.item():.3f}  scale {scale.item():.1f}  "
                f"{time.time() - started:.0f} s",
                flush=True,
            )
    with torch.no_grad():
        model.logit_scale.clamp_(max=math.log(MAX_SCALE))


def _codes_of(factors: Sequence[world.Factors]) -> torch.Tensor:
    """Which value each factor has, int64 [N, 7]."""
    rows = []
    for one in factors:
        rows.append([world.VALUES[name].index(getattr(one, name)) for name in world.FACTORS])
    return torch.tensor(rows)


def _dressed(draw: random.Random, count: int, wanted: int) -> list[int]:
    """Rows of `worn_images`, `count` in all: some objects, each with everything it is shown with;
    as many as fit into `wanted`.
    """
    each = len(world.ACCESSORIES)
    objects = draw.sample(range(count // each), min(wanted // each, count // each))
    return [each * number + accessory for number in objects for accessory in range(each)]


def _worn_caption(draw: random.Random, factors: world.Factors) -> str:
    """A caption that mostly names what is worn, and any of the other factors."""
    if draw.random() < 0.2:
        return draw.choice(world.captions(factors))
    others = [name for name in world.FACTORS if name != "accessory" and draw.random() < 0.6]
    return world.caption(factors, (*others, "accessory"))


class _Texts:
    """Tokens of captions and the codes of the factors they name, each caption worked out once."""

    def __init__(self, tokenizer: Callable[[list[str]], torch.Tensor]) -> None:
        self._one = lru_cache(maxsize=None)(lambda text: (tokenizer([text])[0], _codes(text)))

    def __call__(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tokens [B, L] and codes [B, 7], -1 where a factor is not named."""
        pairs = [self._one(text) for text in texts]
        return torch.stack([tokens for tokens, _ in pairs]), torch.stack(
            [codes for _, codes in pairs]
        )


def _codes(text: str) -> torch.Tensor:
    named = world.parse_caption(text)
    return torch.tensor(
        [world.VALUES[name].index(named[name]) if name in named else -1 for name in world.FACTORS]
    )


def matches(codes: torch.Tensor, named: torch.Tensor) -> torch.Tensor:
    """Which captions are true of which images: codes [N, 7], named [M, 7] -> bool [N, M]."""
    return ((named[None] == -1) | (codes[:, None] == named[None])).all(dim=-1)


def info_nce(
    images: torch.Tensor, captions: torch.Tensor, scale: torch.Tensor, match: torch.Tensor
) -> torch.Tensor:
    """InfoNCE over unit vectors [B, D], without false negatives.

    Caption i belongs to image i.  Where another caption of the batch is true of
    the image as well (match [B, B]), it is left out of that row's softmax.
    """
    own = torch.eye(len(images), dtype=torch.bool)
    logits = (scale * images @ captions.T).masked_fill(match & ~own, -torch.inf)
    target = torch.arange(len(images))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def augment(pixels: torch.Tensor) -> torch.Tensor:
    """Small shifts, light, blur and noise, then open_clip's normalisation.

    uint8 [B, SIDE, SIDE, 3] -> float32 [B, 3, SIDE, SIDE].  Blur and noise are what
    the pictures of a young diffusion model suffer from.
    """
    images = pixels.permute(0, 3, 1, 2).float() / 255
    batch = len(images)
    padded = F.pad(images, (4, 4, 4, 4), mode="replicate")
    shifts = torch.randint(0, 9, (8, 2)).tolist()
    images = torch.cat(
        [
            part[:, :, down : down + SIDE, right : right + SIDE]
            for part, (down, right) in zip(padded.tensor_split(8), shifts, strict=True)
        ]
    )
    blurred = F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    images = torch.lerp(
        images, blurred, torch.rand(batch, 1, 1, 1) * (torch.rand(batch, 1, 1, 1) < 0.4)
    )
    images = (images - 0.5) * (1 + 0.2 * (torch.rand(batch, 1, 1, 1) - 0.5)) + 0.5
    images = images + 0.12 * (torch.rand(batch, 1, 1, 1) - 0.5)
    images = images + torch.randn_like(images) * 0.06 * torch.rand(batch, 1, 1, 1) ** 2
    mean, std = (
        torch.tensor(values).view(3, 1, 1)
        for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    return ((images.clamp(0, 1) - mean) / std).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def embed_texts(
    model: open_clip.CLIP, tokenizer: Callable[[list[str]], torch.Tensor], texts: Sequence[str]
) -> torch.Tensor:
    """Unit vectors [N, D] of texts."""
    return torch.cat(
        [
            model.encode_text(tokenizer(list(texts[start : start + 256])), normalize=True)
            for start in range(0, len(texts), 256)
        ]
    )


def zero_shot(
    model: open_clip.CLIP,
    tokenizer: Callable[[list[str]], torch.Tensor],
    images: torch.Tensor,
    factors: Sequence[world.Factors],
) -> dict[str, float]:
    """Accuracy of each factor when the nearest of its one-factor prompts decides.

    images are unit vectors [N, D]; prompts are "a red object", "a circle", "a sketch", ...
    """
    accuracy = {}
    for name, values in world.VALUES.items():
        prompts = [
            world.caption(world.Factors(**{**vars(factors[0]), name: value}), (name,))
            for value in values
        ]
        nearest = (images @ embed_texts(model, tokenizer, prompts).T).argmax(dim=1).tolist()
        hits = [
            values[row] == getattr(one, name) for row, one in zip(nearest, factors, strict=True)
        ]
        accuracy[name] = sum(hits) / len(hits)
    return accuracy


if __name__ == "__main__":
    main()
