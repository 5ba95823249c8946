"""`python -m services.index`: one index server, named by the setting index.name."""

import argparse
import asyncio
import sys
from typing import NoReturn

import uvloop

from services.index.server import serve
from services.runtime.errors import StoreUnavailable
from services.runtime.logging import configure_logging
from services.runtime.settings import InvalidSettings, load_settings
from services.runtime.stopping import leave


def main() -> NoReturn:
    """Run the server; end with 0 after a drain, with 1 when it cannot start, with the reason on standard error."""
    parser = argparse.ArgumentParser(prog="python -m services.index", description=__doc__)
    parser.add_argument("--check-config", action="store_true", help="check the settings and exit")
    arguments = parser.parse_args()
    name, runner = "index server", asyncio.Runner(loop_factory=uvloop.new_event_loop)  # never closed: see leave
    try:
        settings = load_settings()
        name = settings.index.name
        if not arguments.check_config:
            configure_logging(settings.logging, name)
            runner.run(serve(settings))
    except (InvalidSettings, OSError, StoreUnavailable) as error:
        sys.stderr.write(f"{name}: {error}\n")
        leave(1)
    leave(0)


if __name__ == "__main__":
    main()
