"""What every pod must have, whoever adds the next one: least privilege, limits, and time to stop."""

from collections.abc import Mapping

import pytest

from services.runtime.settings import Settings
from tests.k8s.conftest import ROOT
from tests.support.manifests import Manifest, containers, pod_templates, quantity

OUR_USER = 10001


def _templates(base: Mapping[str, Manifest]) -> dict[str, Manifest]:
    return {name: template for manifest in base.values() for name, template in pod_templates(manifest).items()}


def test_pods_run_without_privileges(base: Mapping[str, Manifest]) -> None:
    """Namespaces that enforce the restricted Pod Security Standard would refuse the pod."""
    for name, template in _templates(base).items():
        pod = template["spec"]
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] > 0, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name


def test_pods_run_as_the_user_of_the_image(base: Mapping[str, Manifest]) -> None:
    """Files of the image would belong to somebody else than the process."""
    assert f"USER {OUR_USER}:{OUR_USER}\n" in (ROOT / "k8s" / "images" / "Dockerfile").read_text()
    for name, template in _templates(base).items():
        if any(container["image"].startswith("csr-service") for container in template["spec"]["containers"]):
            assert template["spec"]["securityContext"]["runAsUser"] == OUR_USER, name


def test_read_only_roots_leave_a_place_to_write(base: Mapping[str, Manifest]) -> None:
    """Python, Ray and numba would fail at their first temporary file."""
    for name, template in _templates(base).items():
        volumes = {volume["name"]: volume for volume in template["spec"].get("volumes", [])}
        for container in template["spec"]["containers"]:
            if not container["image"].startswith("csr-service"):
                continue
            (tmp,) = (mount["name"] for mount in container["volumeMounts"] if mount["mountPath"] == "/tmp")
            assert quantity(volumes[tmp]["emptyDir"]["sizeLimit"]) > 0, name


def test_containers_say_what_they_need_and_stop_at_a_limit(base: Mapping[str, Manifest]) -> None:
    """One leak would take a whole node down, and the scheduler could not know better."""
    for manifest in base.values():
        for name, container in containers(manifest).items():
            requests, limits = container["resources"]["requests"], container["resources"]["limits"]
            assert quantity(requests["cpu"]) > 0, name
            assert 0 < quantity(requests["memory"]) <= quantity(limits["memory"]), name


def test_shared_memory_holds_ray_s_object_store(base: Mapping[str, Manifest]) -> None:
    """Ray would put its objects on disk, or be killed when they outgrow the volume."""
    for name in ("RayService/encoder", "RayJob/train"):
        spec = base[name]["spec"]
        cluster = spec.get("rayClusterConfig") or spec["rayClusterSpec"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            pod = group["template"]["spec"]
            (shm,) = (v["emptyDir"] for v in pod["volumes"] if v["name"] == "shared-memory")
            assert "/dev/shm" in {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
            assert shm["medium"] == "Memory"
            store, size = int(group["rayStartParams"]["object-store-memory"]), quantity(shm["sizeLimit"])
            assert store < size < quantity(pod["containers"][0]["resources"]["limits"]["memory"])


@pytest.mark.parametrize("name", ["Deployment/router", "StatefulSet/index"])
def test_pods_have_time_to_drain(base: Mapping[str, Manifest], settings: Settings, name: str) -> None:
    """Kubernetes would kill the process while it answers its last requests."""
    pod = base[name]["spec"]["template"]["spec"]
    sleep = pod["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    drain = settings.router.drain_seconds if "router" in name else settings.index.drain_seconds
    assert pod["terminationGracePeriodSeconds"] >= sleep + drain + 5


@pytest.mark.parametrize("name", ["Deployment/router", "StatefulSet/index"])
def test_drained_nodes_take_one_server_at_a_time(base: Mapping[str, Manifest], name: str) -> None:
    """A node upgrade would take down all routers, or all owners of a partition, at once."""
    workload = base[name]
    budget = base[f"PodDisruptionBudget/{workload['metadata']['name']}"]["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"] == workload["spec"]["selector"]
    assert workload["spec"]["replicas"] >= 2


def test_encoder_upgrades_beside_the_old_cluster(base: Mapping[str, Manifest]) -> None:
    """A changed setting would stop encoding until the new cluster is up; or requests would reach the head."""
    spec = base["RayService/encoder"]["spec"]
    assert spec["upgradeStrategy"] == {"type": "NewCluster"}
    assert spec["excludeHeadPodFromServeSvc"] is True


@pytest.mark.parametrize("name", ["RayService/encoder", "RayJob/train"])
def test_ray_runs_code_for_holders_of_its_token_only(base: Mapping[str, Manifest], name: str) -> None:
    """Any pod in the cluster could run any code on the encoder or in training."""
    spec = base[name]["spec"]
    cluster = spec.get("rayClusterConfig") or spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
