"""What the local stack consists of: for each process its command, its environment and how to tell that it is ready."""

import os
import socket
import sys
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import redis
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.encoder.environment import local_serve_environment, ray_authentication
from services.encoder.health import encoder_not_ready
from services.index.store.placement import IndexServer
from services.runtime.redis_binary import find_redis_server
from services.runtime.settings import Settings

PROBE_SECONDS = 1.0


@dataclass(frozen=True)
class Component:
    """One process of the stack."""

    name: str
    command: Sequence[str]
    address: str
    ports: Sequence[int]
    """Ports that must be free before it starts."""
    not_ready: Callable[[], str | None]
    """Why the process does not serve yet; None once it does."""
    prepare: Callable[[], Mapping[str, str]] = dict
    """Makes its folders and returns its variables; called at its start only, some of them are ports free by then."""
    grace_seconds: float = 15.0
    outlives_process: bool = False
    """Whether it goes on serving when its process is killed; the next process takes it over."""


def components(settings: Settings) -> list[Component]:
    """Return the processes of the stack, in the order of their start."""
    parts: list[Component] = []
    if starts_redis(settings):
        parts.append(_redis(settings))
    if starts_ray():
        parts.append(_ray(settings))
    parts.append(_encoder(settings))
    parts.extend(_index_server(settings, number) for number in range(settings.stack.index_servers))
    parts.append(_router(settings))
    return parts


def starts_redis(settings: Settings) -> bool:
    """Whether the stack runs a Redis of its own: yes, unless REDIS_URL is set or the URL can only be another one's.

    That is a URL of another machine, of a socket, with TLS or with a password: the stack's own Redis has none of these.
    """
    url = urlsplit(settings.redis.url)
    plain = url.scheme == "redis" and url.password is None
    return "REDIS_URL" not in os.environ and plain and _is_loopback(url.hostname)


def starts_ray() -> bool:
    """Whether the stack runs a Ray cluster of its own: yes, unless RAY_ADDRESS names one."""
    return "RAY_ADDRESS" not in os.environ


def ray_environment(settings: Settings) -> dict[str, str]:
    """Variables by which a driver finds the Ray cluster in use, and is let in."""
    if not starts_ray():
        return {"RAY_ADDRESS": os.environ["RAY_ADDRESS"]}
    folder = ray_folder(settings)
    folder.mkdir(mode=0o700, exist_ok=True)
    return {"RAY_ADDRESS": f"127.0.0.1:{settings.stack.ray_port}", **ray_authentication(folder)}


def index_servers(settings: Settings) -> tuple[IndexServer, ...]:
    """The placement of the stack: names and addresses of its index servers."""
    return tuple(
        IndexServer(name=f"index-{number}", address=f"127.0.0.1:{settings.index.port + number}")
        for number in range(settings.stack.index_servers)
    )


def common_environment(settings: Settings) -> dict[str, str]:
    """Variables that make every process of the stack see these settings."""
    return {
        "CSR_DATA_DIR": str(settings.data_dir),
        "CSR_CACHE_DIR": str(settings.cache_dir),
        "CSR_ENCODER__ADDRESS": f"127.0.0.1:{settings.encoder.port}",
        "REDIS_URL": settings.redis.url,
        "MLFLOW_TRACKING_URI": settings.registry_uri,
        **ray_environment(settings),
    }


def _is_loopback(host: str | None) -> bool:
    if host is None or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _redis(settings: Settings) -> Component:
    folder = settings.data_dir / "redis"
    port = urlsplit(settings.redis.url).port or 6379
    options = {
        "port": port,
        "bind": "127.0.0.1",
        "dir": folder,
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]

    def not_ready() -> str | None:
        try:
            with redis.Redis.from_url(settings.redis.url, socket_timeout=PROBE_SECONDS) as client:
                client.ping()
        except redis.RedisError as error:
            return str(error)
        return None

    def prepare() -> Mapping[str, str]:
        folder.mkdir(parents=True, exist_ok=True)
        return {}

    command = [str(find_redis_server()), *arguments]
    return Component("redis", command, f"127.0.0.1:{port}", [port], not_ready, prepare, grace_seconds=30.0)


def _ray(settings: Settings) -> Component:
    stack = settings.stack
    options = {
        "node-ip-address": "127.0.0.1",
        "port": stack.ray_port,
        "dashboard-port": stack.ray_dashboard_port,
        "metrics-export-port": stack.ray_metrics_port,
        "dashboard-agent-listen-port": _free_port(),
        "ray-client-server-port": _free_port(),
        "num-cpus": max(4, os.cpu_count() or 1),  # encoder replicas and two training workers fit side by side
        "object-store-memory": 256 << 20,
        "temp-dir": ray_folder(settings),
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    ports = [stack.ray_port, stack.ray_dashboard_port, stack.ray_metrics_port]

    def not_ready() -> str | None:
        for port in (stack.ray_port, stack.ray_dashboard_port):
            if not _answers(port):
                return f"port {port} does not answer yet"
        return None

    def prepare() -> Mapping[str, str]:
        return {**local_serve_environment(ray_folder(settings)), "RAY_ADDRESS": ""}

    return Component("ray", [*command, *arguments], f"127.0.0.1:{stack.ray_port}", ports, not_ready, prepare)


def ray_folder(settings: Settings) -> Path:
    """Where the stack's Ray keeps its sockets and logs; short, because socket paths end at 107 bytes."""
    return Path(tempfile.gettempdir()) / f"csr-ray-{zlib.crc32(str(settings.data_dir).encode()):08x}"


def _encoder(settings: Settings) -> Component:
    encoder = settings.encoder
    return Component(
        "encoder",
        [sys.executable, "-m", "services.encoder"],
        f"127.0.0.1:{encoder.port}",
        [encoder.port, encoder.http_port],
        lambda: encoder_not_ready(f"127.0.0.1:{encoder.port}"),
        grace_seconds=30.0,
        outlives_process=True,  # its replicas are Ray's
    )


def _index_server(settings: Settings, number: int) -> Component:
    index = settings.index
    port, metrics_port = index.port + number, index.metrics_port + number
    address = f"127.0.0.1:{port}"
    return Component(
        f"index-{number}",
        [sys.executable, "-m", "services.index"],
        address,
        [port, metrics_port],
        lambda: health_not_ready(address),
        lambda: {
            "CSR_INDEX__NAME": f"index-{number}",
            "CSR_INDEX__PORT": str(port),
            "CSR_INDEX__METRICS_PORT": str(metrics_port),
            "CSR_INDEX__SNAPSHOT_DIR": str(index.snapshot_dir or settings.data_dir / "snapshots"),
        },
    )


def _router(settings: Settings) -> Component:
    router = settings.router
    address = f"127.0.0.1:{router.port}"
    return Component(
        "router",
        [sys.executable, "-m", "services.router"],
        address,
        [router.port, router.metrics_port],
        lambda: health_not_ready(address),
    )


def health_not_ready(address: str) -> str | None:
    """Ask a process of ours for its gRPC health; returns why it does not serve, None when it does."""
    with grpc.insecure_channel(address, options=[("grpc.enable_retries", 0)]) as channel:
        try:
            request = health_pb2.HealthCheckRequest()
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=PROBE_SECONDS)
        except grpc.RpcError as error:
            return str(error.details() if isinstance(error, grpc.Call) else error)
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        return None
    return "not serving yet"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(PROBE_SECONDS)
        return probe.connect_ex(("127.0.0.1", port)) == 0
