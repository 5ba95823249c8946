"""`python -m services.router [--check-config]`: one router, until it is told to stop."""

import argparse
import asyncio
import sys
from typing import NoReturn

import structlog
import uvloop

from services.router.server import Router
from services.runtime.lifecycle import until_signalled
from services.runtime.logging import configure_logging
from services.runtime.settings import InvalidSettings, Settings, load_settings
from services.runtime.stopping import EXIT_SECONDS, end_within, leave


def main() -> NoReturn:
    """Run the router; end with 0 after a drain, with 1 when it cannot start, with the reason on standard error."""
    parser = argparse.ArgumentParser(prog="python -m services.router", description="The public API of CSR search.")
    parser.add_argument("--check-config", action="store_true", help="check the settings and exit")
    arguments = parser.parse_args()
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)  # never closed: see leave
    try:
        settings = load_settings()
        if not arguments.check_config:
            configure_logging(settings.logging, "router")
            runner.run(_serve(settings))
    except (InvalidSettings, OSError) as error:
        sys.stderr.write(f"router: {error}\n")
        leave(1)
    leave(0)


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
        end_within(settings.router.drain_seconds + EXIT_SECONDS)
        await router.stop()


if __name__ == "__main__":
    main()
