"""The adapter that services load: embeddings in, codes out. Encoding never changes it."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
import torch
from torch import Tensor

from csr_model.artifact import Manifest, fingerprint, read_artifact, write_artifact
from csr_model.autoencoder import CSRAutoencoder
from csr_model.code_file import write_codes
from csr_model.codes import Codes, checked_k
from csr_model.config import CSRConfig, decoded_ks
from csr_model.encoding import encode_rows, reconstruction_nmse
from csr_model.errors import ArtifactCorrupt
from csr_model.references import largest_difference, unambiguous_rows

Floats = np.ndarray[Any, Any]

_PARITY_TOLERANCE = 1e-4


class CSRAdapter:
    """A trained encoder with its provenance; create one with `load` or `csr_model.fit`.

    Safe to share between threads. An embedding encodes alike in any batch and order, except that two
    latents whose pre-activations lie closer than 1e-4 may trade places.

    Args:
        autoencoder: Trained weights; used as they are from now on.
        manifest: What `config.json` says.
        usage: [h] int64, in how many of `manifest.usage_rows` training rows each latent was active.
        reference_embeddings: [r, d] float32 rows to check other machines with, at least one.
        reference_codes: Their codes at k_max, latents int64.
    """

    def __init__(
        self,
        autoencoder: CSRAutoencoder,
        manifest: Manifest,
        usage: Tensor,
        reference_embeddings: Tensor,
        reference_codes: Codes[Tensor],
    ) -> None:
        self._autoencoder = autoencoder.freeze()
        self.manifest = manifest
        self.usage = usage
        self._reference_embeddings = reference_embeddings
        self._reference_codes = reference_codes

    @property
    def autoencoder(self) -> CSRAutoencoder:
        """The weights; read them, never change them."""
        return self._autoencoder

    @property
    def reference_embeddings(self) -> Tensor:
        """[r, d] float32, r ≥ 1: rows that tell whether something else encodes as this adapter does."""
        return self._reference_embeddings

    @property
    def fingerprint(self) -> str:
        """Names the space of codes; 32 hex digits. Codes compare only under one fingerprint."""
        return self.manifest.fingerprint

    @property
    def input_dim(self) -> int:
        """Dimension of the embeddings it takes."""
        return self.manifest.input_dim

    @property
    def hidden_dim(self) -> int:
        """Number of latents."""
        return self.manifest.hidden_dim

    @property
    def levels(self) -> tuple[int, ...]:
        """The k it was trained for, ascending."""
        return self.manifest.levels

    @property
    def k_max(self) -> int:
        """The largest level: what is kept of a stored code."""
        return self.levels[-1]

    @property
    def supervised(self) -> bool:
        """True when labels or pairs shaped it: its codes then are not meant to keep dense neighbours."""
        training = self.manifest.training
        weights = ("gamma", "gamma_labels", "gamma_pairs")  # the first is of format version 1
        return any(training.get(name) for name in weights) or training.get("linear_map", "none") != "none"

    @property
    def k_limit(self) -> int:
        """The largest k `encode` takes: 4·k_max, as far as training decoded, at most h."""
        return min(4 * self.k_max, self.hidden_dim)

    @overload
    def encode(self, x: Tensor, k: int = ...) -> Codes[Tensor]: ...
    @overload
    def encode(self, x: Floats, k: int = ...) -> Codes[Floats]: ...
    def encode(self, x: Floats | Tensor, k: int = 32) -> Codes[Floats] | Codes[Tensor]:
        """Return the codes of embeddings [n, input_dim], in memory bounded beyond input and output.

        Args:
            x: Any real dtype. Numpy gives numpy, torch gives torch on the tensor's own device.
            k: Active latents, 1 … `k_limit`. Any prefix is the code of that smaller k (`Codes.prefix`).

        Returns:
            Latents uint16 [n, k] and weights float32 [n, k] of L2 norm 1, padded with latent 0 and
            weight 0. An embedding that activates nothing has an empty code, all zeros.

        Raises:
            InvalidVector: A row is not finite, has no direction, or has the wrong dimension.
            InvalidK: k is out of range.
        """
        k = self._checked_k(k)
        device = x.device if isinstance(x, Tensor) else torch.device("cpu")
        codes = encode_rows(self._autoencoder, x, k, dtype=torch.uint16, device=device)
        return codes if isinstance(x, Tensor) else Codes(codes.latents.numpy(), codes.weights.numpy())

    def encode_to(self, path: str | os.PathLike[str], batches: Iterable[Floats], k: int = 32) -> int:
        """Encode batches one by one into a .npy file, in memory independent of how many there are.

        `csr_model.read_codes(path)` gives the arrays that `encode` would, by memory map. The file takes
        its name only when it is complete.

        Args:
            path: Of the .npy file; replaced if it exists.
            batches: Arrays [b, input_dim].
            k: As for `encode`.

        Returns:
            The number of rows written.

        Raises:
            InvalidVector, InvalidK: As for `encode`; rows are counted from the first batch.
            ArtifactError: The file system refused.
        """
        k = self._checked_k(k)
        return write_codes(path, self._encode_batches(batches, k), k)

    def reconstruction_nmse(self, x: Floats) -> dict[int, float]:
        """Return, for each level, the share of variance of embeddings [n, d] that its codes miss; 0 is perfect.

        Raises:
            InvalidVector: As for `encode`, or all rows are alike: they have no variance.
        """
        return reconstruction_nmse(self._autoencoder, x, self.levels)

    def verify_parity(self) -> None:
        """Encode the reference embeddings here and compare with the codes made where it was trained.

        Raises:
            ArtifactCorrupt: A weight differs by more than 1e-4: this machine encodes differently.
        """
        here = encode_rows(self._autoencoder, self._reference_embeddings, self.k_max)
        difference = largest_difference(here, self._reference_codes, self.hidden_dim)
        if not difference <= _PARITY_TOLERANCE:
            raise ArtifactCorrupt(
                f"reference codes differ by {difference:.2g}; at most {_PARITY_TOLERANCE} is rounding"
            )

    def save(
        self,
        path: str | os.PathLike[str],
        metrics: Mapping[str, float] | None = None,
        backbone: str | None = None,
    ) -> Self:
        """Write the artifact folder, whole or not at all, and return the adapter as stored.

        Args:
            path: A folder that does not exist yet.
            metrics: Replaces the recorded metrics; numbers of any kind.
            backbone: Replaces the recorded name of the text model.

        Raises:
            ArtifactExists: The folder exists.
            ArtifactError: A metric is no finite number, or the file system refused.
        """
        manifest = dataclasses.replace(
            self.manifest,
            metrics=dict(self.manifest.metrics if metrics is None else metrics),
            backbone=backbone or self.manifest.backbone,
        )
        tensors = {
            **self._autoencoder.state_dict(),
            "usage": self.usage,
            "reference.embeddings": self._reference_embeddings,
            "reference.latents": self._reference_codes.latents,
            "reference.weights": self._reference_codes.weights,
        }
        stored = write_artifact(Path(path), manifest, tensors)
        codes = self._reference_codes
        return type(self)(self._autoencoder, stored, self.usage, self._reference_embeddings, codes)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Self:
        """Read an artifact folder and check it: format, SHA-256, shapes, fingerprint. Runs no code from it.

        Raises:
            ArtifactTooNew: Written by a newer release.
            ArtifactCorrupt: Incomplete or altered.
        """
        manifest, tensors = read_artifact(Path(path))
        embeddings, latents, weights = (tensors.pop(f"reference.{x}") for x in ("embeddings", "latents", "weights"))
        usage = tensors.pop("usage")
        decode_ks = decoded_ks(manifest.levels, manifest.hidden_dim)
        model = CSRAutoencoder(
            manifest.input_dim, manifest.hidden_dim, decode_ks, manifest.normalize, manifest.linear_map
        )
        model.load_state_dict(tensors)
        return cls(model.to(device), manifest, usage, embeddings, Codes(latents, weights))

    def _checked_k(self, k: int) -> int:
        return checked_k(k, self.k_limit, f"this adapter encodes 1 … {self.k_limit} active latents")

    def _encode_batches(self, batches: Iterable[Floats], k: int) -> Iterator[Codes[Floats]]:
        rows = 0
        for batch in batches:
            codes = encode_rows(self._autoencoder, batch, k, rows, torch.uint16, torch.device("cpu"))
            rows += len(codes.latents)
            yield Codes(codes.latents.numpy(), codes.weights.numpy())


def adapter_from_training(
    autoencoder: CSRAutoencoder, config: CSRConfig, sample: Tensor, data: Mapping[str, Any]
) -> CSRAdapter:
    """Return the adapter of trained weights, with usage and references taken from training rows.

    Args:
        autoencoder: On the CPU; not shared with a running training.
        config: It was trained with.
        sample: Training rows [n, d] float32 that stand for all of them.
        data: What the manifest says about the training set.
    """
    return adapter_of(autoencoder, config.levels, sample, len(sample), dataclasses.asdict(config), data)


def adapter_of(
    autoencoder: CSRAutoencoder,
    levels: tuple[int, ...],
    sample: Tensor,
    usage_rows: int,
    training: Mapping[str, Any],
    data: Mapping[str, Any],
) -> CSRAdapter:
    """Return the adapter of finished weights, with references, and usage over the first rows, from `sample`.

    Args:
        autoencoder: On the CPU; not shared.
        levels: As in the manifest.
        sample: Rows [n, d] float32, n ≥ 1.
        usage_rows: How many of them count as usage; 0 where they are no real data.
        training: What the manifest says about the training.
        data: What the manifest says about the training set.
    """
    tensors = {name: tensor.detach() for name, tensor in autoencoder.state_dict().items()}
    manifest = Manifest(
        input_dim=autoencoder.input_dim,
        hidden_dim=autoencoder.hidden_dim,
        levels=levels,
        normalize=autoencoder.normalize,
        linear_map=autoencoder.linear_map is not None,
        fingerprint=fingerprint(tensors, levels, autoencoder.normalize),
        training=dict(training),
        data=dict(data),
        usage_rows=usage_rows,
    )
    codes = encode_rows(autoencoder, sample, levels[-1])
    active = codes.latents[:usage_rows][codes.weights[:usage_rows] > 0]
    usage = torch.bincount(active, minlength=autoencoder.hidden_dim)
    chosen = unambiguous_rows(autoencoder, sample[:256], levels[-1])
    return CSRAdapter(autoencoder, manifest, usage, sample[chosen], Codes(codes.latents[chosen], codes.weights[chosen]))
