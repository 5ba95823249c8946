"""csr train, evaluate, promote: models and their registry."""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from orchestration.cli.app import GATE_FAILED, Json, app, err, out, print_json, settings

DataSet = Annotated[str, typer.Option("--data", help="Data set, see `csr data`; or a .npy or .parquet.")]
Queries = Annotated[Path | None, typer.Option("--queries", help="Of a file: test queries; without, some rows are.")]
Pairs = Annotated[Path | None, typer.Option("--pairs", help="Of a file: rows that belong together.")]
Model = Annotated[str | None, typer.Option("--model", help="Registered model; default: setting registry.model.")]
Version = Annotated[str, typer.Option("--version", help="Version number or alias.")]
DEFAULT_DATA = "newsgroups20-sample"
CHALLENGER = "challenger"


class Precision(StrEnum):
    """Values of the option."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


# Modules that need torch, Ray or MLflow are imported by the command that uses them: `csr status` need not wait.


@app.command()
def train(
    data: Annotated[
        str, typer.Option("--data", help="Data set, see `csr data`; or a .npy, .parquet or Hugging Face folder.")
    ] = DEFAULT_DATA,
    model: Model = None,
    queries: Queries = None,
    pairs: Pairs = None,
    hidden_dim: Annotated[int | None, typer.Option(min=1, help="Latents; default from rows and dimension.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the rows; default from their number.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of initialisation and order.")] = 0,
    precision: Annotated[Precision, typer.Option(help="Of decoding and similarities.")] = Precision.FLOAT32,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any other field of CSRConfig; repeatable.")
    ] = None,
    validate_every: Annotated[
        int | None, typer.Option(min=1, help="Score the adapter on the held-out tenth every so many epochs.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many epochs without a better score; keep the best.")
    ] = None,
    all_rows: Annotated[bool, typer.Option("--all-rows", help="Learn from the held-out tenth, too.")] = False,
    json: Json = False,
) -> None:
    """Train an adapter with Ray Train and register it under the alias challenger.

    The recipe follows from what the data have: pairs, labels, or neither. Up to three candidates are tried for a
    quarter of the time each, and the best on held-out rows is trained in full.
    """
    from orchestration.cli.train_fields import parsed_fields
    from orchestration.cli.train_view import choice_text, train_with_progress
    from orchestration.train_job import Validation
    from orchestration.train_source import training_data

    chosen = {"seed": seed, "precision": precision.value, "hidden_dim": hidden_dim, "epochs": epochs}
    own_options = chosen.keys()
    chosen = {name: value for name, value in chosen.items() if value is not None}
    chosen |= parsed_fields(setting or [], own_options)
    if all_rows and (validate_every is not None or patience is not None):
        raise typer.BadParameter("--all-rows holds nothing out to validate on; leave out one or the other")
    validation = None if all_rows else Validation(validate_every, patience)
    loaded = settings()
    found = training_data(data, queries, pairs, loaded.cache_dir, err)
    trained = train_with_progress(loaded, found, model, chosen, validation)
    if json:
        print_json(asdict(trained))
        return
    if trained.choice is not None:
        out.print(choice_text(trained.choice), highlight=False)
    if patience is not None:
        kept, score = trained.metrics["epoch"] + 1, trained.metrics["validation_score"]
        out.print(f"Kept epoch {kept:.0f}, the best: validation {100 * score:.1f} %.", highlight=False)
    out.print(f"Registered {trained.name} version {trained.version} (fingerprint {trained.fingerprint}).")
    out.print("Promote it with `csr promote`.")


@app.command()
def evaluate(
    data: DataSet = DEFAULT_DATA,
    queries: Queries = None,
    pairs: Pairs = None,
    model: Model = None,
    version: Version = CHALLENGER,
    k_query: Annotated[int | None, typer.Option(min=1, help="Latents of each query; default: every level.")] = None,
    k_docs: Annotated[int | None, typer.Option(min=1, help="Latents of each document; default: every level.")] = None,
    json: Json = False,
) -> None:
    """Measure a registered version on held-out queries against exact dense search.

    Of a file, give the same --queries and --pairs as to `csr train`: they decide which rows it has not learned from.
    Without --k-query and --k-docs: each level on both sides, then thin documents under the fattest queries.
    """
    from orchestration.cli.model_views import evaluate_version, evaluation_table
    from orchestration.data.catalog import load
    from orchestration.registry import Registry

    loaded = settings()
    registry = Registry.open(loaded)
    found = registry.resolve(loaded.registry.model if model is None else model, version)
    judging = load(data, loaded.cache_dir, err, queries, pairs)
    evaluation = evaluate_version(registry, judging, found, k_query, k_docs)
    if json:
        print_json(asdict(evaluation))
    else:
        out.print(evaluation_table(evaluation))


@app.command()
def promote(
    data: DataSet = DEFAULT_DATA,
    queries: Queries = None,
    pairs: Pairs = None,
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
    judging = load(data, loaded.cache_dir, err, queries, pairs)
    promotion = run_gates(
        registry,
        loaded.registry.model if model is None else model,
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
