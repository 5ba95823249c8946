"""csr demo: everything on one machine."""

import os

from orchestration.cli.app import app, settings
from orchestration.stack.components import ray_environment


@app.command()
def demo() -> None:
    """Embed real text, train, promote, serve, index and search it; then compare with dense vectors."""
    loaded = settings()
    variables = ray_environment(loaded)
    address = variables.pop("RAY_ADDRESS")  # not for our environment: there it would say that the cluster is not ours
    os.environ.update(variables)  # Ray reads them when it is imported
    from orchestration.cli.demo_run import run_demo

    run_demo(loaded, address)
