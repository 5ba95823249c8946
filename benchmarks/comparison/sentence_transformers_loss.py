"""sentence-transformers' own module and loss, as its package has them.

One SparseAutoEncoder at k = 64 whose prefixes serve smaller k (`max_active_dims`), h = 4d and k_aux = d/2 as the
package chooses for a dense model; CSRLoss as in the package's training example, which does better here than its
defaults at every k but 4: cosine, scale 20, γ = 0.1, β = 0.1. AdamW with linear warm-up over 10 % of the steps and
linear decay, as its trainer runs it; 256 pairs a batch.
"""

import math
from functools import partial

import numpy as np
import torch
from sentence_transformers import util
from sentence_transformers.sparse_encoder import SparseEncoder
from sentence_transformers.sparse_encoder.losses import CSRLoss, SparseMultipleNegativesRankingLoss
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

from benchmarks.comparison.outcome import KS, Outcome, outcome_of_codes, training_clock
from benchmarks.comparison.problem import Floats, Problem, Rows
from benchmarks.comparison.settings import Settings
from csr_model import Codes
from csr_model.codes import unit_length

PAIRS_PER_BATCH = 256

_SCALE = 20.0
_GAMMA = 0.1
_BETA = 0.1
_WARMUP_SHARE = 0.1
_ROWS_PER_CHUNK = 2_048


def run(problem: Problem, settings: Settings) -> Outcome:
    """Train on given pairs, pairs of one label, or each row with itself."""
    assert settings.learning_rate is not None
    rows_per_batch = PAIRS_PER_BATCH * (1 if problem.pairs is None and problem.labels is None else 2)
    steps = problem.rows_to_see // rows_per_batch
    with training_clock() as clock:
        module = _train(problem, settings.learning_rate, settings.seed, steps)
    return outcome_of_codes(
        problem, partial(_encode, module), module.hidden_dim, KS, clock.seconds, steps * rows_per_batch
    )


def _train(problem: Problem, learning_rate: float, seed: int, steps: int) -> SparseAutoEncoder:
    torch.manual_seed(seed)
    width = problem.input_dim
    module = SparseAutoEncoder(width, hidden_dim=4 * width, k=max(KS), k_aux=width // 2)
    model = SparseEncoder(modules=[module], device="cpu")
    contrast = SparseMultipleNegativesRankingLoss(model, scale=_SCALE, similarity_fct=util.cos_sim)
    loss = CSRLoss(model, contrast, beta=_BETA, gamma=_GAMMA)
    optimizer = torch.optim.AdamW(module.parameters(), lr=learning_rate, weight_decay=0.0)
    warmup = math.ceil(_WARMUP_SHARE * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))
    )
    rows = torch.from_numpy(problem.train)
    random = np.random.default_rng(seed)
    model.train()
    for _ in range(steps):
        sides = _draw(problem, random)
        optimizer.zero_grad()
        losses = loss([{"sentence_embedding": rows[torch.from_numpy(side)]} for side in sides])
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return module.eval()


def _draw(problem: Problem, random: np.random.Generator) -> tuple[Rows, Rows]:
    """Return both sides of a batch of pairs, rows of `train`."""
    if problem.pairs is not None:
        chosen = random.choice(len(problem.pairs.queries), PAIRS_PER_BATCH, replace=False)
        return problem.pairs.queries[chosen], problem.pairs.documents[chosen]
    first = random.choice(len(problem.train), PAIRS_PER_BATCH, replace=False)
    return first, first if problem.labels is None else _same_label(problem.labels, first, random)


def _same_label(labels: Rows, rows: Rows, random: np.random.Generator) -> Rows:
    """Return for each row another row of its label; the row itself where it is the only one."""
    order = np.argsort(labels, kind="stable")
    begin, end = (np.searchsorted(labels[order], labels[rows], side) for side in ("left", "right"))
    own = np.argsort(order)[rows] - begin
    others = np.maximum(end - begin - 1, 1)
    place = (own + 1 + random.integers(others)) % (end - begin)
    return np.asarray(order[begin + place], np.int64)


def _encode(module: SparseAutoEncoder, rows: Floats, k: int) -> Codes[Floats]:
    parts = []
    with torch.inference_mode():
        for part in torch.split(torch.from_numpy(rows), _ROWS_PER_CHUNK):
            dense = module({"sentence_embedding": part}, max_active_dims=k)["sentence_embedding"]
            weights, latents = dense.topk(k, dim=1)
            parts.append(unit_length(Codes(latents, weights)))
    latents, weights = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    return Codes(latents, weights)
