"""Probes ask what our servers answer."""

from collections.abc import Mapping
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.runtime.lifecycle import GrpcHost, HostOptions
from tests.support.manifests import Manifest, containers

SERVING = health_pb2.HealthCheckResponse.SERVING
SERVERS = ["Deployment/router", "StatefulSet/index"]


async def _passes(probe: Mapping[str, Any], port: int) -> bool:
    """Whether a native gRPC probe passes, by the rule of the kubelet: OK and SERVING."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        request = health_pb2.HealthCheckRequest(service=probe["grpc"].get("service", ""))
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=probe["timeoutSeconds"])
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == SERVING)


@pytest.mark.parametrize("name", SERVERS)
async def test_a_server_that_loads_gets_no_requests_but_lives(base: Mapping[str, Manifest], name: str) -> None:
    """Kubernetes would kill an index server that loads a large collection, again and again."""
    (container,) = containers(base[name]).values()
    host = GrpcHost(HostOptions("127.0.0.1", 0, 0, concurrent_requests=8, drain_seconds=0.0, reflection=False))
    await host.start([])
    try:
        assert not await _passes(container["readinessProbe"], host.port)
        assert await _passes(container["livenessProbe"], host.port)
        await host.set_ready(True)
        assert await _passes(container["readinessProbe"], host.port)
    finally:
        await host.stop()


@pytest.mark.parametrize("name", SERVERS)
def test_probes_ask_the_grpc_port(base: Mapping[str, Manifest], name: str) -> None:
    """The pod would never become ready, or be killed."""
    (container,) = containers(base[name]).values()
    (port,) = (port["containerPort"] for port in container["ports"] if port["name"] == "grpc")
    assert {container[probe]["grpc"]["port"] for probe in ("readinessProbe", "livenessProbe")} == {port}


def test_named_probe_ports_exist(base: Mapping[str, Manifest]) -> None:
    """The kubelet would refuse the probe, and the pod would never become ready."""
    for manifest in base.values():
        for name, container in containers(manifest).items():
            ports = {port["name"] for port in container.get("ports", [])}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                for kind in ("httpGet", "tcpSocket"):
                    if kind in container.get(probe, {}):
                        assert container[probe][kind]["port"] in ports, name
