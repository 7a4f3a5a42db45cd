"""A real SLURM of two nodes on one machine, for tests and for trying a profile.

    python -m tests.one_node_cluster up [FOLDER]       prints what to export
    python -m tests.one_node_cluster down [FOLDER]
    python -m tests.one_node_cluster packages          installs what is missing

It needs root and the packages of `PACKAGES` (Debian), no systemd and no cgroups. Nothing in it
is safe to expose: it authenticates nobody, and listens on this machine alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmark.errors import ObdBenchError

PACKAGES = (
    "slurmctld", "slurmd", "slurm-client", "munge",
    "slurmdbd", "slurm-wlm-mysql-plugin", "mariadb-server-core", "mariadb-client-core",
)  # fmt: skip
DEFAULT_FOLDER = Path("/tmp/obdbench-slurm")
NODES = ("n1", "n2")
CPUS_PER_NODE = 4
MAX_ARRAY_SIZE = 16
"""Small, so that a sweep of forty jobs already needs several arrays."""

CONTROLLER_CONF = """\
ClusterName=obdbench
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[controller]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
# A requeued job waits until its credential has expired: two minutes by default.
AuthInfo=cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=2
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
KillWait=5
SlurmdTimeout=10
OverTimeLimit=0
MinJobAge={remember}
MaxArraySize={array}
ReturnToService=1
EnforcePartLimits=ALL
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=n[1-2] NodeHostname=localhost NodeAddr=127.0.0.1 \
Port=[{ports[node]}-{ports[last_node]}] CPUs={cpus} RealMemory=8000 Gres=gpu:2
PartitionName=main Nodes=n[1-2] Default=YES DefMemPerCPU=500 MaxTime=INFINITE State=UP \
PriorityTier=1
PartitionName=urgent Nodes=n[1-2] DefMemPerCPU=500 MaxTime=INFINITE State=UP PriorityTier=10
{accounting}
"""

ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={ports[accounting]}
"""

NO_ACCOUNTING = "AccountingStorageType=accounting_storage/none\n"

DATABASE_CONF = """\
AuthType=auth/none
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={ports[accounting]}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
LogFile={folder}/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={ports[database]}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm
"""


class ClusterError(ObdBenchError):
    """The test cluster cannot be started, or does not answer."""


