"""Versions, aliases and adapters from a real registry; the cache around them."""

import asyncio
import json
import pickle
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from csr_model import CSRAdapter
from services.encoder.models import LoadedModel, ModelCache, load_model
from services.encoder.registry import FINGERPRINT_TAG, ModelRegistry
from services.runtime.errors import CorruptRecord, RegistryUnavailable, UnknownVersion, WrongState
from tests.services.encoder.conftest import INPUT_DIM, RegistryFixture, trained, until


class Executed(Exception):
    """Raised by the pickle below when somebody loads it."""


class Payload:
    def __reduce__(self) -> tuple[type[Executed], tuple[()]]:
        return Executed, ()


def as_pickle(folder: Path) -> None:
    """Put a pickle in place of the weights."""
    (folder / "adapter.safetensors").write_bytes(pickle.dumps(Payload()))


def with_flipped_bit(folder: Path) -> None:
    """Change the last bit of the weights."""
    weights = bytearray((folder / "adapter.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "adapter.safetensors").write_bytes(weights)


def without_config(folder: Path) -> None:
    """Lose the configuration."""
    (folder / "config.json").unlink()


def of_a_newer_release(folder: Path) -> None:
    """Declare a format of the future."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"format_version": 99}))


def test_a_loaded_model_encodes_like_the_trained_adapter(
    registered: RegistryFixture, model_registry: ModelRegistry, adapter: CSRAdapter
) -> None:
    """Search would compare codes of two different encoders."""
    version = registered.register("same", adapter)
    model = load_model(model_registry, "same", version)
    embeddings = np.random.default_rng(7).standard_normal((20, INPUT_DIM)).astype(np.float32)
    for loaded, original in zip(model.adapter.encode(embeddings, 8), adapter.encode(embeddings, 8), strict=True):
        np.testing.assert_array_equal(loaded, original)
    assert (model.registered.version, model.adapter.fingerprint) == (version, adapter.fingerprint)


def test_a_moved_alias_is_followed_within_its_short_cache(
    registered: RegistryFixture,
    model_registry: ModelRegistry,
    adapter: CSRAdapter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A promotion would never reach callers who ask by alias, or every request would cost a registry read."""
    first, second = registered.register("moving", adapter), registered.register("moving", adapter)
    registered.client.set_registered_model_alias("moving", "champion", str(first))
    assert model_registry.resolve("moving", "champion") == first
    registered.client.set_registered_model_alias("moving", "champion", str(second))
    assert model_registry.resolve("moving", "champion") == first
    monkeypatch.setattr("services.encoder.registry._ALIAS_SECONDS", 0.0)
    assert model_registry.resolve("moving", "champion") == second


@pytest.mark.parametrize("name", ["nowhere", "bad/name:with@signs"])
def test_unknown_models_are_named(model_registry: ModelRegistry, name: str) -> None:
    """Users would see an internal error for a typing mistake."""
    with pytest.raises(UnknownVersion, match=f"{name}.*champion"):
        model_registry.resolve(name, "champion")
    with pytest.raises(UnknownVersion, match=f"{name}.*version 3"):
        model_registry.describe(name, 3)


def test_unknown_versions_and_aliases_are_named(
    registered: RegistryFixture, model_registry: ModelRegistry, adapter: CSRAdapter
) -> None:
    """Users would see an internal error for a version that was never registered."""
    version = registered.register("known", adapter)
    with pytest.raises(UnknownVersion, match="'known' has no alias 'nobody'"):
        model_registry.resolve("known", "nobody")
    with pytest.raises(UnknownVersion, match=f"'known' has no version {version + 1}"):
        model_registry.describe("known", version + 1)


@pytest.mark.timeout(60)
def test_an_unreachable_registry_is_told_soon(model_registry: ModelRegistry) -> None:
    """Requests would hang for minutes while MLflow is down, or claim that the model does not exist."""
    down = ModelRegistry("http://127.0.0.1:9")
    with pytest.raises(RegistryUnavailable):
        down.resolve("any", "champion")


@pytest.mark.parametrize(
    ("alter", "error"),
    [
        (as_pickle, CorruptRecord),
        (with_flipped_bit, CorruptRecord),
        (without_config, CorruptRecord),
        (of_a_newer_release, WrongState),
    ],
)
def test_altered_artifacts_are_refused(
    registered: RegistryFixture,
    model_registry: ModelRegistry,
    adapter: CSRAdapter,
    alter: Callable[[Path], None],
    error: type[Exception],
) -> None:
    """A damaged or hostile artifact would encode garbage, or run its code in the encoder."""
    version = registered.register(alter.__name__, adapter, alter)
    with pytest.raises(error, match=f"version {version}: the artifact") as caught:
        load_model(model_registry, alter.__name__, version)
    assert "/tmp" not in str(caught.value)


def test_an_artifact_of_another_model_is_refused(
    registered: RegistryFixture, model_registry: ModelRegistry, adapter: CSRAdapter
) -> None:
    """Codes of an exchanged artifact would be scored against codes of the registered model."""
    other = {FINGERPRINT_TAG: trained(seed=2).fingerprint}
    version = registered.register("exchanged", adapter, tags=other)
    with pytest.raises(CorruptRecord, match=f"fingerprint is {adapter.fingerprint}, the registry's"):
        load_model(model_registry, "exchanged", version)


def test_a_version_without_fingerprint_is_refused(
    registered: RegistryFixture, model_registry: ModelRegistry, adapter: CSRAdapter
) -> None:
    """Nobody could tell an exchanged artifact of a version that was registered by hand."""
    version = registered.register("untagged", adapter, tags={})
    with pytest.raises(WrongState, match=FINGERPRINT_TAG):
        load_model(model_registry, "untagged", version)


def test_a_lost_artifact_is_data_loss(
    registered: RegistryFixture, model_registry: ModelRegistry, adapter: CSRAdapter
) -> None:
    """Clients would retry for ever what cannot come back."""
    version = registered.register("lost", adapter)
    folder = registered.artifact("lost", version)
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(CorruptRecord, match="missing"):
        load_model(model_registry, "lost", version)


class Loader:
    """Loads real models, counts the loads, and holds those of version 2 until released."""

    def __init__(self, load: Callable[[str, int], LoadedModel]) -> None:
        self.loads: list[int] = []
        self.release = threading.Event()
        self._load = load

    def __call__(self, name: str, version: int) -> LoadedModel:
        """Load a version."""
        self.loads.append(version)
        if version == 2:
            self.release.wait()
        return self._load(name, version)


@pytest.fixture(scope="module")
def three_versions(registered: RegistryFixture, adapter: CSRAdapter) -> str:
    """Name of a model with versions 1, 2 and 3."""
    assert [registered.register("three", adapter) for _ in range(3)] == [1, 2, 3]
    return "three"


@pytest.fixture
def loader(model_registry: ModelRegistry) -> Loader:
    """A loader of its own for each test."""
    return Loader(partial(load_model, model_registry))


async def test_concurrent_requests_share_one_load(loader: Loader, three_versions: str) -> None:
    """A new version would be downloaded once for each waiting request."""
    models = ModelCache(loader, kept=2)
    loaded = await asyncio.gather(*(models.get(three_versions, 1) for _ in range(10)))
    assert loader.loads == [1]
    assert all(model is loaded[0] for model in loaded)


async def test_a_load_does_not_hold_up_loaded_versions(loader: Loader, three_versions: str) -> None:
    """Every promotion would stall search for the time of a download."""
    models = ModelCache(loader, kept=3)
    await models.get(three_versions, 1)
    slow = asyncio.create_task(models.get(three_versions, 2))
    await until(lambda: 2 in loader.loads)
    assert (await models.get(three_versions, 1)).registered.version == 1
    assert not slow.done()
    loader.release.set()
    assert (await slow).registered.version == 2


async def test_a_caller_that_gives_up_leaves_the_load_to_others(loader: Loader, three_versions: str) -> None:
    """One expired deadline would fail every request that waits for the same version."""
    models = ModelCache(loader, kept=2)
    impatient = asyncio.create_task(models.get(three_versions, 2))
    patient = asyncio.create_task(models.get(three_versions, 2))
    await until(lambda: 2 in loader.loads)
    impatient.cancel()
    loader.release.set()
    assert (await patient).registered.version == 2
    assert loader.loads == [2]


async def test_the_least_recently_used_version_makes_room(loader: Loader, three_versions: str) -> None:
    """A replica would run out of memory, or drop the version that everybody uses."""
    loader.release.set()
    models = ModelCache(loader, kept=2)
    for version in (1, 2, 1, 3, 1, 2):
        await models.get(three_versions, version)
    assert loader.loads == [1, 2, 3, 2]


async def test_a_failed_load_is_tried_again(loader: Loader, registered: RegistryFixture, adapter: CSRAdapter) -> None:
    """A moment without the registry would break a version until the replica restarts."""
    models = ModelCache(loader, kept=2)
    with pytest.raises(UnknownVersion):
        await models.get("late", 1)
    registered.register("late", adapter)
    assert (await models.get("late", 1)).registered.name == "late"
