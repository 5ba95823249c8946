"""The encoder as callers meet it: two real replicas behind Ray Serve's gRPC port."""

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest

from csr.v1 import encoder_pb2, encoder_pb2_grpc, vector_pb2
from csr_model import CSRAdapter
from orchestration.data.catalog import fetch_backbone
from services.encoder.backbone import TextBackbone
from services.encoder.health import encoder_not_ready
from services.runtime import limits, metrics
from services.runtime.codec import RaggedCodes, codes_from_proto, embeddings_to_proto
from services.runtime.encoder_channel import ENCODER_CHANNEL_OPTIONS, ENCODER_METADATA
from services.runtime.errors import (
    CsrError,
    InvalidRequest,
    InvalidVector,
    LimitExceeded,
    UnknownVersion,
    WrongState,
    error_from_rpc,
)
from services.runtime.settings import load_settings
from tests.services.encoder.conftest import INPUT_DIM, LEVELS, RegistryFixture, trained
from tests.support.ray_cluster import RayCluster
from tests.support.redis_server import free_port

pytestmark = pytest.mark.timeout(240)

MODEL = "grpc"
TEXT_MODEL = "grpc-text"
MAX_TOKENS = 16
REPLICA = "ServeReplica:encoder"


@dataclass(frozen=True)
class RunningEncoder:
    """The service, as a caller sees it."""

    address: str
    stub: encoder_pb2_grpc.EncoderServiceStub

    def encode(self, **fields: object) -> encoder_pb2.EncodeResponse:
        """Call Encode; a failed call raises the domain error."""
        request = encoder_pb2.EncodeRequest(**{"model": model(), **fields})  # type: ignore[arg-type]
        try:
            return self.stub.Encode(request, metadata=ENCODER_METADATA, timeout=30)
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error


def model(name: str = MODEL, **selector: object) -> encoder_pb2.ModelRef:
    """Return a reference to version 1, or to the version or alias given."""
    return encoder_pb2.ModelRef(name=name, **(selector or {"version": 1}))  # type: ignore[arg-type]


def vectors(count: int, dim: int = INPUT_DIM, seed: int = 0) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Return random embeddings."""
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


def packed(count: int = 3, dim: int = INPUT_DIM, **values: float) -> vector_pb2.EmbeddingBatch:
    """Return random embeddings, with value `row_1=x` written over all of row 1."""
    embeddings = vectors(count, dim)
    for place, value in values.items():
        embeddings[int(place.removeprefix("row_"))] = value
    return embeddings_to_proto(embeddings)


@pytest.fixture(scope="module")
def minilm() -> Path:
    """Folder of the real backbone."""
    return fetch_backbone(load_settings().cache_dir)


@pytest.fixture(scope="module")
def text_adapter() -> CSRAdapter:
    """An adapter for the backbone's embeddings."""
    return trained(seed=3, input_dim=384)


@pytest.fixture(scope="module")
def encoder(
    ray_cluster: RayCluster,
    registered: RegistryFixture,
    adapter: CSRAdapter,
    text_adapter: CSRAdapter,
    minilm: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RunningEncoder]:
    """`python -m services.encoder` on the session's cluster, asked to stop in the end."""
    registered.register(MODEL, adapter)
    registered.client.set_registered_model_alias(MODEL, "champion", "1")
    registered.register(TEXT_MODEL, text_adapter, backbone=minilm.name)
    port = free_port()
    address = f"127.0.0.1:{port}"
    settings = {
        "CSR_ENCODER__PORT": str(port),
        "CSR_ENCODER__HTTP_PORT": str(free_port()),
        "CSR_ENCODER__ADDRESS": address,
        "CSR_ENCODER__BACKBONE": str(minilm),
        "CSR_ENCODER__MAX_TOKENS": str(MAX_TOKENS),
        "MLFLOW_TRACKING_URI": registered.uri,
    }
    log = tmp_path_factory.mktemp("encoder") / "encoder.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.encoder"],
            env={**ray_cluster.environment, **settings},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        while b'"ready"' not in log.read_bytes():
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        with grpc.insecure_channel(address, options=ENCODER_CHANNEL_OPTIONS) as channel:
            yield RunningEncoder(address, encoder_pb2_grpc.EncoderServiceStub(channel))
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0, log.read_text()
        assert encoder_not_ready(address) is not None
    finally:
        process.kill()