@dataclass
class OneNodeCluster:
    """The cluster that lives in a folder: its configuration, state, logs and process numbers.

    Args:
        folder: Created where there is none; `stop` leaves the logs.
        remember: Seconds for which the controller still lists a job that has ended.
    """

    folder: Path
    remember: int = 3600

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to speak to this cluster."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def start(self, accounting: bool = True) -> None:
        """Starts every daemon and returns when both nodes are idle.

        Raises:
            ClusterError: Something is missing or does not come up; with the end of its log.
        """
        _check_prerequisites()
        for name in ("state", "log", *(f"spool.{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._make_devices()
        self._write("slurmdbd.conf", DATABASE_CONF, mode=0o600)
        self._configure(accounting)
        if accounting:
            self._start_accounting()
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        self._until(self._all_idle, "both nodes are idle", "slurmctld")

    def stop(self) -> None:
        """Ends every job and every daemon, nodes first."""
        with contextlib.suppress(subprocess.CalledProcessError, ClusterError):
            self.command("scancel", "--user=root")
            self._until(lambda: not self.command("squeue", "-h"), "all jobs ended", "slurmctld")
        for node in NODES:
            self._end(f"slurmd.{node}")
        for daemon in ("slurmctld", "slurmdbd", "mariadbd"):
            self._end(daemon)

    def start_controller(self) -> None:
        """Starts slurmctld; it goes on from its saved state."""
        self._daemon("slurmctld")
        self._until(lambda: "UP" in self.command("scontrol", "ping"), "it answers", "slurmctld")

    def stop_controller(self) -> None:
        """Ends slurmctld; jobs that run go on."""
        self._end("slurmctld")

    def start_node(self, node: str) -> None:
        """Starts the slurmd of a node."""
        self._daemon("slurmd", "-N", node)

    def set_accounting(self, on: bool) -> None:
        """Restarts the controller with or without accounting."""
        self.stop_controller()
        self._configure(on)
        self.start_controller()

    def command(self, *words: str) -> str:
        """What a SLURM command prints.

        Raises:
            subprocess.CalledProcessError: It failed.
        """
        return subprocess.run(
            words, env={**os.environ, **self.environment}, capture_output=True, text=True,
            check=True, timeout=60,
        ).stdout  # fmt: skip

    def _configure(self, accounting: bool) -> None:
        wanted = ACCOUNTING.format(ports=self._ports) if accounting else NO_ACCOUNTING
        self._write("slurm.conf", CONTROLLER_CONF, accounting=wanted)

    def _write(self, name: str, template: str, mode: int = 0o644, **values: str) -> None:
        text = template.format(
            folder=self.folder, ports=self._ports, cpus=CPUS_PER_NODE, array=MAX_ARRAY_SIZE,
            remember=self.remember, **values,
        )  # fmt: skip
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(mode)

    @property
    def _ports(self) -> dict[str, int]:
        """Free ports, chosen once; nodes need two that follow each other."""
        path = self.folder / "ports"
        if not path.exists():
            path.write_text(" ".join(map(str, _free_ports(5))))
        names = ("controller", "accounting", "database", "node", "last_node")
        return dict(zip(names, map(int, path.read_text().split()), strict=True))

    def _make_devices(self) -> None:
        """Two device files that stand for GPUs, so that CUDA_VISIBLE_DEVICES is set."""
        for index in range(2):
            if not (device := self.folder / f"gpu{index}").exists():
                os.mknod(device, 0o20666, os.makedev(1, 3))
        (self.folder / "gres.conf").write_text(
            f"NodeName=n[1-2] Name=gpu File={self.folder}/gpu[0-1]\n"
        )

    def _start_accounting(self) -> None:
        data = self.folder / "mariadb"
        fresh = not data.exists()
        if fresh:
            self._run("mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}",
                      "--auth-root-authentication-method=normal")  # fmt: skip
        self._spawn(
            "mariadbd", "--no-defaults", "--user=root", f"--datadir={data}",
            f"--socket={self._socket}", f"--port={self._ports['database']}",
            "--bind-address=127.0.0.1", "--innodb-buffer-pool-size=64M",
        )  # fmt: skip
        self._until(lambda: self._sql("SELECT 1") is not None, "it answers", "mariadbd")
        if fresh:
            self._sql(
                "CREATE USER slurm@'127.0.0.1' IDENTIFIED BY 'slurm';"
                "CREATE USER slurm@localhost IDENTIFIED BY 'slurm';"
                "GRANT ALL ON slurm.* TO slurm@'127.0.0.1', slurm@localhost;"
            )
        self._daemon("slurmdbd")
        self._until(lambda: _listens(self._ports["accounting"]), "it listens", "slurmdbd")

    @property
    def _socket(self) -> Path:
        return self.folder / "mariadb.sock"

    def _sql(self, text: str) -> str | None:
        words = ("mariadb", "--no-defaults", "--user=root", f"--socket={self._socket}", "-e", text)
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return done.stdout if done.returncode == 0 else None

    def _daemon(self, *words: str) -> None:
        """Starts a daemon that goes to the background by itself and writes its pid file."""
        self._run(*words)

    def _spawn(self, *words: str) -> None:
        """Starts a program that stays in the foreground, and writes its pid file."""
        name = words[0]
        log, pid = self.folder / "log" / f"{name}.log", self.folder / f"{name}.pid"
        script = 'log=$1 pid=$2; shift 2; setsid "$@" >>"$log" 2>&1 </dev/null & echo $! >"$pid"'
        self._run("sh", "-c", script, name, str(log), str(pid), *words)

    def _run(self, *words: str) -> None:
        done = subprocess.run(
            words, env={**os.environ, **self.environment}, capture_output=True, text=True,
            check=False, timeout=120,
        )  # fmt: skip
        if done.returncode:
            raise ClusterError(
                f"`{' '.join(words)}` ended with {done.returncode}: {done.stderr[-500:]}"
            )

    def _end(self, daemon: str) -> None:
        """Ends the daemon whose number is in its pid file, and waits until it is gone."""
        path = self.folder / f"{daemon}.pid"
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
            number = int(path.read_text())
            os.kill(number, signal.SIGTERM)
            deadline = time.monotonic() + 20
            while _lives(number):
                if time.monotonic() > deadline:
                    os.kill(number, signal.SIGKILL)
                time.sleep(0.1)
        path.unlink(missing_ok=True)

    def _all_idle(self) -> bool:
        states = self.command("sinfo", "-h", "-N", "-p", "main", "-o", "%T").split()
        return states == ["idle"] * len(NODES)

    def _until(self, condition: Callable[[], bool], what: str, daemon: str) -> None:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(subprocess.CalledProcessError):
                if condition():
                    return
            if time.monotonic() > deadline:
                log = self.folder / "log" / f"{daemon}.log"
                tail = log.read_text()[-800:] if log.exists() else "(no log)"
                raise ClusterError(f"Waited 60 s until {what}; the end of {log}:\n{tail}")
            time.sleep(0.2)


def missing_packages() -> list[str]:
    """Programs that the cluster needs and that are not installed."""
    programs = ("slurmctld", "slurmd", "srun", "slurmdbd", "mariadbd", "mariadb")
    return [name for name in programs if shutil.which(name) is None]


def install_packages() -> None:
    """Installs `PACKAGES` where a program is missing.

    Raises:
        ClusterError: There is no apt-get, no root, or it fails.
    """
    if not missing_packages():
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update", "-qq"], ["install", "-y", "-qq", *PACKAGES]):
        try:
            subprocess.run(["apt-get", *words], env=environment, check=True, stdout=sys.stderr)
        except (OSError, subprocess.CalledProcessError) as error:
            raise ClusterError(
                f"The packages of the test cluster cannot be installed ({error}). As root, on "
                f"Debian: apt-get install {' '.join(PACKAGES)}"
            ) from error


def _check_prerequisites() -> None:
    if os.geteuid() != 0:
        raise ClusterError("The test cluster needs root: its nodes start jobs as root.")
    if missing := missing_packages():
        raise ClusterError(
            f"{', '.join(missing)} not found. Install: apt-get install {' '.join(PACKAGES)}"
        )


def _free_ports(count: int) -> Iterator[int]:
    """Free ports, the last two next to each other."""
    first = 0
    while not first:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            candidate = one.getsockname()[1]
            with contextlib.suppress(OSError):
                two.bind(("127.0.0.1", candidate + 1))
                first = candidate
    for _ in range(count - 2):
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            yield one.getsockname()[1]
    yield from (first, first + 1)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _lives(number: int) -> bool:
    return psutil.pid_exists(number) and psutil.Process(number).status() != psutil.STATUS_ZOMBIE


def main(arguments: list[str]) -> None:
    """`up`, `down` or `packages`, and the folder."""
    if not arguments or arguments[0] not in ("up", "down", "packages") or len(arguments) > 2:
        sys.exit(__doc__)
    cluster = OneNodeCluster(Path(arguments[1]).resolve() if arguments[1:] else DEFAULT_FOLDER)
    try:
        if arguments[0] == "packages":
            install_packages()
        elif arguments[0] == "down":
            cluster.stop()
        else:
            cluster.start()
            print(f"export SLURM_CONF={cluster.environment['SLURM_CONF']}")
    except ClusterError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
