"""Kubernetes manifests, rendered and checked offline: against schemas, as strictly as no API server does."""

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from jsonschema import Draft202012Validator
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

Manifest = dict[str, Any]
Crds = Mapping[tuple[str, str], Draft202012Validator]
"""(apiVersion, kind) → the schema of that kind."""

KUBERNETES_VERSIONS = ("1.32", kubernetes_validate.latest_version())
"""Oldest release that the manifests support, and the newest one with a schema."""

_FREE_FORM = frozenset({"args", "user_config", "runtime_env"})
"""Keys of a Serve config whose contents are the application's own."""


class RenderError(Exception):
    """kubectl refused the folder; the text is what it said."""


def kubectl() -> str | None:
    """Return where kubectl is, None when it is not installed."""
    return shutil.which("kubectl")


def render(folder: Path) -> list[Manifest]:
    """Return what `kubectl kustomize` makes of a folder.

    Raises:
        RenderError: it refuses.
    """
    rendered = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    if rendered.returncode:
        raise RenderError(rendered.stderr.strip())
    return list(yaml.safe_load_all(rendered.stdout))


def load_crds(folder: Path) -> Crds:
    """Return the schemas in a folder of CustomResourceDefinition files, made strict: unknown fields are errors."""
    schemas = {}
    for file in sorted(folder.glob("*.yaml")):
        crd = yaml.load(file.read_text(), yaml.CSafeLoader)  # the pure Python one takes seconds
        for version in crd["spec"]["versions"]:
            schema = _strict(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            key = (f"{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["kind"])
            schemas[key] = Draft202012Validator(schema)
    return schemas


def problems(manifest: Manifest, crds: Crds) -> list[str]:
    """Return what is wrong with a manifest by its schema; a kind without a schema is a problem, too."""
    crd = crds.get((manifest["apiVersion"], manifest["kind"]))
    if crd is None:
        return [problem for version in KUBERNETES_VERSIONS for problem in _core_problems(manifest, version)]
    found = [f"{_path(error.absolute_path)}: {error.message}" for error in crd.iter_errors(manifest)]
    if "serveConfigV2" in manifest["spec"]:
        found += serve_config_problems(manifest["spec"]["serveConfigV2"])
    return found


def serve_config_problems(text: str) -> list[str]:
    """Return what Ray Serve would refuse in a config, and the keys that it would silently ignore."""
    given = yaml.safe_load(text)
    try:
        understood = ServeDeploySchema.model_validate(given).model_dump(exclude_unset=True)
    except ValidationError as error:
        return [f"serveConfigV2.{_path(problem['loc'])}: {problem['msg']}" for problem in error.errors()]
    return [f"serveConfigV2{key}: Ray Serve knows no such key" for key in _ignored(given, understood)]


def name_of(manifest: Manifest) -> str:
    """Return kind/name."""
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


def pod_templates(manifest: Manifest) -> dict[str, Manifest]:
    """Return the pod templates of any kind that has some, by a name for messages."""
    name, spec = name_of(manifest), manifest.get("spec", {})
    templates = {f"{name} {group.get('groupName', 'head')}": group["template"] for group in ray_groups(manifest)}
    for key in ("template", "submitterPodTemplate"):
        if key in spec:
            templates[f"{name} {key}"] = spec[key]
    return templates


def ray_groups(manifest: Manifest) -> list[Manifest]:
    """Return head group and worker groups of a KubeRay kind; none for other kinds."""
    spec = manifest.get("spec", {})
    cluster = spec.get("rayClusterConfig") or spec.get("rayClusterSpec")
    return [cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])] if cluster else []


def containers(manifest: Manifest) -> dict[str, Manifest]:
    """Return all containers of a manifest, by a name for messages."""
    return {
        f"{name} {container['name']}": container
        for name, template in pod_templates(manifest).items()
        for key in ("initContainers", "containers")
        for container in template["spec"].get(key, [])
    }


def quantity(text: str | int) -> float:
    """Return a Kubernetes quantity, such as 250m or 4Gi, as a number."""
    units = {"m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
    for unit, factor in units.items():
        if str(text).endswith(unit):
            return float(str(text).removesuffix(unit)) * factor
    return float(text)


def _core_problems(manifest: Manifest, version: str) -> list[str]:
    try:
        kubernetes_validate.validate(manifest, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{_path(error.absolute_path)}: {error.message} (Kubernetes {version})"]
    except kubernetes_validate.SchemaNotFoundError as error:
        return [str(error.message)]
    return []


def _strict(node: Any) -> Any:
    """Return an OpenAPI schema of Kubernetes as a JSON schema that refuses what it does not name."""
    if isinstance(node, list):
        return [_strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    schema = {key: _strict(value) for key, value in node.items()}
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("anyOf", None)
        schema["type"] = ["integer", "string"]
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    return schema


def _ignored(given: Any, understood: Any, path: str = "") -> Iterator[str]:
    if isinstance(given, dict) and isinstance(understood, dict):
        for key, value in given.items():
            if key not in understood:
                yield f"{path}.{key}"
            elif key not in _FREE_FORM:
                yield from _ignored(value, understood[key], f"{path}.{key}")
    elif isinstance(given, list) and isinstance(understood, list):
        for position, (one, other) in enumerate(zip(given, understood, strict=True)):
            yield from _ignored(one, other, f"{path}[{position}]")


def _path(parts: Any) -> str:
    return ".".join(str(part) for part in parts) or "(top)"
