"""Our adapter with nothing set, and the untrained one that it starts from."""

from benchmarks.comparison.outcome import KS, Outcome, outcome_of_codes, training_clock
from benchmarks.comparison.problem import Problem
from benchmarks.comparison.settings import Settings
from csr_model import CSRConfig, fit
from csr_model.baselines.random_atoms import random_atoms


def run_ours(problem: Problem, settings: Settings) -> Outcome:
    """Train one adapter for every k from the rows and what is known of them; selection is part of the time."""
    with training_clock() as clock:
        result = fit(problem.train, labels=problem.labels, pairs=problem.pairs, ids=problem.ids, seed=settings.seed)
    adapter = result.adapter
    rows_seen = result.history[-1].step * int(adapter.manifest.training["batch_size"])
    outcome = outcome_of_codes(problem, adapter.encode, adapter.hidden_dim, KS, clock.seconds, rows_seen)
    return outcome._replace(choice=f"{result.choice.name}, h = {adapter.hidden_dim:,}" if result.choice else "")


def run_random_atoms(problem: Problem, settings: Settings) -> Outcome:
    """Use random training rows as latents, untrained."""
    config = CSRConfig.automatic(problem.input_dim, len(problem.train), seed=settings.seed)
    with training_clock() as clock:
        adapter = random_atoms(problem.train, config)
    return outcome_of_codes(problem, adapter.encode, adapter.hidden_dim, KS, clock.seconds, 0)
