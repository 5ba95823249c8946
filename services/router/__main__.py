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
    """Run the router; return 0 after a drain, 1 when it cannot start, with the reason on standard error."""
    parser = argparse.ArgumentParser(prog="python -m services.router", description="The public API of CSR search.")
    parser.add_argument("--check-config", action="store_true", help="check the settings and exit")
    arguments = parser.parse_args()
    try:
        settings = load_settings()
        if not arguments.check_config:
            configure_logging(settings.logging, "router")
            asyncio.run(_serve(settings))
    except (InvalidSettings, OSError) as error:
        sys.stderr.write(f"router: {error}\n")
        return 1
    return 0


async def _serve(settings: Settings) -> None:
    log = structlog.get_logger()
    try:
        router = Router(settings)
    except ValueError as error:
        raise InvalidSettings(f"redis.url: {error}") from None
    try:
        await router.start()
        log.info("router listens", port=router.host.port, metrics_port=router.host.metrics_port)
        await until_signalled()
        log.info("router stops")
    finally:
        await router.stop()


if __name__ == "__main__":
    sys.exit(main())
