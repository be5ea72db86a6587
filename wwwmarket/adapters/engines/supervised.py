"""A foreign engine's server that ends with this process, whose own standard input ends with its parent.

``python -m wwwmarket.adapters.engines.supervised --port 8000 -- vllm serve MODEL --port 8000``: starts the command in a
session of its own, announces the port once ``/health`` says 200, and takes the whole session down at the end. Engines
start processes of their own, which a signal to the first of them alone may leave behind.
"""

import argparse
import contextlib
import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from types import FrameType
from typing import Final

from wwwmarket.adapters.engines.child import announce

POLL_S: Final = 0.2
HEALTH_TIMEOUT_S: Final = 2.0
STOP_GRACE_S: Final = 10.0


def healthy(port: int) -> bool:
    """Whether a server on this machine answers ``/health`` with 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HEALTH_TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _stop(group: int) -> None:
    """End a session: politely, then not."""
    until_s = time.monotonic() + STOP_GRACE_S
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)
        while time.monotonic() < until_s:
            time.sleep(POLL_S / 2)
            os.killpg(group, 0)
        os.killpg(group, signal.SIGKILL)


def _reap(process: "subprocess.Popen[bytes]", ended: threading.Event) -> None:
    process.wait()
    ended.set()


def _watch_parent(ended: threading.Event) -> None:
    while sys.stdin.buffer.read(4096):
        pass
    ended.set()


def supervise(port: int, command: list[str]) -> int:
    """Run ``command`` until it, or this process's standard input, or a SIGTERM ends it. Its exit code, or 0."""
    ended = threading.Event()

    def told(_number: int, _frame: FrameType | None) -> None:
        ended.set()

    signal.signal(signal.SIGTERM, told)
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603 - the operator's own
    except OSError as error:
        print(f"{command[0]} cannot be started: {error.strerror}", file=sys.stderr)  # noqa: T201 - the parent reads it
        return 127
    try:
        threading.Thread(target=_reap, args=(process, ended), daemon=True).start()
        threading.Thread(target=_watch_parent, args=(ended,), daemon=True).start()
        while not ended.is_set() and not healthy(port):
            ended.wait(POLL_S)
        if not ended.is_set():
            announce(port)
        ended.wait()
        return process.poll() or 0
    finally:
        _stop(process.pid)


def main() -> None:
    parser = argparse.ArgumentParser(description="Run an engine's server, and end it with this process.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    code = supervise(options.port, [word for word in options.command[:1] if word != "--"] + options.command[1:])
    sys.stdout.flush()
    # standard input's reader may still hold its lock
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
