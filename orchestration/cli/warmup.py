"""csr warmup: compile what index servers would compile when they start."""

import time

from orchestration.cli.app import Json, app, out, print_json


@app.command("warmup")
def warm_up(json: Json = False) -> None:
    """Compile the index kernels into numba's cache (NUMBA_CACHE_DIR), so that index servers start at once."""
    from services.index.core.compiled import CACHE_FOLDER, COMPILED  # numba takes a second to import
    from services.index.core.warmup import warmup

    started = time.perf_counter()
    warmup()
    seconds = time.perf_counter() - started
    compiled, cached = (
        sum(sum(getattr(kernel.stats, counter).values()) for kernel in COMPILED)
        for counter in ("cache_misses", "cache_hits")
    )
    folder = str(CACHE_FOLDER) if CACHE_FOLDER else None
    if json:
        print_json({"compiled": compiled, "cached": cached, "seconds": seconds, "folder": folder})
    else:
        out.print(
            f"Compiled {compiled} kernels and read {cached} from the cache in {seconds:.1f} s: "
            f"{folder or 'there is no folder to keep them in, set NUMBA_CACHE_DIR'}",
            soft_wrap=True,
        )
