"""`python -m services.router [--check-config]`: one router, until it is told to stop."""

import argparse
import asyncio
import sys

import structlog

from services.router.server import Router
from services.runtime.lifecycle import until_signalled
from services.runtime.logging import configure_logging
from services.runtime.settings import InvalidSettings, Settings, load_settings


def main() -> int:
    """Run the router; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m services.router", description="The public API of CSR search.")
    parser.add_argument("--check-config", action="store_true", help="check the settings and exit")
    arguments = parser.parse_args()
    try:
        settings = load_settings()
    except InvalidSettings as error:
        sys.stderr.write(f"invalid settings:\n{error}\n")
        return 2
    if arguments.check_config:
        return 0
    configure_logging(settings.logging, "router")
    try:
        asyncio.run(_serve(settings))
    except OSError as error:
        sys.stderr.write(f"router: {error}\n")
        return 1
    return 0


async def _serve(settings: Settings) -> None:
    log = structlog.get_logger()
    router = Router(settings)
    try:
        await router.start()
        log.info("router listens", port=router.host.port, metrics_port=router.host.metrics_port)
        await until_signalled()
        log.info("router stops")
    finally:
        await router.stop()


if __name__ == "__main__":
    sys.exit(main())
