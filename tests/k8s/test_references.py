"""Every name in a manifest exists: objects, ports, settings, modules, commands and what Ray is told to import."""

import importlib.util
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow.cli
import mlflow.environment_variables
import pytest
import typer
import yaml
from mlflow.server.security_utils import is_allowed_host_header
from ray import serve

from orchestration.cli import app as csr
from orchestration.data.catalog import MINILM_NAME
from services.encoder import app as encoder_app
from services.encoder.environment import RAY_SERVE_ENVIRONMENT
from services.runtime.encoder_channel import ENCODER_APPLICATION
from services.runtime.settings import CONFIG_VARIABLE, Settings
from tests.k8s.conftest import BASE, ROOT
from tests.support.manifests import Manifest, containers, pod_templates, quantity, ray_groups

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IMAGE = f"csr-service:{PROJECT['version']}"
DOCKERFILE = (ROOT / "k8s" / "images" / "Dockerfile").read_text()


def _all_containers(base: Mapping[str, Manifest]) -> dict[str, Manifest]:
    return {name: container for manifest in base.values() for name, container in containers(manifest).items()}


def _all_templates(base: Mapping[str, Manifest]) -> dict[str, Manifest]:
    return {name: template for manifest in base.values() for name, template in pod_templates(manifest).items()}


def _ports(container: Manifest) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container.get("ports", [])}


def _only(manifest: Manifest) -> Manifest:
    (container,) = containers(manifest).values()
    return container


def _services(base: Mapping[str, Manifest]) -> Iterator[Manifest]:
    return (manifest for name, manifest in base.items() if name.startswith("Service/"))


def test_every_volume_that_is_mounted_exists(base: Mapping[str, Manifest]) -> None:
    """A pod would never start: its volume, ConfigMap or claim does not exist."""
    for name, template in _all_templates(base).items():
        volumes = {volume["name"]: volume for volume in template["spec"].get("volumes", [])}
        claimed = {
            claim["metadata"]["name"]
            for claim in base.get("StatefulSet/" + name.split()[0].rpartition("/")[2], {})
            .get("spec", {})
            .get("volumeClaimTemplates", [])
        }
        for container in template["spec"]["containers"]:
            for mount in container["volumeMounts"]:
                assert mount["name"] in volumes.keys() | claimed, name
        for volume in volumes.values():
            if "configMap" in volume:
                assert f"ConfigMap/{volume['configMap']['name']}" in base, name
            if "persistentVolumeClaim" in volume:
                assert f"PersistentVolumeClaim/{volume['persistentVolumeClaim']['claimName']}" in base, name


def test_services_select_pods_that_have_their_ports(base: Mapping[str, Manifest]) -> None:
    """A Service would have no endpoints, or send to a port where nobody listens."""
    for service in _services(base):
        selector = service["spec"]["selector"].items()
        selected = [
            template["spec"]["containers"][0]
            for template in _all_templates(base).values()
            if selector <= template["metadata"]["labels"].items()
        ]
        assert len(selected) == 1, service["metadata"]["name"]
        for port in service["spec"]["ports"]:
            assert _ports(selected[0])[port["targetPort"]] == port["port"]


def test_containers_open_the_ports_of_the_settings(base: Mapping[str, Manifest], settings: Settings) -> None:
    """Probes and Services would ask a port that the process does not open."""
    router, index = _ports(_only(base["Deployment/router"])), _ports(_only(base["StatefulSet/index"]))
    assert router == {"grpc": settings.router.port, "metrics": settings.router.metrics_port}
    assert index == {"grpc": settings.index.port, "metrics": settings.index.metrics_port}
    for container in containers(base["RayService/encoder"]).values():
        ports = _ports(container)
        assert (ports["serve"], ports["serve-grpc"]) == (settings.encoder.http_port, settings.encoder.port)


def test_servers_listen_beyond_their_own_pod(settings: Settings) -> None:
    """Every process would be healthy and none could be reached: the defaults listen on 127.0.0.1."""
    assert {settings.router.host, settings.index.host, settings.encoder.host} == {"0.0.0.0"}


def test_settings_name_services_that_exist(base: Mapping[str, Manifest], settings: Settings) -> None:
    """Processes would look for Redis, MLflow or the encoder where nobody is."""
    redis, registry = urlsplit(settings.redis.url), urlsplit(settings.registry.uri)
    offered = {
        (service["metadata"]["name"], port["port"]) for service in _services(base) for port in service["spec"]["ports"]
    }
    assert {(redis.hostname, redis.port), (registry.hostname, registry.port)} <= offered
    # KubeRay makes this Service, named after the RayService, with the ports whose names begin with serve.
    encoder = base["RayService/encoder"]
    workers = containers(encoder)["RayService/encoder encoder ray-worker"]
    assert settings.encoder.address == f"{encoder['metadata']['name']}-serve-svc:{_ports(workers)['serve-grpc']}"


