"""Hosts on one machine: each with its own address, processes, /tmp, /dev/shm and home, reachable by ssh as root.

Namespaces of network, processes, mounts, IPC and host name, and an sshd in each: what `ray up` with provider `local`,
the loss of a node and a cut network need to be tried for real. All hosts see one shared folder, the checkout and the
Python environment, at the same paths.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

CHECKOUT = Path(__file__).parents[2]
SSH_OPTIONS = ["-q", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=2"]
HOST = """
set -e
hostname {name}
mount --make-rprivate /
mount -t tmpfs -o size=2g tmpfs /dev/shm
for own in /tmp ~; do
  for kept in {kept}; do case $kept in
    $own/*) mkdir -p "{private}$kept" && mount --bind "$kept" "{private}$kept" ;;
  esac; done
done
mount --rbind {private}/root ~
mount --rbind {private}/tmp /tmp
exec /usr/sbin/sshd -D -e -h {keys}/host -o AuthorizedKeysFile={keys}/authorized -o StrictModes=no -o PidFile=none \
  -o UsePAM=no -o MaxStartups=100 -f /dev/null
"""


def _run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0 or not check, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done


def require_hosts() -> None:
    """Skip where hosts cannot be made."""
    missing = [tool for tool in ("/usr/sbin/sshd", "ssh", "ip", "rsync") if not shutil.which(tool)]
    if missing:
        pytest.skip(f"hosts need openssh-server, iproute2 and rsync: {', '.join(missing)} not found")
    if os.geteuid() != 0:
        pytest.skip("hosts need root, for namespaces")
    if _run("unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "true", check=False).returncode:
        pytest.skip("hosts need namespaces, which this machine does not allow")


@dataclass(frozen=True)
class Hosts:
    """Hosts number 1 to `count`, the folder that all of them share, and what `ray up` needs to reach them."""

    count: int
    network: int
    """Addresses are 10.99.network.number, so that several groups of hosts live beside each other."""
    shared: Path
    private: Path

    def address(self, host: int) -> str:
        return f"10.99.{self.network}.{host}"

    @property
    def key(self) -> Path:
        return self.private / "keys" / "client"

    def command(self, host: int, command: str) -> list[str]:
        """What runs a shell command on a host."""
        return ["ssh", "-i", str(self.key), *SSH_OPTIONS, f"root@{self.address(host)}", command]

    def run(self, host: int, command: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A shell command on a host."""
        return _run(*self.command(host, command), check=check)

    def cut(self, host: int) -> None:
        """Take a host off the network."""
        _run("ip", "link", "set", self._link(host), "down")

    def heal(self, host: int) -> None:
        """Put it back."""
        _run("ip", "link", "set", self._link(host), "up")

    def kill(self, host: int) -> None:
        """End a host at once, with all that runs on it: its first process takes the others along, none tells of it."""
        _run("ip", "link", "set", self._link(host), "down", check=False)
        with suppress(FileNotFoundError, psutil.NoSuchProcess):
            unshare = psutil.Process(int(self._pid(host).read_text()))
            for first in unshare.children():
                first.kill()
            unshare.send_signal(signal.SIGKILL)
            psutil.wait_procs([unshare], timeout=10)

    def _name(self, host: int) -> str:
        return f"ray{self.network}-{host}"

    def _link(self, host: int) -> str:
        return f"v{self._name(host)}"

    def _pid(self, host: int) -> Path:
        return self.private / f"pid-{host}"

    def _keys(self) -> None:
        keys = self.private / "keys"
        keys.mkdir(parents=True)
        for name in ("client", "host"):
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys / name))
        shutil.copy(keys / "client.pub", keys / "authorized")
        Path("/run/sshd").mkdir(exist_ok=True)

    def _bridge(self) -> str:
        return f"raybr{self.network}"

    def up(self) -> None:
        self._keys()
        self.down()  # what a killed test left
        _run("ip", "link", "add", self._bridge(), "type", "bridge")
        _run("ip", "addr", "add", f"10.99.{self.network}.254/24", "dev", self._bridge())
        _run("ip", "link", "set", self._bridge(), "up")
        for host in range(1, self.count + 1):
            self._connect(host)
            self.start(host)

    def _connect(self, host: int) -> None:
        name = self._name(host)
        _run("ip", "netns", "add", name)
        _run("ip", "link", "add", self._link(host), "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "link", "set", self._link(host), "master", self._bridge(), "up")
        _run("ip", "-n", name, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
        _run("ip", "-n", name, "link", "set", "eth0", "up")
        _run("ip", "-n", name, "link", "set", "lo", "up")

    def start(self, host: int) -> None:
        """Start a host; one that was killed comes back with an empty disk."""
        name, private = self._name(host), self.private / f"host-{host}"
        self.heal(host)
        shutil.rmtree(private, ignore_errors=True)
        for folder in ("tmp/ray", "root"):
            (private / folder).mkdir(parents=True)
        kept = [self.shared, CHECKOUT, Path(sys.prefix), Path(sys.base_prefix), self.private / "keys"]
        script = HOST.format(
            name=name, private=private, keys=self.private / "keys", kept=" ".join(str(path.resolve()) for path in kept)
        )
        # A host ends with this process, however that ends.
        command = ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", name]
        command += ["unshare", "--kill-child", "--mount", "--pid", "--fork", "--mount-proc", "--uts", "--ipc"]
        with (private / "sshd.log").open("w") as log:
            process = subprocess.Popen(
                [*command, "bash", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._pid(host).write_text(str(process.pid))
        self._await(host)

    def _await(self, host: int) -> None:
        for _ in range(1000):
            if self.run(host, "true", check=False).returncode == 0:
                return
            time.sleep(0.1)
        raise AssertionError(f"host {host} does not answer: {(self.private / f'host-{host}' / 'sshd.log').read_text()}")

    def down(self) -> None:
        for host in range(1, self.count + 1):
            self.kill(host)
            # The kernel removes a namespace's link some time after the namespace; the next group takes its name.
            _run("ip", "link", "del", self._link(host), check=False)
            _run("ip", "netns", "del", self._name(host), check=False)
        _run("ip", "link", "del", self._bridge(), check=False)


@contextmanager
def hosts(count: int, folder: Path) -> Iterator[Hosts]:
    """`count` hosts that share `folder / "shared"`; nothing of them outlives the block."""
    require_hosts()
    shared = folder / "shared"
    shared.mkdir(parents=True)
    group = Hosts(count, os.getpid() % 250, shared, folder / "private")
    try:
        group.up()
        yield group
    finally:
        group.down()
