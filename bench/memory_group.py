"""Runs a program in a memory cgroup of its own: what it may use, what it used, and whether the kernel killed it.

Of version 1 (memory.limit_in_bytes) the group is made inside our own, of version 2 (memory.max) inside the nearest group
above that gives its children the controller. Limits above ours stay in force, and nothing outside of our group is
changed. Swap counts against the limit (version 1, where the kernel accounts it) or is forbidden (version 2).
"""
import contextlib
import os
import pathlib
import signal
import subprocess
import tempfile
import time

# Files of each version; in the third and fourth the named line counts.
FILES = {
    1: {"limit": "memory.limit_in_bytes", "peak": "memory.max_usage_in_bytes", "hits": ("memory.failcnt", None),
        "kills": ("memory.oom_control", "oom_kill"), "anonymous": ("memory.stat", "rss")},
    2: {"limit": "memory.max", "peak": "memory.peak", "hits": ("memory.events", "max"),
        "kills": ("memory.events", "oom_kill"), "anonymous": ("memory.stat", "anon")},
}
POLL_S = 0.05


class Unavailable(Exception):
    """No group can be made here, and why."""


def locate(cgroups, mounts):
    """(version, folder of our own group) from /proc/self/cgroup and /proc/self/mountinfo. Where version 1 has the memory
    controller, version 2 does not."""
    ours = {}
    for line in cgroups.splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            ours[1] = path
        elif not controllers:
            ours[2] = path
    for version, kind in ((1, "cgroup"), (2, "cgroup2")):
        for line in mounts.splitlines():
            front, back = line.split(" - ", 1)
            root, folder = front.split()[3:5]
            fields = back.split()
            if version not in ours or fields[0] != kind or version == 1 and "memory" not in fields[-1].split(","):
                continue
            path = ours[version]
            if root != "/":  # a container that sees only a part of the tree
                path = pathlib.PurePosixPath(path)
                path = str(path.relative_to(root)) if path.is_relative_to(root) else ""
            if version == 2 and 1 in ours:
                break
            return version, pathlib.Path(folder) / path.strip("/")
    raise Unavailable("no cgroup file system with a memory controller is mounted")


def parent_of_groups():
    """(version, folder) that a group of ours can be made in."""
    try:
        version, folder = locate(pathlib.Path("/proc/self/cgroup").read_text(),
                                 pathlib.Path("/proc/self/mountinfo").read_text())
    except OSError as e:
        raise Unavailable(f"this kernel has no cgroups ({e})") from e
    if version == 2:
        while "memory" not in read(folder / "cgroup.subtree_control").split():
            if not (folder.parent / "cgroup.subtree_control").exists():
                raise Unavailable("no cgroup above this process gives its children the memory controller "
                                  "(cgroup.subtree_control)")
            folder = folder.parent
    if not folder.is_dir():
        raise Unavailable(f"the cgroup of this process, {folder}, is not visible here")
    return version, folder


def read(path):
    try:
        return path.read_text()
    except OSError:
        return ""


def value_of(text, key=None):
    """A file of one number, or the number beside a key; None if it is not there."""
    for line in text.splitlines():
        words = line.split()
        if words and (key is None or words[0] == key):
            return int(words[-1])
    return None


class MemoryGroup:
    """A group with a limit; a context manager, which removes it."""

    made = 0

    def __init__(self, limit):
        self.version, parent = parent_of_groups()
        MemoryGroup.made += 1
        self.folder = parent / f"tropilla-limited-{os.getpid()}-{MemoryGroup.made}"
        self.names = FILES[self.version]
        try:
            self.folder.mkdir()
        except OSError as e:
            raise Unavailable(f"cannot make a cgroup in {parent} ({e.strerror}); it needs root") from e
        try:
            (self.folder / self.names["limit"]).write_text(str(limit))
        except OSError as e:
            self.remove()
            raise Unavailable(f"cannot limit a cgroup's memory ({e.strerror})") from e
        with contextlib.suppress(OSError):  # kernels without swap have no such file
            swap = ("memory.memsw.limit_in_bytes", limit) if self.version == 1 else ("memory.swap.max", 0)
            (self.folder / swap[0]).write_text(str(swap[1]))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.remove()

    @property
    def members(self):
        """The file that a process writes its id into to join."""
        return self.folder / "cgroup.procs"

    def remove(self):
        """Ends what is still inside: what a run started and did not wait for, or all of it where an interrupt came while it
        started. A group is busy for a moment after its last process ended."""
        until = time.monotonic() + 10
        while self.folder.exists():
            for pid in filter(None, map(int, read(self.members).split())):  # 0 is one whose id cannot be seen here
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            try:
                self.folder.rmdir()
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(POLL_S)

    def figure(self, name):
        file = self.names[name]
        file, key = file if isinstance(file, tuple) else (file, None)
        return value_of(read(self.folder / file), key)

    def run(self, command, join=True, timeout=600.0, environment=None):
        """Runs a command inside and returns what it printed and used. With join false the command joins by itself (it
        writes its id into `members`), and what it held before is not counted. Whatever ends us ends it."""
        procs = os.fsencode(self.members)

        def enter():
            fd = os.open(procs, os.O_WRONLY)
            os.write(fd, str(os.getpid()).encode())
            os.close(fd)

        with tempfile.TemporaryFile("w+", errors="replace") as out, tempfile.TemporaryFile("w+", errors="replace") as err:
            begin = time.monotonic()
            try:
                # A session of its own: Ctrl-C comes to us alone, and we end it and what it started.
                child = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                         start_new_session=True, preexec_fn=enter if join else None, env=environment)
            except subprocess.SubprocessError as e:
                raise Unavailable("a process cannot be moved into a cgroup that we made; it needs root") from e
            result = {"timed_out": False, "anonymous_bytes": 0}
            try:
                while not os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
                    result["anonymous_bytes"] = max(result["anonymous_bytes"], self.figure("anonymous") or 0)
                    if not result["timed_out"] and time.monotonic() - begin > timeout:
                        result["timed_out"] = True
                        os.killpg(child.pid, signal.SIGKILL)
                    time.sleep(POLL_S)
                # It has ended and is not reaped: its counters are complete and its id is its own.
                result["read_bytes"] = value_of(read(pathlib.Path(f"/proc/{child.pid}/io")), "read_bytes:")
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)  # not reaped yet, so the id is still its own
                status = child.wait()
            out.seek(0)
            err.seek(0)
            return result | {"status": status, "seconds": round(time.monotonic() - begin, 3), "stdout": out.read(),
                             "stderr": err.read(), "peak_bytes": self.figure("peak"), "limit_hits": self.figure("hits"),
                             "oom_kills": self.figure("kills")}
