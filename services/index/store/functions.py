"""Loads our functions (lua/) into Redis and checks that this Redis can be trusted with data."""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from services.index.store.connection import store_errors
from services.index.store.entry import BODY_FORMAT
from services.index.store.keys import LOG_CHANNEL
from services.index.store.meta import FORMAT
from services.runtime.errors import WrongState
from services.runtime.limits import VERSION_MAX, WRITE_IDS_KEPT

LIBRARY_VERSION: Final = 3
"""Grows with every change of the Lua files: processes of several releases share one Redis."""
_FILES: Final = ("bytes", "meta", "document", "plan", "log", "write", "catalog")
"""In this order, because Lua knows only what was defined before."""
_OLDEST_REDIS: Final = (7, 0)


@dataclass(frozen=True, slots=True)
class StorePolicy:
    """What an acknowledged write is worth in this Redis.

    Attributes:
        appendfsync: `always`, `everysec` or `no`; `off` without an append-only file; `unknown` when Redis hides it.
    """

    appendfsync: str


async def ensure_functions(redis: Redis) -> StorePolicy:
    """Check this Redis and load our functions when they are absent, older or damaged.

    Raises:
        WrongState: Redis is older than 7.0, may evict keys, or holds functions of a newer release.
        StoreUnavailable: Redis does not answer.
    """
    with store_errors("load functions"):
        await _check_server(redis)
        loaded = await _loaded_version(redis)
        if loaded > LIBRARY_VERSION:
            raise WrongState(
                f"Redis holds csr functions version {loaded}; this release has {LIBRARY_VERSION}: upgrade it"
            )
        if loaded < LIBRARY_VERSION or not await _intact(redis):
            await redis.function_load(functions_source(), replace=True)
        return StorePolicy(await _appendfsync(redis))


@cache
def functions_source() -> str:
    """Return the text of the library: constants, then the Lua files."""
    constants = {
        "LIBRARY_VERSION": LIBRARY_VERSION,
        "FORMAT": FORMAT,
        "BODY_FORMAT": BODY_FORMAT,
        "VERSION_MAX": VERSION_MAX,
        "WRITE_IDS_KEPT": WRITE_IDS_KEPT,
        "LOG_CHANNEL": f"'{LOG_CHANNEL}'",
    }
    header = ["#!lua name=csr", *(f"local {name} = {value}" for name, value in constants.items())]
    folder = files("services.index.store").joinpath("lua")
    return "\n".join([*header, *(folder.joinpath(f"{name}.lua").read_text() for name in _FILES)])


async def _check_server(redis: Redis) -> None:
    info = await redis.info()
    version = str(info["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_REDIS:
        raise WrongState(f"Redis {version}: functions need 7.0 or newer")
    if info["maxmemory_policy"] != "noeviction":
        raise WrongState(
            f"Redis maxmemory-policy is {info['maxmemory_policy']}: it would drop documents; set it to noeviction"
        )


async def _loaded_version(redis: Redis) -> int:
    try:
        return int(await redis.fcall_ro("csr_version", 0))
    except ResponseError as error:
        if "unction not found" in str(error):
            return 0
        raise


async def _intact(redis: Redis) -> bool:
    """Return whether the text of our functions is as we wrote it: an append-only file has no checksums."""
    libraries = await redis.function_list("csr", withcode=True)
    return any(functions_source().encode() in library for library in libraries)


async def _appendfsync(redis: Redis) -> str:
    try:
        config = await redis.config_get("append*")
    except ResponseError:  # managed services forbid CONFIG
        return "unknown"
    return str(config["appendfsync"]) if config["appendonly"] == "yes" else "off"
