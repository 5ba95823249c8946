"""A frozen sentence-transformers backbone: texts in, dense embeddings out.

Never touches the network: the folder is local, weights are read from safetensors only, and the hub is switched off
for the process. sentence-transformers (extra `text`) is imported by `TextBackbone.load`, not by this module.

Same text, same embedding: float32 embeddings of a text agree to 1e-6 per component whatever else is in the batch;
bfloat16 ones agree with each other and with float32 to a cosine of at least 0.9999.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from services.runtime.errors import InvalidRequest, LimitExceeded

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from tokenizers import Encoding

Precision = Literal["float32", "bfloat16"]

BATCH_TEXTS: Final = 32
"""Texts in one forward pass; larger batches are no faster on CPU and pad more."""
PROBE_SHAPE: Final = (16, 64)
"""Texts and tokens of the batch that decides between the precisions."""
FASTER: Final = 0.8
"""bfloat16 must take less than this share of float32's time to be chosen: emulated bfloat16 gains nothing."""


class BackboneUnusable(Exception):
    """A backbone that cannot be loaded or used as configured; the text says what to change."""


@dataclass(frozen=True, eq=False)
class TextEmbeddings:
    """Embeddings of n texts, in the order of the texts."""

    embeddings: NDArray[np.float32]
    """[n, dim], scaled as the backbone's own pipeline leaves them."""
    token_counts: NDArray[np.int32]
    """[n], special tokens included, before truncation."""
    truncated: NDArray[np.bool_]
    """[n], true where tokens beyond the limit were left out."""


