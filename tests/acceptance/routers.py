"""A small internet of network namespaces: a public segment, and homes behind routers that translate addresses."""

import os
import shutil
import subprocess
from types import TracebackType
from typing import Self

PUBLIC = "10.77.0"
NEEDED = ("ip", "nft")


def is_possible() -> bool:
    """Whether namespaces and address translation can be had here: as root, with Debian's iproute2 and nftables."""
    if os.geteuid() != 0 or not all(map(shutil.which, NEEDED)):
        return False
    probe = f"wm{os.getpid()}probe"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False).returncode:
        return False
    translated = subprocess.run(
        ["ip", "netns", "exec", probe, "nft", "add", "table", "ip", "nat"], capture_output=True, check=False
    )
    subprocess.run(["ip", "netns", "delete", probe], check=False)
    return translated.returncode == 0


class Internet:
    """Hosts by name. ``public`` hosts are at 10.77.0.N; a ``home`` is one host at 10.78.N.2 behind a router at 10.77.0.N,
    which lets nothing in that was not called for.
    """

    def __init__(self) -> None:
        self._prefix = f"wm{os.getpid()}"
        self._made: list[str] = []
        self._hosts = 0

    def __enter__(self) -> Self:
        self._namespace("switch")
        self._run("switch", "ip", "link", "add", "bridge", "type", "bridge")
        self._run("switch", "ip", "link", "set", "bridge", "up")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for name in reversed(self._made):
            subprocess.run(["ip", "netns", "delete", self.namespace(name)], check=False)

    def namespace(self, name: str) -> str:
        return f"{self._prefix}{name}"

    def inside(self, name: str) -> list[str]:
        """What to put before a command, to run it on the host ``name``."""
        return ["ip", "netns", "exec", self.namespace(name)]

    def public(self, name: str) -> str:
        """A host on the public segment; its address."""
        self._namespace(name)
        self._hosts += 1
        port, address = f"port{self._hosts}", f"{PUBLIC}.{self._hosts}"
        self._cable("switch", port, name, "wan")
        self._run("switch", "ip", "link", "set", port, "master", "bridge", "up")
        self._run(name, "ip", "address", "add", f"{address}/24", "dev", "wan")
        self._run(name, "ip", "link", "set", "wan", "up")
        return address

    def home(self, name: str) -> str:
        """A host behind a router of its own; its address, which is worth nothing outside."""
        router = f"{name}gate"
        self.public(router)
        number = self._hosts
        self._namespace(name)
        self._cable(router, "lan", name, "eth")
        self._run(router, "ip", "address", "add", f"10.78.{number}.1/24", "dev", "lan")
        self._run(router, "ip", "link", "set", "lan", "up")
        self._run(router, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        for rule in (
            "add table ip nat",
            "add chain ip nat post { type nat hook postrouting priority 100 ; }",
            'add rule ip nat post oifname "wan" masquerade fully-random',
            "add table ip guard",
            "add chain ip guard through { type filter hook forward priority 0 ; policy drop ; }",
            'add rule ip guard through iifname "lan" accept',
            "add rule ip guard through ct state established,related accept",
        ):
            self._run(router, "nft", *rule.split(" "))
        self._run(name, "ip", "address", "add", f"10.78.{number}.2/24", "dev", "eth")
        self._run(name, "ip", "link", "set", "eth", "up")
        self._run(name, "ip", "route", "add", "default", "via", f"10.78.{number}.1")
        return f"10.78.{number}.2"

    def _namespace(self, name: str) -> None:
        subprocess.run(["ip", "netns", "add", self.namespace(name)], check=True)
        self._made.append(name)
        self._run(name, "ip", "link", "set", "lo", "up")

    def _cable(self, one: str, one_end: str, other: str, other_end: str) -> None:
        ends = ["ip", "link", "add", one_end, "netns", self.namespace(one), "type", "veth"]
        subprocess.run([*ends, "peer", "name", other_end, "netns", self.namespace(other)], check=True)

    def _run(self, name: str, *command: str) -> None:
        subprocess.run([*self.inside(name), *command], check=True)
