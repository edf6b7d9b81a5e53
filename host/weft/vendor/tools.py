"""Where the vendor's tools are, and how each is called: on this machine, or over ssh."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from weft.errors import BuildError, MissingDependency, UsageError
from weft.project import BuildPlan, Step

# Tool of a step → programs in the order of preference, each with its own arguments. vitis-run takes
# scripts from 2023.2 on, and is the only one from 2025.1 on.
TOOLS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "hls": (("vitis-run", "--mode", "hls", "--tcl"), ("vitis_hls", "-f")),
    "vivado": (("vivado", "-mode", "batch", "-notrace", "-nojournal", "-source"),),
    "v++": (("v++",),),
}
Progress = Callable[[str], None]
POLL_S = 0.2
_HOST = re.compile(r"[A-Za-z0-9_][\w.-]*(@[A-Za-z0-9_][\w.-]*)?")


class Executor(Protocol):
    """A machine on which steps run."""

    name: str

    def find(self, names: Iterable[str]) -> set[str]:
        """Which of these programs the machine has."""

    def prepare(self, plan: BuildPlan, where: Path) -> None:
        """Brings the files of a project that lies in `where` to the machine."""

    def execute(
        self, command: tuple[str, ...], where: Path, log: Path, progress: Progress, keep: int
    ) -> int:
        """Runs a command in the project's folder; its output goes to `log`. The exit code.

        `progress` is told the newest line. The file descriptor `keep` stays open as long as the
        command runs.
        """

    def collect(self, where: Path) -> None:
        """Brings the results to `where`."""


def command_of(step: Step, machine: Executor) -> tuple[str, ...]:
    """The command line of a step. Raises MissingDependency where the machine lacks the tool."""
    choices = TOOLS[step.tool]
    there = machine.find(choice[0] for choice in choices)
    for choice in choices:
        if choice[0] in there:
            return (*choice, *step.arguments)
    raise MissingDependency(
        f"step {step.name!r} needs {' or '.join(c[0] for c in choices)} on the PATH of "
        f"{machine.name}: source the settings64.sh of Vitis (2023.2 to 2025.2)"
    )


def missing(plan: BuildPlan, machine: Executor) -> list[str]:
    """Tools that a plan needs and the machine lacks."""
    wanted = dict.fromkeys(step.tool for step in plan.commands)
    there = machine.find(c[0] for tool in wanted for c in TOOLS[tool])
    return [
        " or ".join(c[0] for c in TOOLS[tool])
        for tool in wanted
        if not any(c[0] in there for c in TOOLS[tool])
    ]


class Local:
    """This machine."""

    name = "this machine"

    def __init__(self, jobs: int = 2) -> None:
        self.jobs = jobs

    def find(self, names: Iterable[str]) -> set[str]:
        """Which of these programs are on the PATH."""
        return {name for name in names if shutil.which(name)}

    def prepare(self, plan: BuildPlan, where: Path) -> None:
        """The project is here already."""

    def collect(self, where: Path) -> None:
        """The results are here already."""

    def execute(
        self, command: tuple[str, ...], where: Path, log: Path, progress: Progress, keep: int
    ) -> int:
        """Runs a command; ends it, and all that it started, where this process is interrupted."""
        environment = {**os.environ, "WEFT_JOBS": str(self.jobs)}
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=where,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                pass_fds=(keep,),
            )
        try:
            while process.poll() is None:
                time.sleep(POLL_S)
                progress(last_line(log))
        except BaseException:
            _end(process)
            raise
        return process.returncode


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and its children: kindly, then not."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def last_line(log: Path) -> str:
    """The newest line of a log, "" if there is none."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 2000))
        lines = file.read().decode(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


class Remote:
    """Another machine, over ssh: files go there and back with scp, commands run in a login shell.

    Projects lie in `weft-builds/` of the user's home. Nothing asks for a password: set up a key.
    """

    def __init__(self, host: str, jobs: int = 2) -> None:
        if not _HOST.fullmatch(host):
            raise UsageError(f"--remote {host!r}: user@host expected")
        self.name = host
        self.jobs = jobs
        self._folder = ""
        self._local = Local(jobs)
        for program in ("ssh", "scp"):
            if not shutil.which(program):
                raise MissingDependency(f"--remote needs {program} (OpenSSH) on the PATH")

    def find(self, names: Iterable[str]) -> set[str]:
        """Which of these programs a login shell there finds."""
        wanted = list(dict.fromkeys(names))
        script = "; ".join(f"command -v {shlex.quote(n)} >/dev/null && echo {n}" for n in wanted)
        found = self._call(self._ssh(f"{script}; true")).split()
        return set(found) & set(wanted)

    def prepare(self, plan: BuildPlan, where: Path) -> None:
        """Copies the project's files."""
        self._folder = f"weft-builds/{plan.name}-{plan.digest()[:16]}"
        self._call(self._ssh(f"mkdir -p {self._folder}/results"))
        entries = sorted({name.partition("/")[0] for name in plan.files} | {"plan.digest"})
        files = [str(where / entry) for entry in entries]
        self._call(["scp", "-q", "-r", "-o", "BatchMode=yes", *files, self._path("")])

    def execute(
        self, command: tuple[str, ...], where: Path, log: Path, progress: Progress, keep: int
    ) -> int:
        """Runs a command there. Raises BuildError where the connection breaks."""
        there = f"cd {self._folder} && WEFT_JOBS={self.jobs} {shlex.join(command)}"
        code = self._local.execute(tuple(self._ssh(there)), where, log, progress, keep)
        if code == 255:  # ssh's own
            raise BuildError(
                f"the connection to {self.name} broke ({last_line(log)}); run the same command "
                "again: finished steps are kept"
            )
        return code

    def collect(self, where: Path) -> None:
        """Copies the results."""
        self._call(["scp", "-q", "-r", "-o", "BatchMode=yes", self._path("results"), str(where)])

    def _path(self, name: str) -> str:
        return f"{self.name}:{self._folder}/{name}"

    def _ssh(self, script: str) -> list[str]:
        options = ("-o", "BatchMode=yes", "-o", "ServerAliveInterval=30")
        return ["ssh", *options, self.name, f"bash -lc {shlex.quote(script)}"]

    def _call(self, command: list[str]) -> str:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode:
            said = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
            raise BuildError(f"{command[0]} to {self.name} failed: {said[0]}")
        return done.stdout
