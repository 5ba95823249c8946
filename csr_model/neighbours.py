"""Dense neighbours of sampled rows: what `gamma_neighbours` teaches codes to keep."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from csr_model.batches import Neighbours
from csr_model.embeddings import checked_rows

_ANCHORS_MAX = 20_000
_CANDIDATES_MAX = 100_000
_NEIGHBOURS = 32
_ANCHORS_PER_CHUNK = 512


def mine_neighbours(embeddings: "np.ndarray[Any, Any]", seed: int) -> Neighbours:
    """Return up to 20,000 sampled rows with their 32 nearest by cosine among up to 100,000 sampled rows.

    Args:
        embeddings: [n, d], n ≥ 2, checked.
        seed: Decides the samples.
    """
    rows, input_dim = embeddings.shape
    random = np.random.default_rng((seed, 3))
    candidates = np.sort(random.permutation(rows)[:_CANDIDATES_MAX])
    unit = F.normalize(checked_rows(embeddings[candidates], input_dim), dim=1)
    places = np.sort(random.permutation(len(candidates))[:_ANCHORS_MAX])
    width = min(_NEIGHBOURS, len(candidates) - 1)
    found = []
    for part in np.array_split(places, -(-len(places) // _ANCHORS_PER_CHUNK)):
        own = torch.from_numpy(part)
        cosines = unit[own] @ unit.T
        cosines[torch.arange(len(own)), own] = -torch.inf
        found.append(cosines.topk(width, dim=1).indices.numpy())
    return Neighbours(candidates[places], candidates[np.concatenate(found)])
