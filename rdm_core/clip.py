"""CLIP through open_clip: images | texts -> unit vectors [N, D] and the norms they had."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from os import sched_getaffinity
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from rdm_core.device import usual_defaults
from rdm_core.errors import EncoderError, RequestError
from rdm_core.importing import large_import
from rdm_core.preparation import Preparation, ahead, preparation_of

RANDOM = "random"
"""As weights: a seeded random initialisation, for tests and for machines that can fetch no
weights.
"""
BUILT_IN, ACCESSORIES = "built-in", "built-in-accessories"
"""As weights: files in the package, of the shapes encoder alone. The second ones tell what an
object wears.
"""
BATCH = 64
"""Images that are embedded at once, at most."""
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Encoder:
    """A frozen CLIP in evaluation mode."""

    name: str
    weights_sha256: str
    """Over every tensor of the state, in name order: says which weights, wherever they came
    from.
    """
    dimension: int
    model: Any
    """open_clip's own: a CLIP, or a CustomTextCLIP."""
    transform: Any
    """open_clip's own: resize, centre crop, to [0, 1], CLIP mean and standard deviation."""
    preparation: Preparation | None
    """The same, faster; None where it asks for what `rdm_core.preparation` does not do."""
    tokenizer: Any
    device: torch.device
    precision: str = "float32"
    """Of the image tower's weights, one of PRECISIONS; the text tower's is float32."""

    @property
    def identity(self) -> dict[str, Any]:
        """What an artifact records to say which encoder made it."""
        preprocessing: dict[str, Any] = {}
        for key, value in self.model.visual.preprocess_cfg.items():
            # JSON has no tuples: a record read again shall equal this one.
            preprocessing[key] = list(value) if isinstance(value, tuple) else value
        preprocessing["resized_as"] = "uint8" if self.preparation else "float"
        return {
            "model": self.name,
            "weights_sha256": self.weights_sha256,
            "dimension": self.dimension,
            "preprocessing": preprocessing,
        }

    def preprocess(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """N images uint8 [H, W, 3] of any sizes -> the tower's input [N, 3, S, S], on the tower's
        device and in its precision.
        """
        return self._input(self._prepared(images))

    def encode_images(
        self, images: Iterable[np.ndarray], batch: int = BATCH
    ) -> tuple[np.ndarray, np.ndarray]:
        """N images uint8 [H, W, 3] of any sizes -> unit vectors float32 [N, D] and the norms that
        they had, float32 [N].

        Raises EncoderError when a vector has no direction.
        """
        return joined(self.encode_stream(_batches(images, batch)), self.dimension)

    def encode_stream(
        self, batches: Iterable[Sequence[Any]], decode: Callable[[Any], np.ndarray] | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The same for any number of images, a batch at a time: each batch of B images uint8 [H, W,
        3] gives unit vectors float32 [B, D] and norms float32 [B].

        `decode` makes an image of each value; without it the values are images. While one batch is
        encoded, the next is read, decoded and resized: by one thread where the encoder itself needs
        the cores, by one thread a core where it has a GPU.
        """

        def prepared(values: Sequence[Any]) -> torch.Tensor:
            images = [decode(value) for value in values] if decode else values
            return self._prepared(images)

        on_gpu = self.device.type == "cuda"
        last: Callable[[], torch.Tensor] | None = None
        for images in ahead(prepared, batches, len(sched_getaffinity(0)) if on_gpu else 1):
            with torch.inference_mode():
                output = self.model.encode_image(
                    self._input(images.pin_memory() if on_gpu else images), normalize=False
                )
                following = _on_its_way(output.float())
            if last is not None:
                yield self._unit(last())  # one batch late: a GPU has the next to do by then
            last = following
        if last is not None:
            yield self._unit(last())

    def encode_prompts(
        self, texts: Sequence[str], templates: Sequence[str] = ("{}",)
    ) -> np.ndarray:
        """N texts, each put into the {} of all templates -> unit vectors float32 [N, D].

        A text's vector is the mean over the templates, as CLIP's zero-shot classifiers are made
        (arXiv 2103.00020, section 3.1.4). Raises RequestError for a template without exactly one
        {}.
        """
        for template in templates:
            if template.count("{}") != 1:
                raise RequestError(
                    "templates",
                    f"{template!r} has not exactly one {{}}",
                    "Write, for example: a photo of a {}.",
                )
        filled = []
        for text in texts:
            filled += [template.replace("{}", text) for template in templates]
        vectors, _ = self.encode_texts(filled)
        means = vectors.reshape(len(texts), len(templates), self.dimension).mean(axis=1)
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    def _prepared(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """N images uint8 [H, W, 3] -> what goes to the device: uint8 [N, 3, S, S], resized, or
        where `preparation` is None float32 [N, 3, S, S], normalised too.
        """
        if self.preparation:
            return self.preparation.resized(images)
        return torch.stack([self.transform(Image.fromarray(image)) for image in images])

    def _input(self, prepared: torch.Tensor) -> torch.Tensor:
        """What `_prepared` gave [N, 3, S, S] -> the same on the device, normalised, in the tower's
        precision.
        """
        images = prepared.to(self.device, non_blocking=True)
        if self.preparation:
            images = self.preparation.normalised(images)
        return images.to(PRECISIONS[self.precision])

    def encode_texts(self, texts: Sequence[str], batch: int = 256) -> tuple[np.ndarray, np.ndarray]:
        """N texts -> unit vectors float32 [N, D] and the norms that they had, float32 [N]."""
        outputs = []
        with torch.no_grad():
            for part in _batches(texts, batch):
                tokens = self.tokenizer(list(part)).to(self.device)
                outputs.append(self.model.encode_text(tokens, normalize=False))
            if not outputs:
                return self._unit(torch.empty(0, self.dimension))
            return self._unit(torch.cat(outputs).float().cpu())

    @property
    def text_width(self) -> int:
        """Width of the states that `text_states` gives, W. Raises EncoderError as it does."""
        return int(self._text_end.weight.shape[0])

    @torch.no_grad()
    def text_states(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the text tower makes of each token of N texts, int64 [N, L] as its tokenizer gives
        them: float [N, L, W], and which of them are no padding, bool [N, L].

        Raises EncoderError for a tower of which only the pooled vector is known.
        """
        states: list[torch.Tensor] = []
        hook = self._text_end.register_forward_hook(lambda *seen: states.append(seen[-1]))
        try:
            self.model.encode_text(tokens.to(self.device))
        finally:
            hook.remove()
        padding = getattr(getattr(self.model, "text", None), "pad_id", 0)
        return states[0], tokens.to(self.device) != padding

    @property
    def _text_end(self) -> Any:
        """The norm that the text tower's states come out of, one for each token."""
        tower = getattr(self.model, "text", self.model)
        norm = getattr(tower, "ln_final", None)
        if norm is None:
            what = "its text tower gives one vector for a text, and no state for each token"
            cure = "Use an encoder of open_clip whose text tower is its own, as ViT-B-32."
            raise EncoderError(f"encoder {self.name!r}", what, cure)
        return norm

    @property
    def context_length(self) -> int:
        """Tokens of a text, L, that the text tower reads at most."""
        return int(self.tokenizer.context_length)

    def tokens(self, texts: Sequence[str]) -> np.ndarray:
        """N texts as the tokenizer gives them: int64 [N, L]. It cuts those that are `too_long`."""
        tokens: np.ndarray = self.tokenizer(list(texts)).numpy()
        return tokens

    def texts(self, tokens: np.ndarray) -> list[str]:
        """The words of N texts, int64 [N, L] as the tokenizer gives them, without the tokens that
        mark their beginning and end, and that fill them up.
        """
        inner = getattr(self.tokenizer, "tokenizer", None)  # the transformers library's
        if inner is not None:
            return [inner.decode(row, skip_special_tokens=True).strip() for row in tokens.tolist()]
        filler, marks = int(self.tokenizer([""])[0, -1]), set(self.tokenizer.all_special_ids)
        texts = []
        for row in tokens.tolist():
            while row and row[-1] == filler:
                row.pop()
            words = [token for token in row if token not in marks]
            texts.append(self.tokenizer.decode(words).strip())
        return texts

    def with_gap(self, before: str, behind: str, words: int) -> tuple[np.ndarray, np.ndarray]:
        """A text with room for so many words between two parts of it: its tokens int64 [L], any
        in that room, and which of them the room is, bool [L].

        Raises RequestError for a text that is too long with it, or that this tokenizer puts
        together otherwise.
        """
        parts = [before.strip(), " ".join(["x"] * words), behind.strip()]
        whole = " ".join(part for part in parts if part)
        if self.too_long([whole]).any():
            what = f"{whole[:60]!r} has more than {self.context_length} tokens"
            raise RequestError("template", what, "Shorten it.")
        # Where the room begins: behind what the two texts, with other words in it, have in common.
        filled = [whole, " ".join(part for part in (parts[0], "z", parts[2]) if part)]
        one, other = self.tokens(filled)
        first = int((one != other).argmax())
        inside = (np.arange(len(one)) >= first) & (np.arange(len(one)) < first + words)
        if len(set(one[inside].tolist())) != 1:
            what = "this tokenizer does not give one token to each word that is left open"
            raise RequestError("template", what, "Leave it out: the whole text is written then.")
        return one.astype(np.int64), inside

    def too_long(self, texts: Sequence[str], longest: int | None = None) -> np.ndarray:
        """Which of N texts have more tokens than `longest`, or than the text tower reads: bool
        [N].
        """
        length, cut = longest or self.context_length, np.zeros(len(texts), bool)
        # A token stands for a byte or more, and up to three more mark a text: most need no look.
        suspects = np.flatnonzero([len(text.encode()) + 3 > length for text in texts])
        if len(suspects):
            asked = [texts[place] for place in suspects] + [""]
            tokens = self.tokenizer(asked, context_length=length + 2).numpy()
            cut[suspects] = tokens[:-1, length] != tokens[-1, length]  # an empty text is padded
        return cut

    def _unit(self, raw: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """What a tower gives, float32 [N, D] -> unit vectors [N, D] and norms [N], float32.

        Raises EncoderError for vectors that are zero or not finite.
        """
        norms = raw.norm(dim=1, keepdim=True)
        if wrong := int((~(norms.isfinite() & (norms > 0))).sum()):
            what = f"{wrong} of {len(raw)} vectors are zero or not finite in {self.precision}"
            cure = (
                "Its weights are damaged, or too large for this precision: --set precision=float32."
            )
            raise EncoderError(f"encoder {self.name!r}", what, cure)
        return (raw / norms).numpy(), norms[:, 0].numpy()


def _on_its_way(output: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Start to copy a result float32 [B, D] to the host. The function that is returned waits for
    this copy alone, and gives it.
    """
    if output.device.type != "cuda":
        return lambda: output
    host = torch.empty(output.shape, pin_memory=True)
    host.copy_(output, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record(torch.cuda.current_stream(output.device))

    def result() -> torch.Tensor:
        arrived.synchronize()
        return host

    return result


def joined(
    batches: Iterable[tuple[np.ndarray, np.ndarray]], dimension: int
) -> tuple[np.ndarray, np.ndarray]:
    """Batches of vectors [B, D] and norms [B] -> one of each, float32 [N, D] and [N], N >= 0."""
    nothing = (np.empty((0, dimension), np.float32), np.empty(0, np.float32))
    vectors, norms = zip(nothing, *batches, strict=True)
    return np.concatenate(vectors), np.concatenate(norms)


def is_local(weights: str) -> bool:
    """Whether weights need no network."""
    if weights in (BUILT_IN, ACCESSORIES, RANDOM):
        return True
    path_behind_tag = weights.partition("@")[2]  # TAG@FILE
    return _exists(weights) or _exists(path_behind_tag)


def _exists(path: str) -> bool:
    """Whether there is such a file or folder; an empty path names none."""
    return path != "" and Path(path).exists()


def load_encoder(
    name: str, weights: str, device: torch.device | str = "cpu", precision: str = "float32"
) -> Encoder:
    """Load an encoder by open_clip model name and weights: a tag ("openai"), a local file or
    directory, 'built-in', 'built-in-accessories' or 'random'.

    A directory is one as the hub gives it: weights, tokenizer and open_clip_config.json, which says
    how images are prepared. A file is used as the model's tags are, and where these differ as the
    tag named before it ("openai@/path/file"). A hub id is given as name ("hf-hub:org/repo") with
    empty weights. What was trained with QuickGELU is loaded, and named, as the model's QuickGELU
    layout. Raises EncoderError when the name is unknown, the file is absent, is not of that model
    or does not say how it is used, or the weights cannot be fetched.
    """
    with large_import():
        import open_clip  # with torchvision, timm and torch's compiler: two seconds

        from rdm_core.encoder_weights import source_of, tokenizer_of

    source = source_of(name, weights)
    gpus = range(torch.cuda.device_count())
    with usual_defaults(), torch.random.fork_rng(devices=gpus):
        torch.manual_seed(0)  # weights that are not loaded are the same on every machine
        try:
            model, _, transform = open_clip.create_model_and_transforms(
                source.model,
                source.pretrained,
                device=device,
                require_pretrained=weights != RANDOM,
                **source.preparing,
            )
            tokenizer = tokenizer_of(source)
            model.eval().requires_grad_(False)
            dimension = model.encode_text(tokenizer(["a"]).to(device)).shape[1]
        except Exception as error:
            # open_clip and the hub raise many kinds; all mean the same to the user
            cure = (
                "Give a tag that `open_clip.list_pretrained()` shows for this model, "
                "the path of a local file or directory of it, or 'random'; "
                "tags and hub ids need the network once."
            )
            missing_module = getattr(error, "name", "")  # of an ImportError
            if missing_module == "transformers" or "pip install transformers" in str(error):
                cure = "Install what its text tower needs: pip install 'rdm[transformers]'."
            what = f"weights {weights!r} cannot be loaded ({_first_line(error)})"
            raise EncoderError(f"encoder {source.name!r}", what, cure) from error
    # The image tower changes its precision only now: the hash is that of the weights as loaded.
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    model.visual.to(PRECISIONS[precision])
    return Encoder(
        name=source.name, weights_sha256=digest.hexdigest()[:16], dimension=dimension,
        model=model, transform=transform,
        preparation=preparation_of(model.visual.preprocess_cfg), tokenizer=tokenizer,
        device=torch.device(device), precision=precision,
    )  # fmt: skip


def _first_line(error: Exception) -> str:
    """The first line of an error's message, 200 letters at most; its type where there is none."""
    return str(error).strip().split("\n")[0][:200] or type(error).__name__


def even_batches(values: Iterable[Any], count: int) -> Iterator[list[Any]]:
    """Divide `count` values into `batches_of(count)` batches whose sizes differ by one at most."""
    remaining, batches = iter(values), batches_of(count)
    for number in range(batches):
        start, stop = count * number // batches, count * (number + 1) // batches
        yield list(islice(remaining, stop - start))


def batches_of(count: int) -> int:
    """The fewest batches of at most BATCH that hold so many images."""
    return -(-count // BATCH)


def _batches(values: Iterable[Any], size: int) -> Iterator[Sequence[Any]]:
    """The values in batches of `size`; the last one may be smaller."""
    remaining = iter(values)
    while batch := list(islice(remaining, size)):
        yield batch
