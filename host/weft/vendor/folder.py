"""A project's folder on disk: written whole, owned by one plan, used by one build at a time."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from weft.errors import BuildError
from weft.project import BuildPlan

DIGEST = "plan.digest"
STAMPS = "stamps"


def write(plan: BuildPlan, where: Path) -> None:
    """Writes a plan's files; a folder that has them already is left as it is.

    A new folder appears whole, by a rename. Raises BuildError where the folder holds something
    else, or can't be written.
    """
    where = where.absolute()
    try:
        if where.exists() and not where.is_dir():
            raise BuildError(f"{where} is a file; -o names a folder")
        if where.is_dir() and any(where.iterdir()):
            _complete(plan, where)
        else:
            _create(plan, where)
    except OSError as error:
        raise BuildError(f"{where}: cannot write the project ({error.strerror})") from None


def _complete(plan: BuildPlan, where: Path) -> None:
    """Puts back what is missing or damaged in a folder of this very plan."""
    mark = where / DIGEST
    found = mark.read_text(errors="replace").strip() if mark.is_file() else ""
    if found != plan.digest():
        what = f"plan {found[:16]}" if found else "files that weft did not write"
        raise BuildError(
            f"{where} holds {what}, not {plan.name} (plan {plan.digest()[:16]}); choose another "
            "folder, or remove it"
        )
    for name, content in plan.files.items():
        path = where / name
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            put(path, content)


def _create(plan: BuildPlan, where: Path) -> None:
    where.parent.mkdir(parents=True, exist_ok=True)
    for old in where.parent.glob(f".{where.name}.partial-*"):
        if not _alive(old.name.rpartition("-")[2]):
            shutil.rmtree(old, ignore_errors=True)
    partial = where.with_name(f".{where.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for name, content in plan.files.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(content)
        (partial / DIGEST).write_text(plan.digest() + "\n")
        partial.replace(where)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _alive(pid: str) -> bool:
    """Whether a process of that number runs (or may: one of another user's)."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def put(path: Path, content: bytes) -> None:
    """Writes a file under a temporary name, then renames it."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def stamp(where: Path, step: str, digest: str) -> None:
    """Notes that a step is done for a plan."""
    (where / STAMPS).mkdir(exist_ok=True)
    put(where / STAMPS / step, f"{digest}\n".encode())


def is_done(where: Path, step: str, digest: str, outputs: tuple[str, ...]) -> bool:
    """Whether a step was done for this plan and its outputs are still there."""
    path = where / STAMPS / step
    done = path.is_file() and path.read_text(errors="replace").strip() == digest
    return done and all((where / name).is_file() for name in outputs)


@contextlib.contextmanager
def locked(where: Path) -> Iterator[int]:
    """Holds the folder's lock; gives its file descriptor, for tools to inherit.

    So the lock lasts as long as a tool runs, even if the process that started it is killed.
    """
    import fcntl

    with (where / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BuildError(
                f"{where}: another build runs there, or a tool that an interrupted one left "
                "behind; wait for it, or end it"
            ) from None
        yield file.fileno()