def test_codes_equal_those_of_the_adapter_in_process(encoder: RunningEncoder, adapter: CSRAdapter) -> None:
    """Documents encoded by the service and offline would not be comparable."""
    embeddings = vectors(300)
    response = encoder.encode(embeddings=embeddings_to_proto(embeddings), k=5)
    expected = RaggedCodes.from_padded(*adapter.encode(embeddings, 5))
    codes = codes_from_proto(response.codes, "codes", adapter.hidden_dim, 5, adapter.fingerprint)
    np.testing.assert_array_equal(codes.lengths, expected.lengths)
    np.testing.assert_array_equal(codes.latents, expected.latents)
    np.testing.assert_array_equal(codes.weights, expected.weights)
    assert (response.model.name, response.model.version) == (MODEL, 1)
    assert response.model.fingerprint == adapter.fingerprint


def test_k_defaults_to_k_max_and_embeddings_return_on_request(encoder: RunningEncoder, adapter: CSRAdapter) -> None:
    """Documents would be stored with fewer latents than the collection promises."""
    batch = packed()
    response = encoder.encode(embeddings=batch, include_embeddings=True)
    assert response.codes.lengths == RaggedCodes.from_padded(*adapter.encode(vectors(3), LEVELS[-1])).lengths.tobytes()
    assert response.embeddings == batch
    assert not encoder.encode(embeddings=batch).HasField("embeddings")


def test_an_alias_encodes_with_the_version_it_names(encoder: RunningEncoder) -> None:
    """Callers who follow the champion would get another model's codes."""
    by_alias = encoder.encode(model=model(alias="champion"), embeddings=packed())
    assert by_alias == encoder.encode(embeddings=packed())


def test_get_model_describes_the_version(encoder: RunningEncoder, adapter: CSRAdapter, minilm: Path) -> None:
    """Collections would be created with wrong dimensions."""
    request = encoder_pb2.GetModelRequest(model=model())
    described = encoder.stub.GetModel(request, metadata=ENCODER_METADATA)
    assert (described.input_dim, described.hidden_dim, described.k_max) == (INPUT_DIM, adapter.hidden_dim, LEVELS[-1])
    assert tuple(described.trained_k) == LEVELS
    assert (described.backbone, described.accepts_texts) == ("", False)
    request.model.name = TEXT_MODEL
    described = encoder.stub.GetModel(request, metadata=ENCODER_METADATA)
    assert (described.backbone, described.accepts_texts) == (minilm.name, True)


def test_texts_encode_as_their_stored_embeddings_would(
    encoder: RunningEncoder, text_adapter: CSRAdapter, minilm: Path
) -> None:
    """A document's code would change when its collection is re-encoded from stored embeddings."""
    texts = ["a cat sat on the mat", "word " * 40, "the shuttle was launched"]
    response = encoder.encode(
        model=model(TEXT_MODEL),
        texts=vector_pb2.TextBatch(texts=texts),
        allow_truncation=True,
        include_embeddings=True,
    )
    assert list(response.token_counts) == [8, 42, 6]
    assert list(response.truncated) == [1]
    embeddings = np.frombuffer(response.embeddings.values, np.float32).reshape(3, 384)
    np.testing.assert_array_equal(embeddings, embeddings.astype(np.float16))
    here = TextBackbone.load(minilm, MAX_TOKENS, device="cpu", precision="float32").embed(texts, True)
    np.testing.assert_allclose((embeddings * here.embeddings).sum(axis=1), 1, atol=1e-3)
    again = encoder.encode(model=model(TEXT_MODEL), embeddings=response.embeddings)
    assert again.codes == response.codes


