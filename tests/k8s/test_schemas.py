"""Every manifest fits its schema, and the checker that says so notices what it must."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from tests.support.manifests import Crds, Manifest, RenderError, kubectl, problems, render, serve_config_problems

KUBERAY_KINDS = ("RayService/encoder", "RayJob/train")


def test_the_base_holds_every_part_of_the_system(base: Mapping[str, Manifest]) -> None:
    """A cluster would lack a service without anybody being told."""
    assert {
        "RayService/encoder",
        "RayJob/train",
        "StatefulSet/index",
        "Deployment/router",
        "StatefulSet/redis",
        "Deployment/mlflow",
        "Job/placement",
    } <= set(base)


def test_core_kinds_fit_their_schemas(base: Mapping[str, Manifest]) -> None:
    """An API server would refuse the manifest, or drop a misspelt field without a word."""
    found = {name: problems(manifest, {}) for name, manifest in base.items() if name not in KUBERAY_KINDS}
    assert found == {name: [] for name in found}


@pytest.mark.parametrize("name", KUBERAY_KINDS)
def test_kuberay_kinds_fit_their_crds(base: Mapping[str, Manifest], crds: Crds, name: str) -> None:
    """The operator would refuse the manifest, or ignore a misspelt field."""
    assert problems(base[name], crds) == []


def test_serve_config_has_only_keys_that_ray_knows(base: Mapping[str, Manifest]) -> None:
    """Ray Serve would run with a default in place of the value that somebody wrote."""
    assert serve_config_problems(base["RayService/encoder"]["spec"]["serveConfigV2"]) == []


def _head(manifest: Manifest) -> Any:
    return manifest["spec"]["rayClusterConfig"]["headGroupSpec"]


@pytest.mark.parametrize(
    ("name", "break_it", "expected"),
    [
        ("PodDisruptionBudget/index", lambda m: m["spec"].update(maxUnavailble=1), "maxUnavailble"),
        ("Deployment/router", lambda m: m["spec"].update(replicas="two"), "spec.replicas"),
        ("StatefulSet/index", lambda m: m.update(kind="StatefullSet"), "StatefullSet"),
        ("RayService/encoder", lambda m: _head(m).update(tmplate={}), "tmplate"),
        ("RayService/encoder", lambda m: _head(m)["template"]["spec"].update(container=[]), "container"),
        ("RayService/encoder", lambda m: _head(m)["rayStartParams"].update({"num-cpus": 0}), "num-cpus"),
        ("RayJob/train", lambda m: m["spec"].update(backoffLimit="none"), "spec.backoffLimit"),
        ("RayJob/train", lambda m: m.update(kind="RayJobb"), "RayJobb"),
    ],
)
def test_the_checker_notices_mistakes(
    base: Mapping[str, Manifest], crds: Crds, name: str, break_it: Any, expected: str
) -> None:
    """The tests above would pass whatever the manifests say."""
    broken = deepcopy(base[name])
    break_it(broken)
    assert any(expected in problem for problem in problems(broken, crds))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{applications: [{name: a, import_path: 'm:app', import_pth: x}]}", "applications[0].import_pth"),
        ("{applications: [], grpc_options: {prt: 9000}}", "grpc_options.prt"),
        (
            "{applications: [{name: a, import_path: 'm:app', deployments: [{name: d, max_concurrent_queries: 1}]}]}",
            "deployments[0].max_concurrent_queries",
        ),
        ("{applications: [], grpc_options: {port: many}}", "grpc_options.port"),
    ],
)
def test_the_checker_notices_mistakes_in_serve_configs(text: str, expected: str) -> None:
    """Ray accepts unknown keys silently; so would we."""
    assert any(expected in problem for problem in serve_config_problems(text))


@pytest.mark.skipif(kubectl() is None, reason="kubectl is not installed")
def test_a_folder_that_kustomize_refuses_is_an_error(tmp_path: Path) -> None:
    """A broken base would count as an empty one, in which every check passes."""
    (tmp_path / "kustomization.yaml").write_text("resources: [missing.yaml]")
    with pytest.raises(RenderError, match=r"missing\.yaml"):
        render(tmp_path)