class TextBackbone:
    """A loaded backbone; safe to call from several threads.

    Attributes:
        name: Name of its folder.
        sha256: See `weights_sha256`.
        dim: Length of an embedding.
        max_tokens: Longest text, special tokens included.
        precision: Of the matrix products; embeddings are float32 in any case.
    """

    def __init__(self, model: "SentenceTransformer", path: Path, max_tokens: int, precision: Precision | None) -> None:
        self.name = path.name
        self.sha256 = weights_sha256(path)
        self.max_tokens = max_tokens
        self._model = model
        self._device = torch.device(model.device)
        # The Rust tokenizer, set once: it reports truncated tokens as overflow, and threads may share it.
        self._tokenizer = model.tokenizer.backend_tokenizer
        self._tokenizer.enable_truncation(max_tokens)
        self._tokenizer.no_padding()
        self._special_tokens: int = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        self._pad_id: int = model.tokenizer.pad_token_id or 0
        self.precision: Precision = precision or self._faster_precision()
        self.dim: int = self._forward([[self._pad_id]], self.precision).shape[1]

    @classmethod
    def load(
        cls, path: Path, max_tokens: int, device: str | None = None, precision: Precision | None = None
    ) -> "TextBackbone":
        """Load a sentence-transformers folder.

        Args:
            path: Local folder with modules.json, a fast tokenizer and safetensors weights.
            max_tokens: Longest text, special tokens included; at most what the backbone was made for.
            device: "cpu", "cuda", "cuda:1" …; None takes a GPU when there is one.
            precision: None measures both on a small batch and takes bfloat16 where it is clearly faster.

        Raises:
            BackboneUnusable: the extra `text` is not installed, the folder is not such a backbone, it needs a
                prompt, or max_tokens is out of its range.
        """
        if not (path / "modules.json").is_file():
            raise BackboneUnusable(f"backbone: {path} is not a sentence-transformers folder (no modules.json)")
        model = _load_model(path, device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if not hasattr(model.tokenizer, "backend_tokenizer"):
            raise BackboneUnusable(f"backbone: {path} has no fast tokenizer (tokenizer.json)")
        if model.default_prompt_name:
            raise BackboneUnusable(f"backbone: {path} puts a prompt before every text, which is not supported")
        longest = model.max_seq_length
        if max_tokens < 3 or (longest and max_tokens > longest):
            raise BackboneUnusable(f"max_tokens: {path.name} takes 3 to {longest or 'any number of'}, not {max_tokens}")
        return cls(model, path, max_tokens, precision)

    def embed(self, texts: Sequence[str], allow_truncation: bool = False) -> TextEmbeddings:
        """Embed texts in batches of similar length.

        Args:
            texts: Any number of non-empty texts.
            allow_truncation: Leave out the tokens of a text beyond max_tokens instead of refusing it.

        Raises:
            InvalidRequest: a text without any token, by position.
            LimitExceeded: a text longer than max_tokens, by position, unless truncation is allowed.
        """
        encodings: list[Encoding] = self._tokenizer.encode_batch(list(texts))
        token_counts = np.array([self._token_count(encoding) for encoding in encodings], dtype=np.int32)
        truncated = token_counts > self.max_tokens
        for position, text in enumerate(texts):
            if token_counts[position] <= self._special_tokens or not text.strip():
                raise InvalidRequest(f"texts[{position}] is empty: it has no tokens")
            if truncated[position] and not allow_truncation:
                raise LimitExceeded(
                    f"texts[{position}] has {token_counts[position]} tokens, the limit is {self.max_tokens}"
                )
        embeddings = np.empty((len(texts), self.dim), dtype=np.float32)
        by_length = np.argsort(token_counts, kind="stable")
        for start in range(0, len(texts), BATCH_TEXTS):
            rows = by_length[start : start + BATCH_TEXTS]
            embeddings[rows] = self._forward([encodings[row].ids for row in rows], self.precision)
        return TextEmbeddings(embeddings, token_counts, truncated)

    def _token_count(self, encoding: "Encoding") -> int:
        return len(encoding.ids) + sum(len(piece.ids) - self._special_tokens for piece in encoding.overflowing)

    def _forward(self, token_ids: Sequence[Sequence[int]], precision: Precision) -> NDArray[np.float32]:
        """Return embeddings, float32 [batch, dim], of token ids of different lengths."""
        lengths = torch.tensor([len(ids) for ids in token_ids])
        mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
        padded = torch.full(mask.shape, self._pad_id)
        padded[mask.bool()] = torch.tensor([token for ids in token_ids for token in ids])
        features = {"input_ids": padded.to(self._device), "attention_mask": mask.to(self._device)}
        reduced = torch.autocast(self._device.type, torch.bfloat16, enabled=precision == "bfloat16")
        with torch.inference_mode(), reduced:
            embeddings: torch.Tensor = self._model(features)["sentence_embedding"]
        return embeddings.float().cpu().numpy()

    def _faster_precision(self) -> Precision:
        texts, tokens = PROBE_SHAPE
        probe = [[self._pad_id] * min(tokens, self.max_tokens)] * texts
        seconds = {precision: self._seconds(probe, precision) for precision in ("float32", "bfloat16")}
        return "bfloat16" if seconds["bfloat16"] < FASTER * seconds["float32"] else "float32"

    def _seconds(self, probe: list[list[int]], precision: Precision) -> float:
        def once() -> float:
            start = time.perf_counter()
            self._forward(probe, precision)
            return time.perf_counter() - start

        return min(once() for _ in range(3))  # the first one also warms up


def weights_sha256(path: Path) -> str:
    """Return the SHA-256 of a backbone's safetensors weights (concatenated by path, where there are several files).

    Raises:
        BackboneUnusable: the folder has none.
    """
    files = sorted(path.rglob("*.safetensors"))
    if not files:
        raise BackboneUnusable(f"backbone: {path} has no safetensors weights")
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _load_model(path: Path, device: str) -> "SentenceTransformer":
    try:
        from huggingface_hub import constants
        from sentence_transformers import SentenceTransformer
        from transformers.utils.logging import disable_progress_bar
    except ImportError as error:
        raise BackboneUnusable(f"texts need the extra `text` (pip install 'csr-service[text]'): {error}") from error
    constants.HF_HUB_OFFLINE = True  # the environment variable is not read after the library's first import
    disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        return SentenceTransformer(
            str(path), device=device, local_files_only=True, model_kwargs={"use_safetensors": True}
        ).eval()
    except (OSError, ValueError, KeyError) as error:
        raise BackboneUnusable(f"backbone: {path} cannot be loaded: {error}") from error