REFUSALS: dict[str, tuple[type[CsrError], str, Callable[[], dict[str, object]]]] = {
    "no input": (InvalidRequest, "input", dict),
    "no model": (InvalidRequest, "model.name", lambda: {"model": encoder_pb2.ModelRef(), "embeddings": packed()}),
    "no version": (
        InvalidRequest,
        "a version or an alias",
        lambda: {"model": encoder_pb2.ModelRef(name=MODEL), "embeddings": packed()},
    ),
    "empty batch": (InvalidRequest, "embeddings.count: 0", lambda: {"embeddings": vector_pb2.EmbeddingBatch()}),
    "bytes missing": (
        InvalidRequest,
        "embeddings.values: 4 bytes",
        lambda: {"embeddings": vector_pb2.EmbeddingBatch(count=1, dim=INPUT_DIM, values=b"abcd")},
    ),
    "wrong dimension": (InvalidVector, "embeddings.dim: 15", lambda: {"embeddings": packed(dim=15)}),
    "NaN": (InvalidVector, r"embeddings\[1\]", lambda: {"embeddings": packed(row_1=float("nan"))}),
    "infinity": (InvalidVector, r"embeddings\[2\]", lambda: {"embeddings": packed(row_2=float("-inf"))}),
    "zeros": (InvalidVector, r"embeddings\[0\]: all zeros", lambda: {"embeddings": packed(row_0=0.0)}),
    "too many rows": (
        LimitExceeded,
        f"at most {limits.VECTORS_PER_ENCODE_MAX}",
        lambda: {"embeddings": packed(limits.VECTORS_PER_ENCODE_MAX + 1)},
    ),
    "too many bytes": (
        LimitExceeded,
        f"at most {limits.REQUEST_BYTES_MAX}",
        lambda: {"embeddings": packed(1, limits.REQUEST_BYTES_MAX // 4)},
    ),
    "k too large": (LimitExceeded, "k: 33, .* has 1..32", lambda: {"embeddings": packed(), "k": 33}),
    "long model name": (
        LimitExceeded,
        "model.name: 251 bytes",
        lambda: {"model": model("m" * 251), "embeddings": packed()},
    ),
    "unknown model": (UnknownVersion, "'nobody'", lambda: {"model": model("nobody"), "embeddings": packed()}),
    "unknown version": (UnknownVersion, "version 99", lambda: {"model": model(version=99), "embeddings": packed()}),
    "unknown alias": (UnknownVersion, "'nope'", lambda: {"model": model(alias="nope"), "embeddings": packed()}),
    "texts for a model of no backbone": (
        WrongState,
        "trained on an unknown backbone",
        lambda: {"texts": vector_pb2.TextBatch(texts=["a"])},
    ),
    "no texts": (InvalidRequest, "texts", lambda: {"model": model(TEXT_MODEL), "texts": vector_pb2.TextBatch()}),
    "empty text": (
        InvalidRequest,
        r"texts\[1\]",
        lambda: {"model": model(TEXT_MODEL), "texts": vector_pb2.TextBatch(texts=["a", ""])},
    ),
    "long text": (
        LimitExceeded,
        f"tokens, the limit is {MAX_TOKENS}",
        lambda: {"model": model(TEXT_MODEL), "texts": vector_pb2.TextBatch(texts=["word " * 40])},
    ),
    "huge text": (
        LimitExceeded,
        f"at most {limits.TEXT_BYTES_MAX}",
        lambda: {"model": model(TEXT_MODEL), "texts": vector_pb2.TextBatch(texts=["w" * (limits.TEXT_BYTES_MAX + 1)])},
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_bad_requests_name_the_field_and_the_limit(encoder: RunningEncoder, case: str) -> None:
    """Users could not tell from the answer what to fix."""
    error, message, fields = REFUSALS[case]
    with pytest.raises(error, match=message):
        encoder.encode(**fields())


def test_health_tells_a_silent_port_from_an_encoder(encoder: RunningEncoder) -> None:
    """`csr up` would report ready before it is, or never."""
    assert encoder_not_ready(encoder.address) is None
    reason = encoder_not_ready(f"127.0.0.1:{free_port()}")
    assert reason is not None
    assert "UNAVAILABLE" in reason


def test_metrics_reach_the_node_of_ray(encoder: RunningEncoder, ray_cluster: RayCluster) -> None:
    """Dashboards and alerts would stay empty."""
    encoder.encode(embeddings=packed(7))
    expected = {f"ray_{spec.name}" for spec in metrics.ALL if spec.process == "encoder"}

    def missing() -> set[str]:
        with urllib.request.urlopen(f"http://{ray_cluster.metrics_address}/metrics", timeout=5) as page:
            families = {line.split()[2] for line in page.read().decode().splitlines() if line.startswith("# TYPE")}
        return expected - families

    deadline = time.monotonic() + 60
    while (absent := missing()) and time.monotonic() < deadline:
        time.sleep(1)
    assert not absent


def test_a_killed_replica_costs_no_request(encoder: RunningEncoder, ray_cluster: RayCluster) -> None:
    """Search would fail whenever a replica crashes, although another one is there."""
    stop = threading.Event()

    def call_until_stopped() -> int:
        answered = 0
        while not stop.is_set():
            encoder.encode(embeddings=packed(200))
            answered += 1
        return answered

    before = ray_cluster.processes(REPLICA)
    assert len(before) == 2
    with ThreadPoolExecutor(4) as threads:
        callers = [threads.submit(call_until_stopped) for _ in range(4)]
        time.sleep(1)
        os.kill(before[0].pid, signal.SIGKILL)
        time.sleep(3)
        stop.set()
        assert all(caller.result() > 0 for caller in callers)
    while len(set(ray_cluster.processes(REPLICA)) - {before[0]}) < 2:
        time.sleep(0.2)
