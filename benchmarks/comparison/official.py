"""The published method and its plain autoencoder: one model for each k, trained as the authors' code trains.

Losses, initialisation and dead-latent rule are `csr_model.losses.paper`; Adam with a constant rate and ε = 6.25e-10,
h = 4d, β = 1/32, γ = 0.1, the authors' defaults. Their 4e-5 cannot converge within the rows that are seen here, so the
rate is chosen by validation; batches hold 256 rows and k_aux is d/2.
"""

from functools import partial

import torch

from benchmarks.comparison.outcome import Outcome, outcome_of_codes, training_clock
from benchmarks.comparison.problem import Floats, Problem
from benchmarks.comparison.settings import Settings
from csr_model import Codes, CSRConfig
from csr_model.autoencoder import CSRAutoencoder
from csr_model.batches import Sampler
from csr_model.codes import unit_length
from csr_model.dead_latents import DeadLatents
from csr_model.losses import Batch
from csr_model.losses.paper import PaperLoss, published_autoencoder

BATCH_SIZE = 256
GAMMA = 0.1

_ADAM_EPS = 6.25e-10
_ROWS_PER_CHUNK = 2_048


def run_sae(problem: Problem, settings: Settings) -> Outcome:
    """Train the autoencoder alone, γ = 0, for one k."""
    return _run(problem, settings, 0.0)


def run_csr(problem: Problem, settings: Settings) -> Outcome:
    """Train with the published contrast, for one k."""
    return _run(problem, settings, GAMMA)


def encode(model: CSRAutoencoder, rows: Floats, k: int) -> Codes[Floats]:
    """Return codes of unit length."""
    with torch.no_grad():
        parts = [unit_length(model.encode(part, k)) for part in torch.split(torch.from_numpy(rows), _ROWS_PER_CHUNK)]
    latents, weights = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    return Codes(latents, weights)


def _run(problem: Problem, settings: Settings, gamma: float) -> Outcome:
    assert settings.k is not None
    assert settings.learning_rate is not None
    config = CSRConfig.paper(
        problem.input_dim,
        settings.k,
        batch_size=BATCH_SIZE,
        k_aux=problem.input_dim // 2,
        gamma_self=gamma,
        learning_rate=settings.learning_rate,
        seed=settings.seed,
    )
    steps = problem.rows_to_see // BATCH_SIZE
    with training_clock() as clock:
        model = _train(problem.train, config, steps)
    return outcome_of_codes(
        problem, partial(encode, model), config.hidden_dim, (settings.k,), clock.seconds, steps * BATCH_SIZE
    )


def _train(rows: Floats, config: CSRConfig, steps: int) -> CSRAutoencoder:
    model = published_autoencoder(config)
    objective = PaperLoss(model, config)
    learned = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=config.learning_rate, eps=_ADAM_EPS, fused=True)
    dead_latents = DeadLatents(config.hidden_dim, config.dead_after_rows)
    sampler = Sampler(len(rows), config.batch_size, config.seed)
    for step in range(steps):
        batch = Batch(torch.from_numpy(rows[sampler.step(step).rows]), None, 0)
        optimizer.zero_grad()
        losses = objective(batch, dead_latents.mask())
        losses.total.backward()
        optimizer.step()
        dead_latents.advance(Codes(losses.latents, losses.weights))
    return model
