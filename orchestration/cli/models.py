"""csr train, evaluate, promote: models and their registry."""

from dataclasses import asdict
from typing import Annotated

import typer

from orchestration.cli.app import GATE_FAILED, Json, app, err, out, print_json, settings

DataSet = Annotated[str, typer.Option("--data", help="Data set, see `csr data`.")]
Model = Annotated[str | None, typer.Option("--model", help="Registered model; default: setting registry.model.")]
Version = Annotated[str, typer.Option("--version", help="Version number or alias.")]
DEFAULT_DATA = "newsgroups20-sample"
CHALLENGER = "challenger"

# Modules that need torch, Ray or MLflow are imported by the command that uses them: `csr status` need not wait.


@app.command()
def train(
    data: DataSet = DEFAULT_DATA,
    model: Model = None,
    hidden_dim: Annotated[int | None, typer.Option(min=1, help="Latents; default from rows and dimension.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the rows; default from their number.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of initialisation and order.")] = 0,
    json: Json = False,
) -> None:
    """Train an adapter with Ray Train and register it under the alias challenger."""
    from orchestration.cli.model_views import train_with_progress
    from orchestration.data.catalog import load
    from orchestration.train_job import automatic_config

    loaded = settings()
    rows = load(data, loaded.cache_dir, err).train
    chosen = {"hidden_dim": hidden_dim, "epochs": epochs}
    config = automatic_config(
        rows, loaded.training.workers, seed=seed, **{key: value for key, value in chosen.items() if value is not None}
    )
    trained = train_with_progress(loaded, rows, model, config)
    if json:
        print_json(asdict(trained))
    else:
        out.print(f"Registered {trained.name} version {trained.version} (fingerprint {trained.fingerprint}).")
        out.print("Promote it with `csr promote`.")


@app.command()
def evaluate(
    data: DataSet = DEFAULT_DATA,
    model: Model = None,
    version: Version = CHALLENGER,
    k_query: Annotated[int | None, typer.Option(min=1, help="Latents of each query; default: every level.")] = None,
    k_docs: Annotated[int | None, typer.Option(min=1, help="Latents of each document; default: every level.")] = None,
    json: Json = False,
) -> None:
    """Measure a registered version on held-out queries against exact dense search.

    Without --k-query and --k-docs: each level on both sides, then thin documents under the fattest queries.
    """
    from orchestration.cli.model_views import evaluate_version, evaluation_table
    from orchestration.data.catalog import load
    from orchestration.registry import Registry

    loaded = settings()
    registry = Registry.open(loaded)
    found = registry.resolve(model or loaded.registry.model, version)
    evaluation = evaluate_version(registry, load(data, loaded.cache_dir, err), found, k_query, k_docs)
    if json:
        print_json(asdict(evaluation))
    else:
        out.print(evaluation_table(evaluation))


@app.command()
def promote(
    data: DataSet = DEFAULT_DATA,
    model: Model = None,
    version: Version = CHALLENGER,
    force: Annotated[str | None, typer.Option(metavar="REASON", help="Promote despite failed gates; recorded.")] = None,
    json: Json = False,
) -> None:
    """Run the gates and move the alias champion when they pass; exit code 3 when one fails."""
    from orchestration.cli.model_views import evaluate_version, promotion_table, verdict
    from orchestration.data.catalog import load
    from orchestration.promote import promote as run_gates
    from orchestration.registry import Registry

    loaded = settings()
    registry = Registry.open(loaded)
    judging = load(data, loaded.cache_dir, err)
    promotion = run_gates(
        registry,
        model or loaded.registry.model,
        lambda found: evaluate_version(registry, judging, found),
        version,
        force,
    )
    if json:
        gates = [asdict(gate) | {"passed": gate.passed} for gate in promotion.gates]
        print_json(asdict(promotion) | {"gates": gates})
    else:
        out.print(promotion_table(promotion))
        out.print(verdict(promotion))
    if not promotion.passed and promotion.outcome != "forced":  # also of a version that is champion already
        raise typer.Exit(GATE_FAILED)
