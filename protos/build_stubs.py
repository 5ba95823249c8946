"""Compile protos/csr/v1/*.proto into importable stubs (`from csr.v1 import search_pb2`).

Run by the build backend at install and by `make proto`. Stubs are not committed: they belong to the grpcio that
made them.
"""

from pathlib import Path
from typing import Any

from grpc_tools import protoc
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PROTOS = Path(__file__).resolve().parent


def compile_stubs() -> None:
    """Write *_pb2.py, *_pb2_grpc.py and their type stubs next to the .proto files."""
    import grpc_tools

    well_known = Path(grpc_tools.__file__).parent / "_proto"
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.glob("csr/**/*.proto"))
    status = protoc.main(
        [
            "protoc",
            f"-I{PROTOS}",
            f"-I{well_known}",
            f"--python_out={PROTOS}",
            f"--grpc_python_out={PROTOS}",
            f"--mypy_out={PROTOS}",
            f"--mypy_grpc_out={PROTOS}",
            *sources,
        ]
    )
    if status != 0:
        raise SystemExit(f"protoc failed with status {status}")


class StubsBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Compiles the stubs before any wheel, editable ones included."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before files are collected."""
        compile_stubs()


if __name__ == "__main__":
    compile_stubs()
