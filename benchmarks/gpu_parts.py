"""What `benchmarks.on_gpu` measures, one function a part. Each takes its share of the time, and
tells plain numbers as soon as it has them.

Imports rdm_core, torch, diffusers, accelerate and open_clip alone, each when a part needs it, so
that a package that is absent fails its part and no other.
"""

import io
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from flows.config.presets import DEMO_AUTOENCODER, PRESETS

NEIGHBORS = 20
"""k of the exact table."""
WIDTH = 512
"""Dimensions of a vector, as ViT-B/32 has them."""
TINY_UNET = {"network": "unet", "channels": [16, 32], "attention_levels": [1], "depth": 1,
             "head_channels": 16}  # fmt: skip
TINY_TRANSFORMER = {"network": "transformer", "channels": [32], "depth": 1, "head_channels": 16,
                    "patch": 4}  # fmt: skip
TINY_DECODER = {"width": 32, "depth": 1, "head_channels": 16}
TINY_READERS: dict[str, dict[str, Any]] = {
    "references": {"text_width": 96},
    "multimodal": {"codes": 64, "tokens": 676, "caption_tokens": 32},
}
"""Family -> what fits the built-in encoder, whose text tower is small."""
LENGTH, TINY_LENGTH, WORDS = 77, 32, 12
"""Tokens that the text tower of ViT-B/32 reads, and the built-in one; those of a caption here."""


@dataclass(frozen=True)
class Share:
    """What a part may use."""

    device: str
    """cuda or cpu."""
    seconds: float
    """How long it may take."""
    tiny: bool
    """Sizes for a test on a CPU."""
    folder: Path
    """Where its pictures go."""
    tell: Callable[[dict[str, Any]], None]
    """Takes figures as soon as they are measured: they stay when what follows fails."""

    def part(self, share: float) -> float:
        """A deadline on the clock of `time.monotonic`, after a share of the time from now."""
        return time.monotonic() + self.seconds * share

    def piece(self, share: float, name: str) -> "Share":
        """A share of the time, whose figures bear a name."""

        def tell(figures: dict[str, Any]) -> None:
            self.tell({f"{name}_{key}": value for key, value in figures.items()})

        return replace(self, seconds=self.seconds * share, tell=tell)

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()


class TimeIsUp(Exception):
    """A training has run for its share of the time."""


# Training steps


def unet_400m(share: Share) -> None:
    """The 400 M U-Net of 2022 on latents [64, 64, 3]."""
    training_rates("imagenet-2022", TINY_UNET, 3, 64, 64, share)


def transformer_256(share: Share) -> None:
    """The transformer for 256 px on latents [32, 32, 4]."""
    training_rates("transformer-256", TINY_TRANSFORMER, 4, 32, 256, share)


def shapes(share: Share) -> None:
    """The demo's network, on latents [8, 8, 16]."""
    training_rates("shapes", TINY_TRANSFORMER, 16, 8, 128, share)


def knn_256(share: Share) -> None:
    """kNN-Diffusion for 256 px on latents [32, 32, 4], which sees the images' own vectors too."""
    training_rates("knn-256", TINY_TRANSFORMER, 4, 32, 64, share)


def rarm_2022(share: Share) -> None:
    """RARM as released: 256 codes out of 16,384."""
    training_rates("rarm-2022", TINY_DECODER, 256, 16, 50, share)


def knn_discrete_256(share: Share) -> None:
    """Discrete kNN-Diffusion: 1,024 codes out of 8,192, found again all together."""
    training_rates("knn-discrete-256", TINY_DECODER, 256, 32, 8, share)


def reimagen_256(share: Share) -> None:
    """Re-Imagen for 256 px on latents [32, 32, 4]: two references through half of the network."""
    training_rates("reimagen-256", TINY_TRANSFORMER, 4, 32, 32, share)


def ra_cm3_small_256(share: Share) -> None:
    """RA-CM3 with 423 M parameters: up to two documents of 1,024 codes and a caption each."""
    training_rates("ra-cm3-small-256", TINY_DECODER, 256, 4 if share.tiny else 32, 8, share)


