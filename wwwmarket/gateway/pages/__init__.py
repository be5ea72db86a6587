"""The pages for people: what this node is, and its interface. Self-contained files, no outside assets."""

import re
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from typing import Final

from fastapi import APIRouter
from starlette.responses import HTMLResponse

_INLINE: Final = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


def _policy(page: str) -> str:
    """A content security policy that runs this page's own script and style, by digest, and nothing else."""
    digests: dict[str, list[str]] = {"script": [], "style": []}
    for kind, text in _INLINE.findall(page):
        digests[kind].append(f"'sha256-{b64encode(sha256(text.encode()).digest()).decode('ascii')}'")
    return (
        f"default-src 'none'; connect-src 'self'; script-src {' '.join(digests['script'])}; "
        f"style-src {' '.join(digests['style'])}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def router() -> APIRouter:
    doors = APIRouter(include_in_schema=False)
    _add(doors, "/", "index.html")
    _add(doors, "/docs", "docs.html")
    return doors


def _add(doors: APIRouter, path: str, name: str) -> None:
    page = files(__name__).joinpath(name).read_text(encoding="utf-8")
    headers = {
        "content-security-policy": _policy(page),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }

    @doors.head(path)
    @doors.get(path)
    async def answer() -> HTMLResponse:
        return HTMLResponse(page, headers=headers)
