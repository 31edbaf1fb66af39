"""Slurm: a real cluster of one node on loopback, for any user, without a system's services.

Its programs are those that ``make test`` has put beside this interpreter, or the system's. Munge, with a key of its
own, says who is who: without it a job that was put back is taken for the one that was ended. There is no accounting.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from asyncckpt.testing.servers import HOST, PATIENCE, HeldPorts, dying_with_parent

assert sys.platform == "linux"  # so that type checkers for other systems leave this module out

_BESIDE = Path(sys.prefix) / "slurm"
_FOLDERS = [str(_BESIDE / "usr" / "bin"), str(_BESIDE / "usr" / "sbin"), os.environ["PATH"], "/usr/sbin"]
_PATH = os.pathsep.join(_FOLDERS)

_PAUSE = 2
"""Seconds between two starts of a job."""

_CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}({loopback})
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller}
SlurmdPort={node}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_interval=1,sched_min_interval=10000
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
ReturnToService=2
SlurmdParameters=config_overrides
JobRequeue=1
KillWait=5
MessageTimeout=60
BatchStartTimeout=60
MinJobAge=3600
MailProg=/bin/true
NodeName={host} NodeAddr={loopback} CPUs=4 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class SlurmCluster:
    """A controller and a node with four cores, which keep their data in `folder`; also a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        for name in ("state", "spool"):
            (folder / name).mkdir()
        self._held = HeldPorts(2)
        controller, node = self._held.numbers
        host = socket.gethostname().partition(".")[0]
        text = _CONFIGURATION.format(
            host=host, loopback=HOST, user=getpass.getuser(), controller=controller, node=node, folder=folder
        )
        plugins = next(iter(_BESIDE.glob("usr/lib/*/slurm-wlm")), None)
        if plugins is not None:
            text += f"PluginDir={plugins}\n"
        (folder / "slurm.conf").write_text(text)
        self.environment: Mapping[str, str] = {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": _PATH,
            **({"LD_LIBRARY_PATH": f"{plugins}{os.pathsep}{plugins.parent}"} if plugins is not None else {}),
        }
        """What programs need to reach it, and jobs to reach it again."""
        self._munge()
        stepd = self._program("slurmstepd")
        self._start("slurmctld", "-D")
        self._start("slurmd", "-D", "-N", host, "-d", stepd)
        self._await()

    @staticmethod
    def is_installed() -> bool:
        """Whether its programs are here."""
        return all(shutil.which(name, path=_PATH) for name in ("munged", "slurmctld", "slurmd", "slurmstepd", "sbatch"))

    def call(self, *command: str) -> str:
        """What a program of Slurm prints."""
        return subprocess.run(
            command,
            env={**os.environ, **self.environment},
            check=True,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        ).stdout

    def hurry(self, job: str) -> None:
        """Have a job that was put back start soon, where Slurm would hold it back for two minutes.

        To be called until it has started. It does not start at once: the node takes a start in the second in which the
        one before was ended for a part of that, refuses it, and the job has failed.
        """
        shown = self.shown(job)
        if shown["JobState"] == "PENDING":
            left = datetime.fromisoformat(shown["EligibleTime"]) - datetime.now()
            if left.total_seconds() > 2 * _PAUSE:
                with suppress(subprocess.CalledProcessError):  # it has started
                    self.call("scontrol", "update", f"JobId={job}", f"StartTime=now+{_PAUSE}")

    def limit(self, job: str, minutes: int) -> None:
        """Let a job that runs, or waits, run for so long; raises `CalledProcessError` while it is being put back."""
        self.call("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")

    def shown(self, job: str) -> Mapping[str, str]:
        """What is known of a job, by the names that ``scontrol show job`` has."""
        fields = self.call("scontrol", "--oneliner", "show", "job", job).split()
        return dict(field.split("=", 1) for field in fields if "=" in field)

    def told(self, job: str) -> str:
        """All that there is to be known of a job that did not do what it should: state, output, and the logs' ends."""
        shown = self.call("scontrol", "show", "job", job)
        output = Path(self.shown(job).get("StdOut", os.devnull))
        logs = [output, self._folder / "slurmctld.log", self._folder / "slurmd.log"]
        ends = [f"--- {log}\n{log.read_text(errors='replace')[-4000:]}" for log in logs if log.exists()]
        return "\n".join([shown, *ends])

    def stop(self) -> None:
        """End jobs, node and controller."""
        if self._processes:
            with suppress(subprocess.SubprocessError):
                self.call("scancel", "--full", "--signal=KILL", f"--user={getpass.getuser()}")
        for process in reversed(self._processes):
            process.kill()
            process.wait()
        self._processes = []
        self._held.close()

    def _munge(self) -> None:
        key = self._folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        files = {name: self._folder / f"munge.{name}" for name in ("socket", "pid-file", "log-file", "seed-file")}
        options = [f"--{name}={path}" for name, path in files.items()]
        # Forced: the folders of tests are not as closed as those of a system's service.
        self._start("munged", "--foreground", "--force", f"--key-file={key}", *options)
        deadline = time.monotonic() + PATIENCE
        while not files["socket"].exists():
            if time.monotonic() > deadline or self._processes[0].poll() is not None:
                self._refuse()
            time.sleep(0.05)

    def _refuse(self) -> NoReturn:
        self.stop()
        said = "\n".join(path.read_text()[-2000:] for path in sorted(self._folder.glob("*.out")))
        raise RuntimeError(f"it did not start: {said}")

    def _program(self, name: str) -> str:
        found = shutil.which(name, path=_PATH)
        assert found is not None, f"{name} is not here: make test gets it"
        return found

    def _start(self, name: str, *arguments: str) -> None:
        with (self._folder / f"{name}.out").open("ab") as out:
            self._processes.append(
                subprocess.Popen(
                    dying_with_parent(self._program(name), *arguments),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    env={**os.environ, **self.environment},
                )
            )

    def _await(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            with suppress(subprocess.SubprocessError):
                if self.call("sinfo", "--noheader", "--format=%t").strip() == "idle":
                    return
            if time.monotonic() > deadline or any(each.poll() is not None for each in self._processes):
                self._refuse()
            time.sleep(0.1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
