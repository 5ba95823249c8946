"""How commands fail: one line for people, and an exit code that means something."""

import importlib
import io
import subprocess
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from services.runtime.errors import StoreUnavailable
from tests.support.deployment import Deployment
from tests.support.redis_server import free_port
from tests.support.stack import LocalStack

cli = importlib.import_module("orchestration.cli.app")  # the package's attribute of that name is the typer app


@pytest.fixture
def local(tmp_path: Path) -> LocalStack:
    """A `csr` without a stack, a registry or Ray."""
    return LocalStack(tmp_path / "data", f"sqlite:///{tmp_path / 'mlflow.db'}", {"RAY_ADDRESS": "127.0.0.1:9"})


@pytest.mark.parametrize("name", sorted(cli.EXPECTED))
def test_expected_errors_exist(name: str) -> None:
    """A renamed error would reach people as a trace again."""
    module, _, kind = name.rpartition(".")
    assert issubclass(getattr(importlib.import_module(module), kind), Exception)


def run_main(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> tuple[int | str | None, str]:
    """Run main() with a command that raises; return exit code and standard error."""
    text = io.StringIO()

    def raising() -> None:
        raise error

    monkeypatch.setattr(cli, "app", raising)
    monkeypatch.setattr(cli, "err", Console(file=text, width=40))
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code, text.getvalue()


def test_an_expected_error_is_one_line_however_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts that read the error line would get part of it, and brackets in it would vanish as markup."""
    reason = "Redis does not answer: [Errno 111] " + "because " * 20 + "of that"
    assert run_main(monkeypatch, StoreUnavailable(reason)) == (1, f"error: {reason}\n")


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts could not tell an interrupted command from a failed one."""
    assert run_main(monkeypatch, KeyboardInterrupt()) == (130, "interrupted\n")


def test_a_bug_shows_its_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug of ours would be reported without the place where it is."""
    with pytest.raises(ZeroDivisionError):
        run_main(monkeypatch, ZeroDivisionError())


@pytest.mark.parametrize(
    "arguments",
    [
        ("frobnicate",),
        ("up", "--fast"),
        ("search", "articles"),
        ("search", "articles", "text", "--top-n", "0"),
        ("collection", "create", "articles", "--versioning", "sometimes"),
        ("servers", "set", "index-0"),
        ("servers", "set", "a=127.0.0.1:1", "a=127.0.0.1:2"),
    ],
)
def test_wrong_usage_is_2(arguments: tuple[str, ...]) -> None:
    """Scripts could not tell a typo in the command from a failure of the system."""
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 2
    assert "Usage: " in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("collection", "describe", "no-such"), "no-such"),
        (("collection", "delete", "no-such"), "no-such"),
        (("search", "no-such", "a text"), "no-such"),
        (("collection", "create", "Wrong Name"), "name"),
        (("collection", "create", "articles", "--model", "no-such-model"), "no-such-model"),
    ],
)
def test_what_the_router_refuses_is_one_line(
    local: LocalStack, deployment: Deployment, arguments: tuple[str, ...], named: str
) -> None:
    """People would read a trace of gRPC instead of the name that they mistyped."""
    done = local.csr(*arguments, CSR_ROUTER__PORT=str(deployment.router.port))
    assert_one_error(done, named)


def test_an_unknown_data_set_is_one_line(local: LocalStack) -> None:
    """A newcomer would not learn which data sets there are."""
    assert_one_error(local.csr("data", "no-such-set"), "newsgroups20")


def test_a_store_that_is_down_is_one_line(local: LocalStack) -> None:
    """An operator would read a trace of asyncio."""
    assert_one_error(local.csr("servers", "list", REDIS_URL=f"redis://127.0.0.1:{free_port()}/0"), "Redis")


def assert_one_error(done: "subprocess.CompletedProcess[str]", named: str) -> None:
    """Exit code 1, nothing on standard output, and one error line that names the culprit."""
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert named in done.stderr