def test_mlflow_accepts_the_host_that_processes_ask_for(base: Mapping[str, Manifest], settings: Settings) -> None:
    """MLflow would answer every process with 403."""
    (allowed,) = (
        argument.partition("=")[2].split(",")
        for argument in _only(base["Deployment/mlflow"])["args"]
        if argument.startswith("--allowed-hosts=")
    )
    assert is_allowed_host_header(allowed, urlsplit(settings.registry.uri).netloc)
    assert not is_allowed_host_header(allowed, "elsewhere.example.com")


def test_placement_names_every_index_server_by_its_pod(base: Mapping[str, Manifest], settings: Settings) -> None:
    """Partitions would belong to servers that do not run, and searches would never be complete."""
    index = base["StatefulSet/index"]
    name, service = index["metadata"]["name"], index["spec"]["serviceName"]
    pods = [f"{name}-{number}" for number in range(index["spec"]["replicas"])]
    placed = _only(base["Job/placement"])["args"]
    assert placed == [f"{pod}={pod}.{service}:{settings.index.port}" for pod in pods]
    own_name = next(entry for entry in _only(index)["env"] if entry["name"] == "CSR_INDEX__NAME")
    assert own_name["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert base[f"Service/{service}"]["spec"]["clusterIP"] == "None"


def test_environment_variables_are_known_to_who_reads_them(base: Mapping[str, Manifest]) -> None:
    """A misspelt variable changes nothing and tells nobody."""
    for name, container in _all_containers(base).items():
        for variable in (entry["name"] for entry in container.get("env", [])):
            if variable.startswith("CSR_") and variable != CONFIG_VARIABLE:
                section, field = variable.removeprefix("CSR_").lower().split("__")
                assert field in type(Settings.model_fields[section].default).model_fields, name
            elif variable.startswith("RAY_"):
                assert variable in RAY_SERVE_ENVIRONMENT, name
            elif variable.startswith("MLFLOW_"):
                assert hasattr(mlflow.environment_variables, variable), name
            else:
                assert variable == CONFIG_VARIABLE, name


def test_every_encoder_node_has_the_environment_that_ray_serve_needs(base: Mapping[str, Manifest]) -> None:
    """A node without it would fall back to Ray's Python proxy, at a tenth of the throughput."""
    for name, container in containers(base["RayService/encoder"]).items():
        environment = {entry["name"]: entry["value"] for entry in container["env"]}
        assert environment.items() >= RAY_SERVE_ENVIRONMENT.items(), name


def test_the_settings_file_is_where_processes_look_for_it(base: Mapping[str, Manifest]) -> None:
    """A process would stop at once: no such file; or it would run on the defaults of one machine."""
    for name, template in _all_templates(base).items():
        for container in template["spec"]["containers"]:
            path = {entry["name"]: entry.get("value") for entry in container.get("env", [])}.get(CONFIG_VARIABLE)
            if path is None:
                assert "mlflow" in name or "redis" in name or "submitter" in name, name
                continue
            (volume,) = (m["name"] for m in container["volumeMounts"] if m["mountPath"] == str(Path(path).parent))
            (source,) = (v for v in template["spec"]["volumes"] if v["name"] == volume)
            assert Path(path).name in base[f"ConfigMap/{source['configMap']['name']}"]["data"], name


@pytest.mark.parametrize("name", ["StatefulSet/index", "Deployment/router"])
def test_the_processes_accept_the_settings_file(base: Mapping[str, Manifest], name: str) -> None:
    """The module does not exist, or refuses the file: the container would restart for ever."""
    python, *arguments = _words(_only(base[name]))
    assert python == "python"
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}",
        CONFIG_VARIABLE: str(BASE / "config" / "csr.toml"),
    }
    command = [sys.executable, *arguments, "--check-config"]
    checked = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def _words(container: Manifest) -> list[str]:
    """Return the program that a container runs and its arguments; of a shell, what it becomes."""
    words = [*container.get("command", []), *container.get("args", [])]
    return words[2].partition("exec ")[2].split() if words[:2] == ["sh", "-c"] else words


def _commands(base: Mapping[str, Manifest]) -> list[list[str]]:
    started = [_words(container) for container in _all_containers(base).values()]
    submitted = [part.split() for part in base["RayJob/train"]["spec"]["entrypoint"].split("&&")]
    return [command for command in (*started, *submitted) if command]


def _parse(command: Any, words: Sequence[str]) -> None:
    """Parse as the program itself would, without running it; raises click's errors."""
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    command.make_context(command.name, list(words)).close()


def test_commands_exist_with_their_options(base: Mapping[str, Manifest]) -> None:
    """A container would end with a usage message, and Kubernetes would start it again and again."""
    groups = {"csr": typer.main.get_command(csr), "mlflow": mlflow.cli.cli}
    seen = set()
    for program, *words in _commands(base):
        seen.add(program)
        if program in groups:
            _parse(groups[program], words)
        elif program == "python":
            assert words[0] == "-m"
            assert importlib.util.find_spec(f"{words[1]}.__main__") is not None, words
        else:
            assert program == "valkey-server"
    assert seen == {"csr", "mlflow", "python", "valkey-server"}


