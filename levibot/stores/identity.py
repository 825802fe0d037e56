"""Who a server runs as. PostgreSQL refuses to run as root, so root hands it to an unprivileged user."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from levibot.errors import ProcessError

# Either lets a process pass folders that it has no search permission for; the first cannot write.
CAPABILITIES = {"dac_read_search": 2, "dac_override": 1}
HINT = (
    "Move LEVIBOT_HOME and the virtual environment to folders that every user may search, or set "
    "LEVIBOT_POSTGRES_DSN to a server of your own."
)


class PopenOptions(TypedDict, total=False):
    """The part of Popen's arguments that changes the user."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Identity:
    """A user for a child process. The empty one is this process's own.

    uid, gid: the owner of the server's files. prefix: the command that drops to that user and keeps one
    capability, empty where the plain change of user is enough.
    """

    uid: int | None = None
    gid: int | None = None
    prefix: tuple[str, ...] = ()

    def popen_options(self) -> PopenOptions:
        if self.uid is None or self.gid is None or self.prefix:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: Path) -> None:
        """Make this user the owner of `path`."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)


def unprivileged_identity(program: Path, folder: Path) -> Identity:
    """An identity that is not root's, able to execute `program` and to reach the existing `folder`.

    An ordinary user stays itself. Root becomes the folder's owner, or nobody where that is root, and keeps
    one capability where a parent folder is closed to that user. Raises ProcessError where no way is left.
    """
    if os.geteuid() != 0:
        return Identity()
    owner = folder.stat()
    uid, gid = owner.st_uid, owner.st_gid
    if uid == 0:
        nobody = pwd.getpwnam("nobody")
        uid, gid = nobody.pw_uid, nobody.pw_gid
    plain = Identity(uid, gid)
    if reaches(plain, program, folder):
        return plain
    return Identity(uid, gid, _keeping_one_capability(uid, gid, program))


def reaches(identity: Identity, program: Path, folder: Path) -> bool:
    """Whether that user can execute `program` and enter `folder`, tried for real."""
    script = '"$0" --version && cd "$1"'
    try:
        probe = subprocess.run(
            ["/bin/sh", "-c", script, str(program), str(folder)],
            cwd="/",
            capture_output=True,
            timeout=30,
            check=False,
            **identity.popen_options(),
        )
    except (OSError, subprocess.SubprocessError) as exc:
        raise ProcessError(f"Root cannot start a process as user {identity.uid}: {exc}.", hint=HINT) from exc
    return probe.returncode == 0


def _keeping_one_capability(uid: int, gid: int, program: Path) -> tuple[str, ...]:
    setpriv = shutil.which("setpriv")
    held = bounding_set()
    capability = next((name for name, bit in CAPABILITIES.items() if held >> bit & 1), None)
    if setpriv is None or capability is None:
        lacking = "the tool setpriv is missing" if setpriv is None else "no capability allows it"
        raise ProcessError(
            f"User {uid} cannot reach {program} or the state folder, and {lacking}.", hint=HINT
        )
    return (
        setpriv,
        f"--reuid={uid}",
        f"--regid={gid}",
        "--clear-groups",
        # access(2), by which PostgreSQL finds its own programs, ignores the capabilities of a user other than
        # root unless this bit is set.
        "--securebits=+no_setuid_fixup",
        f"--inh-caps=-all,+{capability}",
        f"--ambient-caps=-all,+{capability}",
        f"--bounding-set=-all,+{capability}",
    )


def bounding_set() -> int:
    """The capabilities that a child of this process could have at most, as a bit set."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0  # no Linux, no capabilities
    return next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapBnd:")), 0)
