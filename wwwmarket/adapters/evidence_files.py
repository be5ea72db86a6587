"""Evidence in a folder: a file for each fault, of canonical bytes, which ``wwwmarket audit --evidence`` judges."""

from pathlib import Path
from typing import Final

FILES_MAX: Final = 1_000
"""Who lies more often has been proven a liar well enough."""


class EvidenceFolder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, name: str, data: bytes) -> Path:
        """Write ``data`` once as ``NAME.json``; gives where it is."""
        target = self._folder / f"{name}.json"
        if target.exists() or (self._folder.exists() and len(list(self._folder.iterdir())) >= FILES_MAX):
            return target
        self._folder.mkdir(parents=True, exist_ok=True)
        beside = self._folder / f".{name}"
        beside.write_bytes(data + b"\n")
        beside.rename(target)
        return target
