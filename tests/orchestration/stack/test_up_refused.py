"""`csr up` with something in its way: one line that says what it is and how to fix it, and nothing left running."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from orchestration.stack.processes import ProcessRecord, spawn
from orchestration.stack.state import StackState, write_state
from tests.support.champion import Champion
from tests.support.deployment import eventually
from tests.support.ray_cluster import RayCluster
from tests.support.redis_server import RedisServer, free_port
from tests.support.stack import Finished, LocalStack, finish, survivors


def assert_refused(done: Finished, *named: str) -> None:
    """Exit code 1 and exactly one error line, which names what is wrong and how to fix it."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, done.stderr
    assert [text for text in named if text not in errors[0]] == [], errors[0]


def ended_process(folder: Path) -> ProcessRecord:
    """Return the record of a process that ended by itself."""
    record = spawn("redis", ["true"], {}, "127.0.0.1:1", folder / "true.log")
    eventually(lambda: not record.alive())
    return record


@pytest.mark.parametrize("name", ["redis", "encoder", "index-1", "router"])
def test_a_taken_port(local: LocalStack, taken: Callable[[int], None], name: str) -> None:
    """The stack would end half started, or use somebody else's server."""
    ports = {
        "redis": local.redis_port,
        "encoder": local.encoder_port,
        "index-1": local.index_metrics_port + 1,
        "router": local.router_port,
    }
    taken(ports[name])
    assert_refused(local.csr("up"), f"{name}: port {ports[name]} is taken", "choose another port")
    assert not local.state_path.exists()


def test_no_model(local: LocalStack) -> None:
    """A newcomer who starts with `csr up` would not learn what to do first."""
    assert_refused(local.csr("up"), "model:", "csr-adapter", "`csr train`, `csr promote`")
    assert not local.state_path.exists()


@pytest.mark.parametrize("password", ["", ":secret-word@", "user:secret-word@"])
def test_a_redis_that_does_not_answer(local: LocalStack, password: str) -> None:
    """A typo in REDIS_URL would end in a trace, or put the password on the screen."""
    port = free_port()
    done = local.csr("up", REDIS_URL=f"redis://{password}127.0.0.1:{port}/0")
    assert_refused(done, f"REDIS_URL=redis://127.0.0.1:{port}", "start it, or unset REDIS_URL")
    assert "secret-word" not in done.stdout + done.stderr
    assert not local.state_path.exists()


def test_a_stale_state_file(local: LocalStack, tmp_path: Path) -> None:
    """After a power cut the stack would take dead processes for running ones, or say nothing helpful."""
    write_state(local.state_path, StackState(processes=(ended_process(tmp_path),)))
    assert_refused(local.csr("up"), str(local.state_path), "stale", "run `csr down`")
    assert local.csr("down").returncode == 0
    assert not local.state_path.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 99, "processes": []}'])
def test_a_damaged_state_file(local: LocalStack, content: str) -> None:
    """Processes that still run would be forgotten, or the user would read a trace."""
    local.state_path.parent.mkdir(parents=True)
    local.state_path.write_text(content)
    assert_refused(local.csr("up"), str(local.state_path), "check for processes that still run, then delete the file")
    assert local.state_path.read_text() == content
    if content == "{":
        for command in ("down", "status"):
            assert_refused(local.csr(command), str(local.state_path))


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"CSR_ROUTER__PORT": "99999"}, "router.port"),
        ({"CSR_ROUTER__PROT": "7000"}, "router.prot"),
        ({"CSR_CONFIG": "/no/such/csr.toml"}, "/no/such/csr.toml"),
        ({"REDIS_URL": "http://:secret-word@127.0.0.1"}, "redis.url"),
        ({"CSR_REDIS__URL": "redis://:secret-word@127.0.0.1:port"}, "redis.url"),
    ],
)
def test_bad_settings(local: LocalStack, variables: dict[str, str], named: str) -> None:
    """A typo in a setting would be ignored, or end in a trace."""
    done = local.csr("up", **variables)
    assert_refused(done, named)
    assert "secret-word" not in done.stdout + done.stderr
    assert not local.state_path.exists()


def test_a_failure_half_way_stops_what_was_started(
    tmp_path: Path,
    champion: Champion,
    ray_cluster: RayCluster,
    redis_server: Callable[..., RedisServer],
) -> None:
    """A stack that cannot start would leave processes behind, which the next `csr up` trips over."""
    local = LocalStack(tmp_path / "data", champion.registry_uri, ray_cluster.environment)
    forgetful = redis_server("--maxmemory-policy", "allkeys-lru")
    done = finish(local.start("up", REDIS_URL=forgetful.url))
    assert_refused(done, "noeviction")
    assert "starting encoder" in done.stderr
    assert processes_of(tmp_path / "data") == []
    assert not local.state_path.exists()


def processes_of(data: Path) -> list[str]:
    """Return the command lines of the processes that run with this data folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("CSR_DATA_DIR") == str(data):
                found.append(" ".join(process.cmdline()))
    return found


def started_records(local: LocalStack, up: "subprocess.Popen[str]", count: int) -> tuple[ProcessRecord, ...]:
    """Wait until so many processes are recorded."""
    while len(records := local.state().processes) < count:
        assert up.poll() is None, up.communicate()
        time.sleep(0.01)
    return records


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_up_leaves_nothing(
    tmp_path: Path, champion: Champion, ray_cluster: RayCluster, number: signal.Signals
) -> None:
    """Ctrl-C, or the end of a CI job, during the start would leave half a stack running."""
    local = LocalStack(tmp_path / "data", champion.registry_uri, ray_cluster.environment)
    up = local.start("up")
    records = started_records(local, up, 4)
    up.send_signal(number)
    done = finish(up)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert survivors(records) == []
    assert not local.state_path.exists()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", local.encoder_port)) != 0


def test_down_without_a_stack_is_fine(local: LocalStack) -> None:
    """Scripts could not clean up without knowing what runs."""
    for _ in range(2):
        done = local.csr("down")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_status_without_a_stack_says_so(local: LocalStack) -> None:
    """Monitoring would take a stack that was never started for a healthy one."""
    code, reports = local.status()
    assert code == 1
    assert list(reports) == ["redis", "encoder", "index-0", "index-1", "router"]
    assert {(report["ready"], report["detail"], report["pid"]) for report in reports.values()} == {
        (False, "not started", 0)
    }


def test_a_reused_pid_is_never_signalled(local: LocalStack, tmp_path: Path) -> None:
    """`csr down` after a restart of the machine would kill a process of somebody else."""
    other = spawn("other", [sys.executable, "-c", "import time; time.sleep(60)"], {}, "", tmp_path / "other.log")
    try:
        ours = other.model_copy(update={"name": "redis", "started": other.started - 3600.0})
        write_state(local.state_path, StackState(processes=(ours,)))
        assert local.status()[1]["redis"]["ready"] is False
        assert local.csr("down").returncode == 0
        assert other.alive()
        assert not local.state_path.exists()
    finally:
        other.stop(0.1)