def test_the_compiled_kernels_of_the_image_are_where_numba_looks(base: Mapping[str, Manifest]) -> None:
    """Every index server would compile for a minute when it starts, and hold up a rolling update each time."""
    assert "RUN NUMBA_CACHE_DIR=/opt/numba csr warmup\n" in DOCKERFILE
    assert "COPY --from=build /opt/numba /opt/numba\n" in DOCKERFILE
    assert " NUMBA_CACHE_DIR=/tmp/numba " in DOCKERFILE
    assert "|| cp -R /opt/numba /tmp;" in _only(base["StatefulSet/index"])["command"][2]


def test_a_command_that_does_not_exist_is_noticed() -> None:
    """The test above could not fail."""
    with pytest.raises(KeyError):
        _parse(typer.main.get_command(csr), ["tran"])
    with pytest.raises(Exception, match="--hst"):
        _parse(mlflow.cli.cli, ["server", "--hst=0.0.0.0"])


def test_serve_deploys_the_encoder_that_the_code_builds(
    base: Mapping[str, Manifest], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray could not import the application, or would serve it under a name or port that routers do not ask for."""
    config = yaml.safe_load(base["RayService/encoder"]["spec"]["serveConfigV2"])
    (application,) = config["applications"]
    module, _, builder = application["import_path"].partition(":")
    monkeypatch.setenv(CONFIG_VARIABLE, str(BASE / "config" / "csr.toml"))
    built = getattr(importlib.import_module(module), builder)({})
    assert isinstance(built, serve.Application)
    assert (application["name"], application["route_prefix"]) == (ENCODER_APPLICATION, f"/{ENCODER_APPLICATION}")
    grpc = encoder_app.grpc_options(settings.encoder)
    assert config["grpc_options"] == {name: getattr(grpc, name) for name in config["grpc_options"]}
    assert set(config["grpc_options"]) == {"port", "grpc_servicer_functions", "request_timeout_s"}
    http = encoder_app.http_options(settings.encoder)
    assert config["http_options"] == {"host": http.host, "port": http.port}
    for function in grpc.grpc_servicer_functions:
        stubs, _, name = function.rpartition(".")
        assert callable(getattr(importlib.import_module(stubs), name))


def test_ray_clusters_have_room_for_what_runs_on_them(base: Mapping[str, Manifest], settings: Settings) -> None:
    """Replicas or training workers would wait for CPUs that never come."""
    cpus = {}
    for name in ("RayService/encoder", "RayJob/train"):
        head, *workers = ray_groups(base[name])
        assert head["rayStartParams"]["num-cpus"] == "0", "Serve and Train would run on the head"
        cpus[name] = sum(group["replicas"] * float(group["rayStartParams"]["num-cpus"]) for group in workers)
        for group in workers:
            (container,) = group["template"]["spec"]["containers"]
            assert float(group["rayStartParams"]["num-cpus"]) <= quantity(container["resources"]["requests"]["cpu"])
    assert cpus["RayService/encoder"] >= settings.encoder.replicas * settings.encoder.replica_cpus
    assert cpus["RayJob/train"] >= settings.training.workers * settings.training.worker_cpus


def test_training_keeps_its_data_on_the_shared_volume(base: Mapping[str, Manifest], settings: Settings) -> None:
    """Workers could not see the data, and a restarted one no checkpoint."""
    for group in ray_groups(base["RayJob/train"]):
        (container,) = group["template"]["spec"]["containers"]
        mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert mounted[str(settings.data_dir)] == "data"
        (volume,) = (v for v in group["template"]["spec"]["volumes"] if v["name"] == "data")
        assert volume["persistentVolumeClaim"]["claimName"] == "train"
    assert settings.cache_dir.is_relative_to(settings.data_dir)


def test_all_of_our_containers_run_the_image_of_this_version(base: Mapping[str, Manifest]) -> None:
    """A cluster would run another release than the manifests are for."""
    images = {container["image"] for container in _all_containers(base).values()}
    assert {image for image in images if image.startswith("csr-service")} == {IMAGE}
    assert IMAGE in DOCKERFILE


def test_the_image_holds_what_manifests_and_settings_expect(base: Mapping[str, Manifest], settings: Settings) -> None:
    """KubeRay would start another Ray than the image has, or the encoder would find no backbone."""
    versions = {
        (manifest["spec"].get("rayClusterConfig") or manifest["spec"]["rayClusterSpec"])["rayVersion"]
        for name, manifest in base.items()
        if name.startswith("Ray")
    }
    (version,) = versions
    assert f"ARG RAY_VERSION={version}\n" in DOCKERFILE
    (torch,) = (requirement for requirement in PROJECT["dependencies"] if requirement.startswith("torch"))
    assert f'"{torch}"' in DOCKERFILE
    backbone = settings.encoder.backbone
    assert backbone is not None
    assert backbone.name == MINILM_NAME
    assert f"Path('{backbone.parent}', MINILM_NAME)" in DOCKERFILE
    for line in DOCKERFILE.splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            assert all((ROOT / source).exists() for source in line.split()[1:-1]), line
