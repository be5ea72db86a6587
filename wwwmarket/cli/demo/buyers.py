"""Clients that buy answers: the stock OpenAI client where it is installed, else plain HTTP."""

import time
from collections.abc import Iterator
from typing import Any, Final, Protocol

from wwwmarket.cli.bid import CHAT, pieces
from wwwmarket.cli.client import GatewayClient
from wwwmarket.domain.errors import Malformed, Refusal
from wwwmarket.domain.shape import Value

MAX_TOKENS: Final = 96
AWARD_HEADER: Final = "x-wwwmarket-award"


class Reply(Value):
    """An answer as its client saw it. ``ttft_ms`` of an answer that came whole is that of the whole."""

    award: str
    text: str
    ttft_ms: int
    latency_ms: int


class Buyer(Protocol):
    name: str

    def buy(self, prompt: str, headers: dict[str, str], *, stream: bool) -> Reply:
        """One answer. Raises Refusal."""
        ...

    def close(self) -> None: ...


def new_buyer(gateway: str, api_key: str, model: str) -> Buyer:
    """A buyer at ``gateway``, a base address without ``/v1``."""
    try:
        return OpenAiBuyer(gateway, api_key, model)
    except ImportError:
        return HttpBuyer(gateway, api_key, model)


class OpenAiBuyer:
    """The stock client: nothing but its base address and key are this market's."""

    def __init__(self, gateway: str, api_key: str, model: str) -> None:
        import openai

        self.name = f"openai {openai.__version__}"
        self._error: type[Exception] = openai.OpenAIError
        self._model = model
        self._client = openai.OpenAI(base_url=f"{gateway}/v1", api_key=api_key, max_retries=1, timeout=60)

    def buy(self, prompt: str, headers: dict[str, str], *, stream: bool) -> Reply:
        """As ``Buyer.buy``."""
        begun = time.monotonic()
        try:
            raw: Any = self._client.chat.completions.with_raw_response.create(
                model=self._model,
                messages=[{"role": "user", "content": prompt}],
                max_tokens=MAX_TOKENS,
                stream=stream,
                extra_headers=headers,
            )
            answer = raw.parse()
            texts = _chunks(answer) if stream else iter([answer.choices[0].message.content or ""])
            return _timed(texts, raw.headers.get(AWARD_HEADER, ""), begun)
        except self._error as error:
            raise Refusal(str(error)) from None

    def close(self) -> None:
        self._client.close()


def _chunks(answer: Any) -> Iterator[str]:
    return (choice.delta.content for chunk in answer for choice in chunk.choices if choice.delta.content)


class HttpBuyer:
    """The same requests without the OpenAI client."""

    def __init__(self, gateway: str, api_key: str, model: str) -> None:
        self.name = "plain HTTP"
        self._model = model
        self._client = GatewayClient(gateway, api_key)

    def buy(self, prompt: str, headers: dict[str, str], *, stream: bool) -> Reply:
        """As ``Buyer.buy``."""
        begun = time.monotonic()
        messages = [{"role": "user", "content": prompt}]
        body = {"model": self._model, "messages": messages, "max_tokens": MAX_TOKENS, "stream": stream}
        if stream:
            with self._client.stream(CHAT, body, headers) as (told, lines):
                return _timed(pieces(lines), told.get(AWARD_HEADER, ""), begun)
        answer = self._client.post(CHAT, body, dict[str, Any], headers=headers)
        try:
            text, award = answer["choices"][0]["message"]["content"], answer["wwwmarket"]["award"]
        except (KeyError, IndexError, TypeError):
            raise Malformed("the answer is no chat completion of a market") from None
        return _timed(iter([str(text)]), str(award), begun)

    def close(self) -> None:
        self._client.close()


def _timed(texts: Iterator[str], award: str, begun_s: float) -> Reply:
    """Read an answer to its end. Raises Malformed when no award came with it, or no text."""
    first_s: float | None = None
    text = ""
    for piece in texts:
        first_s = first_s or time.monotonic()
        text += piece
    if first_s is None or not award:
        raise Malformed("the answer has no text, or names no award")
    return Reply(
        award=award,
        text=text,
        ttft_ms=round(1000 * (first_s - begun_s)),
        latency_ms=round(1000 * (time.monotonic() - begun_s)),
    )
