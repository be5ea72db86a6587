"""A log's files, from a folder or by HTTP (C2SP tlog-tiles): bytes as they are, for others to judge.

Bounded in bytes, time and tries, since whoever serves them is a stranger.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx

from wwwmarket.domain.errors import Malformed, NotFound, Unavailable

CONNECT_TIMEOUT_S: Final = 5.0
READ_TIMEOUT_S: Final = 20.0
FILE_TIMEOUT_S: Final = 120.0
"""The largest file, a bundle of 16 MiB, over a slow line."""
TRIES_MAX: Final = 4
PAUSE_S: Final = 0.25
"""Before the second try; doubled before each further one."""
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_GONE: Final = frozenset({404, 410})


class FolderLog:
    """The files as ``wwwmarket ledger export`` writes them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, path: str, *, bytes_max: int) -> bytes | None:
        """At most ``bytes_max + 1`` bytes of a file; None where there is none. Raises Unavailable."""
        try:
            with (self._folder / path).open("rb") as file:
                return file.read(bytes_max + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise Unavailable(f"{path} cannot be read: {error.strerror or error}", retry_after_ms=1_000) from None

    def close(self) -> None:
        """Nothing is held open."""


class HttpLog:
    """The files under a URL: a node's gateway, with or without ``/v1`` or ``/ledger``, or any prefix of static files.

    ``gateway`` is the node's address where the log is a node's, else None.
    """

    def __init__(self, address: str, *, pause_s: float = PAUSE_S) -> None:
        self._pause_s = pause_s
        timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        headers = {"accept-encoding": "identity"}
        self._http = httpx.Client(timeout=timeout, headers=headers, trust_env=False, follow_redirects=False)
        base = address.rstrip("/").removesuffix("/v1")
        self.gateway: str | None = base.removesuffix("/ledger")
        self._prefix = f"{self.gateway}/ledger"
        try:
            self._find(base)
        except BaseException:
            self.close()
            raise

    def _find(self, base: str) -> None:
        """A prefix of static files has its checkpoint right there.

        Raises:
            NotFound: neither is a log.
            Malformed: not an address.
        """
        if self.read("checkpoint", bytes_max=0) is not None:
            return
        self._prefix, self.gateway = base, None
        if self.read("checkpoint", bytes_max=0) is None:
            raise NotFound(f"there is no log at {base}: it has no checkpoint")

    def read(self, path: str, *, bytes_max: int) -> bytes | None:
        """At most ``bytes_max + 1`` bytes of a file; None where there is none. Raises Unavailable after some tries."""
        for attempt in range(TRIES_MAX):
            last = attempt == TRIES_MAX - 1
            try:
                return self._read(path, bytes_max)
            except _Passing as error:
                if last:
                    raise Unavailable(f"{self._prefix}/{path}: {error}", retry_after_ms=1_000) from None
            time.sleep(self._pause_s * 2**attempt)
        raise AssertionError("the last try returns or raises")

    def close(self) -> None:
        self._http.close()

    def _read(self, path: str, bytes_max: int) -> bytes | None:
        with self._answered(path) as response:
            if response.status_code in _GONE:
                return None
            if response.status_code in _PASSING:
                raise _Passing(f"HTTP status {response.status_code}")
            if response.status_code != httpx.codes.OK:
                raise Unavailable(f"{self._prefix}/{path}: HTTP status {response.status_code}", retry_after_ms=1_000)
            return _read_at_most(response, bytes_max + 1)

    @contextmanager
    def _answered(self, path: str) -> Iterator[httpx.Response]:
        try:
            with self._http.stream("GET", f"{self._prefix}/{path}") as response:
                yield response
        except (httpx.InvalidURL, httpx.UnsupportedProtocol):
            raise Malformed(f"{self._prefix!r} is not an address, such as http://127.0.0.1:8080") from None
        except httpx.HTTPError as error:
            raise _Passing(str(error) or type(error).__name__) from None


class _Passing(Exception):  # noqa: N818 - a try that failed; the next one may not
    """Trouble that may pass."""


def open_log(source: str) -> FolderLog | HttpLog:
    """The log at a folder's path or a URL.

    Raises:
        NotFound: there is none.
        Malformed: neither a folder nor an address.
        Unavailable: nobody answers there.
    """
    if source.startswith(("http://", "https://")):
        return HttpLog(source)
    folder = Path(source)
    if not folder.is_dir():
        raise NotFound(f"{source} is neither a folder nor an http address")
    return FolderLog(folder)


def _read_at_most(response: httpx.Response, limit: int) -> bytes:
    """Undecoded: a tile is its bytes, and nothing inflates here."""
    deadline_s = time.monotonic() + FILE_TIMEOUT_S
    content = bytearray()
    for chunk in response.iter_raw(chunk_size=65_536):
        content += chunk
        if len(content) >= limit:
            break
        if time.monotonic() > deadline_s:
            raise _Passing(f"no whole answer within {FILE_TIMEOUT_S:.0f} s")
    return bytes(content[:limit])
