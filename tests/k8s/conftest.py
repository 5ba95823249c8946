"""The rendered base, the schemas of KubeRay and the settings of the cluster."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from services.runtime.settings import CONFIG_VARIABLE, Settings, load_settings
from tests.support.manifests import Crds, Manifest, kubectl, load_crds, name_of, render

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "k8s" / "base"


@pytest.fixture(scope="session")
def base() -> Mapping[str, Manifest]:
    """Everything in k8s/base by kind/name, as kubectl renders it."""
    if kubectl() is None:
        pytest.skip("kubectl is not installed: the Kubernetes manifests cannot be rendered")
    return {name_of(manifest): manifest for manifest in render(BASE)}


@pytest.fixture(scope="session")
def crds() -> Crds:
    """KubeRay's CustomResourceDefinitions."""
    folder = Path(os.environ.get("KUBERAY_CRD_DIR", ROOT.parent / "shared" / "kuberay-crds"))
    found = load_crds(folder)
    if not found:
        pytest.skip(f"no KubeRay CRDs in {folder}: set KUBERAY_CRD_DIR to check RayService and RayJob")
    return found


@pytest.fixture(scope="session")
def settings() -> Settings:
    """The settings file that the cluster mounts, loaded as its processes load it."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in os.environ:
            if variable.startswith("CSR_") or variable in ("REDIS_URL", "MLFLOW_TRACKING_URI"):
                patch.delenv(variable)
        patch.setenv(CONFIG_VARIABLE, str(BASE / "config" / "csr.toml"))
        return load_settings()
