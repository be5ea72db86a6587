"""Hosts on one machine: network namespaces on one switch, each of which can be cut off (Linux, as root)."""

import os
import shutil
import subprocess
from contextlib import ExitStack
from typing import Self

from tests.ports.orderers.servers import Place

MISSING = "needs root and iproute2, to give each process a network of its own"


def permitted() -> bool:
    """Whether namespaces can be made here: in a container without the right to, they cannot."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"ww{os.getpid()}-try"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        return False
    return subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False).returncode == 0


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


class Switch:
    """A network 10.231.x.0/24 that exists in namespaces alone, but for this process's own address in it, the first."""

    def __init__(self) -> None:
        self._name = f"ww{os.getpid()}"
        self._net = f"10.231.{os.getpid() % 250}"
        self._stack = ExitStack()
        self._hosts = 1
        self.own = f"{self._net}.1"

    def __enter__(self) -> Self:
        try:
            self._begin()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _begin(self) -> None:
        hub = self._namespace("hub")
        _ip("-n", hub, "link", "add", "br0", "type", "bridge")
        _ip("-n", hub, "link", "set", "br0", "up")
        _ip("link", "add", self._name, "type", "veth", "peer", "name", "p-own", "netns", hub)
        _ip("address", "add", f"{self.own}/24", "dev", self._name)
        _ip("link", "set", self._name, "up")
        self._plug("own")

    def __exit__(self, *_: object) -> None:
        """The links go with their namespaces."""
        self._stack.close()

    def _namespace(self, name: str) -> str:
        whole = f"{self._name}-{name}"
        _ip("netns", "add", whole)
        self._stack.callback(_ip, "netns", "del", whole)
        return whole

    def _plug(self, name: str) -> None:
        hub = f"{self._name}-hub"
        _ip("-n", hub, "link", "set", f"p-{name}", "master", "br0")
        _ip("-n", hub, "link", "set", f"p-{name}", "up")

    def host(self, name: str) -> Place:
        """A new host on the network: its address, and what runs a command on it."""
        self._hosts += 1
        address, space = f"{self._net}.{self._hosts}", self._namespace(name)
        _ip(
            "-n",
            f"{self._name}-hub",
            "link",
            "add",
            f"p-{name}",
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            space,
        )
        self._plug(name)
        _ip("-n", space, "address", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", space, "link", "set", "eth0", "up")
        _ip("-n", space, "link", "set", "lo", "up")
        return Place(address, ("ip", "netns", "exec", space))

    def cut(self, name: str) -> None:
        """Pull the cable at the switch: packets vanish, and nobody is told."""
        _ip("-n", f"{self._name}-hub", "link", "set", f"p-{name}", "down")

    def heal(self, name: str) -> None:
        _ip("-n", f"{self._name}-hub", "link", "set", f"p-{name}", "up")