def training_rates(
    preset: str, tiny: dict[str, Any], channels: int, side: int, batch: int, share: Share
) -> None:
    """Images a second of the training loop, compiled and not, and of a plain eager loop of the same
    network on one batch that lies ready; and the share of the card's arithmetic that each uses.
    """
    from rdm_core.train import forward_flops, matmul_flops_per_second

    batch = 4 if share.tiny else batch
    model = network_of(preset, tiny if share.tiny else {}, channels, side).to(share.device)
    if model.reads.captions:
        model.set_encoder(text_encoder(share))
    operations = 3 * forward_flops(model)  # the way back costs two forward passes
    peak = matmul_flops_per_second(torch.device(share.device), "bf16")
    share.tell({"parameters": model.parameter_count, "batch": batch, "teraflops": peak / 1e12})

    def tell_rate(name: str, rate: float) -> None:
        told = {"images_per_second": rate, "share_of_peak": rate * operations / peak}
        share.tell({f"{name}_{key}": value for key, value in told.items()})

    tell_rate("plain_eager", plain_rate(model, batch, share.part(0.25), share))
    tell_rate("loop", loop_rate(model, channels, side, batch, False, share.part(0.3), share))
    if share.device == "cuda":
        share.tell({"peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30})
    # last, as compiling may take minutes
    compiled = loop_rate(model, channels, side, batch, True, share.part(0.45), share)
    tell_rate("loop_compiled", compiled)


def network_of(
    preset: str, tiny: dict[str, Any], channels: int, side: int, space: Any = None
) -> Any:
    """A preset's model, freshly initialised, for random latents [channels, side, side], decoded in
    a space if at all.
    """
    from rdm_core.families import config_of, family_of
    from rdm_core.families.facts import Shape

    settings = PRESETS[preset]["model"]
    network = "denoiser" if "denoiser" in settings else "transformer"
    settings = settings | {network: settings[network] | tiny}
    family = settings["family"]
    if tiny:
        settings = settings | TINY_READERS.get(family, {})
    config = config_of(family).of(settings)
    shape = Shape(channels, side, WIDTH)
    space = space or random_space(channels, config.codebook)
    return family_of(family).build(config, shape, space, seed=0)


def text_encoder(share: Share) -> Any:
    """An encoder with the text tower that large presets are for, of weights of no meaning."""
    from rdm_core.clip import load_encoder

    return load_encoder("rdm-shapes" if share.tiny else "ViT-B-32", "random", share.device)


def random_space(channels: int, codes: int | None) -> Any:
    """A latent space whose latents are used as they are stored, with so many entries in its
    codebook, if a model asks for one; nothing is ever decoded in it.
    """
    from rdm_core.latents import LatentSpace, load_latent_space

    if channels == 3:
        return load_latent_space("pixels")
    as_it_is = SimpleNamespace(config=SimpleNamespace(scaling_factor=1.0))
    if codes is not None:
        weight = np.zeros((codes, channels), np.float32)
        as_it_is.quantize = SimpleNamespace(embedding=SimpleNamespace(weight=weight))
    return LatentSpace("random", channels, 8, as_it_is, "", quantises=True)


def plain_rate(model: Any, batch: int, deadline: float, share: Share) -> float:
    """Images a second of forward, backward and AdamW in bfloat16, on one batch that lies ready."""
    inputs = model.example(batch, 4, torch.device(share.device))
    optimizer = torch.optim.AdamW(model.train().parameters(), 1e-4)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(share.device, torch.bfloat16):
            loss = model(inputs).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return batch * rate_until(step, deadline, share)


def rate_until(step: Callable[[], object], deadline: float, share: Share) -> float:
    """Calls a second until the deadline, at least two, after one call that is not counted."""
    step()
    share.wait()
    began, calls = time.monotonic(), 0
    while calls < 2 or time.monotonic() < deadline:
        step()
        calls += 1
        if calls % 5 == 0:  # else a thousand steps are queued when the time is up
            share.wait()
    share.wait()
    return calls / (time.monotonic() - began)


def loop_rate(
    model: Any, channels: int, side: int, batch: int, compiled: bool, deadline: float, share: Share
) -> float:
    """Images a second of `rdm_core.train` on random latents and neighbors; what comes before its
    second line of metrics, compiling included, is not counted.
    """
    from rdm_core.config import ExecutionConfig, ReportingConfig, TrainingConfig
    from rdm_core.train import Hooks, train

    every = 1 if share.tiny else 5
    lines: list[tuple[float, int]] = []

    def log(record: Any, speed: Any) -> None:
        lines.append((time.monotonic(), record["step"]))
        if len(lines) >= 4 and time.monotonic() > deadline:
            raise TimeIsUp

    config = TrainingConfig(steps=10**6, batch=batch, warmup_steps=0, precision="bf16")
    with suppress(TimeIsUp):
        train(
            model,
            random_data(model, channels, side, TINY_LENGTH if share.tiny else LENGTH),
            config,
            Hooks(log, lambda step, state: None),
            execution=ExecutionConfig(compile=compiled and not share.tiny),
            reporting=ReportingConfig(log_steps=every, checkpoint_steps=10**9),
        )
    (began, first), (ended, last) = lines[1], lines[-1]
    return batch * (last - first) / (ended - began)


def random_data(
    model: Any, channels: int, side: int, length: int = LENGTH, count: int = 512
) -> Any:
    """Training data of random numbers, of the kind that a model reads: latents [count, channels,
    side, side] or codes [count, side, side], 20 neighbors each, which are of the same images, and
    captions of `length` tokens.
    """
    from rdm_core.data import References, StoredLatents, Texts, TrainingData

    rng = np.random.default_rng(0)
    size = (count, channels, side, side)
    if "codes" in model.reads.stored:
        entries = len(model.space.codebook)
        latents = rng.integers(0, entries, (count, side, side), dtype=np.uint16)
    elif channels == 3:
        latents = rng.integers(0, 256, size, dtype=np.uint8)
    else:
        latents = rng.standard_normal(size).astype(np.float16)
    vectors = rng.standard_normal((count, WIDTH)).astype(np.float16)
    rows = rng.integers(0, count, (count, NEIGHBORS))
    scores = np.full((count, NEIGHBORS), 0.5, np.float32)
    norms = np.ones(count, np.float32)
    own: dict[str, Any] = {}
    if model.reads.query:
        own = {"query_vectors": vectors, "query_norms": norms}
    stored = StoredLatents([latents])
    if model.reads.captions:
        tokens = np.zeros((count, length), np.int64)  # 0 fills them up
        tokens[:, :WORDS] = rng.integers(1, 500, (count, WORDS))
        texts = Texts(tokens, np.arange(count + 1))
        own |= {"texts": texts, "neighbor_texts": texts}
    if model.reads.references:
        own |= {"references": References(stored, np.arange(count))}
    return TrainingData(stored, rows, scores, vectors, norms, **own)


# Embedding


def embedding(share: Share) -> None:
    """Images a second of ViT-B/32 (weights of no meaning) over JPEGs [256, 256, 3] read from a tar,
    beside the bare network on batches that lie ready.
    """
    from rdm_core.clip import load_encoder
    from rdm_core.preparation import decode_stored

    name = "rdm-shapes" if share.tiny else "ViT-B-32"
    precision = "bfloat16" if share.device == "cuda" else "float32"
    encoder = load_encoder(name, "random", share.device, precision)
    batch = 8 if share.tiny else 256
    ready = encoder.preprocess([np.zeros((256, 256, 3), np.uint8)] * batch)

    def bare() -> None:
        with torch.inference_mode():
            encoder.model.encode_image(ready, normalize=False)

    bare_rate = batch * rate_until(bare, share.part(0.2), share)
    share.tell({"encoder": name, "precision": precision, "batch": batch})
    share.tell({"bare_images_per_second": bare_rate})
    shard = write_shard(share.folder / "images.tar", 16 if share.tiny else 2048)
    deadline, count, began = share.part(0.5), 0, 0.0
    for vectors, _ in encoder.encode_stream(batches_of(shard, batch, deadline), decode_stored):
        if began:  # the first batch starts the clock
            count += len(vectors)
        began = began or time.monotonic()
    rate = count / (time.monotonic() - began)
    share.tell({"images_per_second": rate, "share_of_bare": rate / bare_rate})


def write_shard(path: Path, count: int) -> Path:
    """A tar of JPEGs with about the bytes of photographs."""
    from PIL import Image

    rng = np.random.default_rng(0)
    with tarfile.open(path, "w") as shard:
        for number in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
            pixels = np.asarray(coarse.resize((256, 256))) + rng.normal(0, 6, (256, 256, 3))
            file = io.BytesIO()
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=95)
            entry = tarfile.TarInfo(f"{number:06d}.jpg")
            entry.size = file.tell()
            file.seek(0)
            shard.addfile(entry, file)
    return path


def batches_of(shard: Path, batch: int, deadline: float) -> Iterator[list[bytes]]:
    """Batches of encoded images, the shard again and again until the deadline; at least three."""
    given = 0
    while True:
        files: list[bytes] = []
        with tarfile.open(shard) as tar:
            for entry in tar:
                file = tar.extractfile(entry)
                assert file is not None, "every entry is a file"
                files.append(file.read())
                if len(files) == batch:
                    yield files
                    files, given = [], given + 1
                    if given >= 3 and time.monotonic() > deadline:
                        return


# The exact table


def table(share: Share) -> None:
    """The exact table of 20 neighbors in 512 dimensions, at the largest size that the time allows:
    each size is twice the one before.
    """
    from rdm_core.exact import search_by_bound
    from rdm_core.reduced import HALF
    from rdm_core.train import matmul_flops_per_second

    deadline = share.part(0.9)
    rows, queries = (2000, 200) if share.tiny else (500_000, 100_000)
    # in bfloat16, whose products take as long as those of float16
    peak = matmul_flops_per_second(torch.device(share.device), "bf16")
    while True:
        vectors = clustered(rows, share.device, seed=0)
        asked = clustered(queries, share.device, seed=1).astype(np.float32)
        began = time.monotonic()
        found, _, given_up = search_by_bound(asked, vectors, NEIGHBORS, HALF, share.device)
        seconds = time.monotonic() - began
        figures = {
            "rows": rows,
            "queries": queries,
            "search_seconds": seconds,
            "queries_per_second": queries / seconds,
            "share_of_peak": 2 * WIDTH * rows * queries / seconds / peak,
            "given_up": int(given_up.sum()),
            "recall": recall(found[:256], by_product(asked[:256], vectors, share.device)),
        }
        share.tell(figures)
        # the next one has twice the rows, which are made, sent and searched
        if time.monotonic() + 4 * (time.monotonic() - began) + 2 * seconds > deadline:
            return
        rows *= 2


def clustered(count: int, device: str, seed: int) -> np.ndarray:
    """Unit vectors float16 [count, WIDTH] in a cone and in clusters, as those of a CLIP are."""
    centres = torch.Generator(device).manual_seed(17)
    generator = torch.Generator(device).manual_seed(seed)
    common = torch.randn(WIDTH, generator=centres, device=device)
    middles = torch.randn(1000, WIDTH, generator=centres, device=device) + common
    parts = []
    for start in range(0, count, 500_000):
        size = min(500_000, count - start)
        near = torch.randint(1000, (size,), generator=generator, device=device)
        noise = torch.randn(size, WIDTH, generator=generator, device=device)
        parts.append(torch.nn.functional.normalize(middles[near] + noise, dim=1).half().cpu())
    return torch.cat(parts).numpy()


def by_product(queries: np.ndarray, vectors: np.ndarray, device: str) -> np.ndarray:
    """The nearest rows [Q, NEIGHBORS], every score in float32."""
    asked = torch.from_numpy(queries).to(device)
    scores = []
    for start in range(0, len(vectors), 200_000):
        tile = torch.from_numpy(vectors[start : start + 200_000]).to(device).float()
        tile = torch.nn.functional.normalize(tile, dim=1)
        scores.append(asked @ tile.T)
    return torch.cat(scores, dim=1).topk(NEIGHBORS, dim=1).indices.cpu().numpy()


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    """Share of the exact nearest rows [Q, K] that are among those found [Q, K]."""
    return float((found[:, :, None] == exact[:, None, :]).any(axis=1).mean())


# Sampling


def sampling(share: Share) -> None:
    """Seconds an image, guided, of the 400 M U-Net (50 steps of DDIM, latents only) and of the
    demo's network (25 steps).
    """
    from rdm_core.latents import load_latent_space

    for name, tiny, autoencoder, side, count, steps in (
        ("imagenet-2022", TINY_UNET, "pixels", 64, 16, 50),
        ("shapes", TINY_TRANSFORMER, DEMO_AUTOENCODER, 8, 64, 25),
    ):
        space = load_latent_space(autoencoder).to(torch.device(share.device))
        if share.tiny:
            count, steps = 2, 2
        model = network_of(name, tiny if share.tiny else {}, space.channels, side, space)
        model.to(share.device).eval()
        began = time.monotonic()
        draw_some(model, count, 2, share)  # loads the libraries' kernels
        if (time.monotonic() - began) * steps > share.seconds:
            steps = 5
        began = time.monotonic()
        draw_some(model, count, steps, share)
        seconds = (time.monotonic() - began) / count
        share.tell({f"{name}_steps": steps, f"{name}_seconds_per_image": seconds})


def draw_some(model: Any, count: int, steps: int, share: Share) -> np.ndarray:
    """Images of random contexts in bfloat16."""
    how = how_drawn(model.family, steps)
    context = model.example(count, 4, torch.device(share.device)).context
    with torch.autocast(share.device, torch.bfloat16):
        images: np.ndarray = model.draw(context, list(range(count)), how)
    share.wait()
    return images


def how_drawn(family: str, steps: int) -> Any:
    """A family's settings for guided images, in so many steps where it draws in steps."""
    from rdm_core.families import draw_settings

    kind = draw_settings(family)
    in_steps = any(field.name == "steps" for field in fields(kind))
    return kind(guidance_scale=2.0, **({"steps": steps} if in_steps else {}))
