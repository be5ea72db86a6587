"""Evidence in a folder: for each fault a folder of its own, with the parts that prove it."""

from pathlib import Path
from typing import Final

FAULTS_MAX: Final = 1_000
"""A log that lies more often has been proven a liar well enough."""


class EvidenceFolder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, name: str, parts: tuple[bytes, ...]) -> None:
        """Write the parts once, as ``NAME/0``, ``NAME/1``…"""
        target = self._folder / name
        if target.exists() or (self._folder.exists() and len(list(self._folder.iterdir())) >= FAULTS_MAX):
            return
        beside = self._folder / f".{name}"
        beside.mkdir(parents=True, exist_ok=True)
        for place, part in enumerate(parts):
            (beside / str(place)).write_bytes(part)
        beside.rename(target)
