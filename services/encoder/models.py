"""Adapters in memory: loaded once per version, verified before they serve, bounded in number."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from csr_model import CSRAdapter
from csr_model.errors import ArtifactTooNew, CSRModelError
from services.encoder.registry import ModelRegistry, RegisteredVersion
from services.encoder.usage import LatentUsage
from services.runtime.errors import CorruptRecord, WrongState

_LOADS_AT_ONCE: Final = 2
"""So that a slow download holds up only one other."""


@dataclass(frozen=True)
class LoadedModel:
    """A version that is ready to encode."""

    registered: RegisteredVersion
    adapter: CSRAdapter
    usage: LatentUsage
    """Of the codes made since the version was loaded."""


class ModelCache:
    """The adapters of one replica, by name and version; the least recently used makes room.

    Lives on one event loop. Loads run in threads of their own, so requests for loaded versions never wait for one;
    requests for the same version share its load. A failed load is forgotten: the next request tries again.
    """

    def __init__(self, load: Callable[[str, int], LoadedModel], kept: int) -> None:
        """Create an empty cache.

        Args:
            load: Blocking; returns the model of a name and version.
            kept: Most versions in memory, 1 or more. A version that is in use when it is dropped lives on until
                its requests are done.
        """
        self._load = load
        self._kept = kept
        self._loads: OrderedDict[tuple[str, int], asyncio.Future[LoadedModel]] = OrderedDict()
        self._loaders = ThreadPoolExecutor(_LOADS_AT_ONCE, thread_name_prefix="model-loader")

    async def get(self, name: str, version: int) -> LoadedModel:
        """Return a model, loading it if needed.

        Raises:
            CsrError: whatever the load raised.
        """
        key = (name, version)
        load = self._loads.get(key)
        if load is None:
            load = asyncio.get_running_loop().run_in_executor(self._loaders, self._load, name, version)
            self._loads[key] = load
            load.add_done_callback(lambda done: self._forget_failure(key, done))
        self._loads.move_to_end(key)
        while len(self._loads) > self._kept:
            self._loads.popitem(last=False)
        return await asyncio.shield(load)  # a caller that gives up must not take the load from the others

    def _forget_failure(self, key: tuple[str, int], load: "asyncio.Future[LoadedModel]") -> None:
        failed = load.cancelled() or load.exception() is not None
        if failed and self._loads.get(key) is load:
            del self._loads[key]


def load_model(registry: ModelRegistry, name: str, version: int) -> LoadedModel:
    """Fetch a version from the registry and prove that it encodes as it did when it was trained.

    Only csr_model reads the artifact (safetensors and JSON); nothing in it is executed.

    Raises:
        UnknownVersion: no such model or version.
        WrongState: the version has no fingerprint, or its artifact was written by a newer release.
        CorruptRecord: the artifact is missing, unreadable, not the registered one, or encodes differently.
        RegistryUnavailable: the registry or the artifact store does not answer.
    """
    registered = registry.describe(name, version)
    with TemporaryDirectory(prefix="csr-adapter-") as folder:
        path = registry.download(registered, Path(folder))
        try:
            adapter = CSRAdapter.load(path)
            adapter.verify_parity()  # also the first encoding, which is slower than the rest
        except CSRModelError as error:
            kind = WrongState if isinstance(error, ArtifactTooNew) else CorruptRecord
            reason = str(error).replace(str(path), "the artifact")  # callers have no use for our temporary folder
            raise kind(f"model {name!r} version {version}: {reason}") from error
    if adapter.fingerprint != registered.fingerprint:
        raise CorruptRecord(
            f"model {name!r} version {version}: the artifact's fingerprint is {adapter.fingerprint}, "
            f"the registry's {registered.fingerprint}"
        )
    return LoadedModel(registered, adapter, LatentUsage(adapter.hidden_dim))
