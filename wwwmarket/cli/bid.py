"""``wwwmarket bid``: buy one answer, and see what the auction came to."""

import sys
from collections.abc import Iterator
from typing import Annotated, Any, Final

import httpx
import msgspec
import typer

from wwwmarket.cli.amounts import credits_text, parse_credits
from wwwmarket.cli.client import GatewayClient
from wwwmarket.cli.explain import why
from wwwmarket.cli.options import GATEWAY, ApiKey, Gateway, Json, option
from wwwmarket.cli.output import emit, printable, say
from wwwmarket.domain.errors import Malformed, Unavailable
from wwwmarket.domain.quantity import Slo
from wwwmarket.gateway.market import BidForKey, Bought
from wwwmarket.gateway.preferences import ANY_TPOT_MS, ANY_TTFT_MS
from wwwmarket.node.service import Explanation

CHAT: Final = "/v1/chat/completions"
PROMPT_CHARACTERS_MAX: Final = 4 * 1024 * 1024

_CONTROLS: Final = {code: f"\\x{code:02x}" for code in [*range(0x20), *range(0x7F, 0xA0)] if chr(code) not in "\n\t"}


class _Delta(msgspec.Struct):
    content: str | None = None


class _Message(msgspec.Struct):
    message: _Delta = msgspec.field(default_factory=_Delta)
    delta: _Delta = msgspec.field(default_factory=_Delta)


class _Chunk(msgspec.Struct):
    choices: list[_Message] = []
    error: dict[str, Any] | None = None


def bid(  # noqa: PLR0913 - each is a term of the bid
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to say to the model; - reads standard input.")],
    *,
    model: Annotated[str, option("--model", "What is on offer is at /v1/models.")],
    api_key: ApiKey,
    gateway: Gateway = GATEWAY,
    max_tokens: Annotated[int, option("--max-tokens", "Longest answer.", min=1)] = 256,
    max_price: Annotated[
        int | None,
        option("--max-price", "Most that it may cost, whatever it comes to.", parser=parse_credits, metavar="CREDITS"),
    ] = None,
    ttft_ms: Annotated[int | None, option("--ttft-ms", "Latest first token.", min=1)] = None,
    tpot_ms: Annotated[int | None, option("--tpot-ms", "Longest time per token after it.", min=1)] = None,
    time_value: Annotated[
        int,
        option("--time-value", "What a second saved is worth to you.", parser=parse_credits, metavar="CREDITS"),
    ] = "0",  # type: ignore[assignment] # typer parses defaults, too
    stream: Annotated[bool, option("--stream", "Show the answer as it comes.")] = False,
    json: Json = False,
) -> None:
    """Buy one answer at auction. The answer is on standard output; who won, for how much and why, on standard error.

    \b
      wwwmarket bid --model wwwmarket-tiny --api-key sk-… "Name three rivers"
      wwwmarket bid --model qwen3-8b --max-price 0.002 --ttft-ms 300 --stream "Name three rivers"
      wwwmarket bid --model qwen3-8b --time-value 0.01 --json - < prompt.txt
    """  # noqa: D301 - \b keeps the examples' lines
    if stream and json:
        raise typer.BadParameter("JSON is whole: choose one of --stream and --json", param_hint="--stream")
    text = _prompt(prompt)
    terms = BidForKey(
        path=CHAT,
        request=msgspec.Raw(
            msgspec.json.encode(
                {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": max_tokens}
            )
        ),
        max_price_micro=max_price,
        slo=slo_of(ttft_ms, tpot_ms),
        time_value_micro_per_s=time_value,
    )
    with GatewayClient(gateway, api_key) as client:
        if stream:
            _tell(client, _show_stream(client, terms))
            return
        bought = client.post("/v1/bids", terms, Bought)
        emit(bought if json else plain(_content(bytes(bought.response))), json)
        _tell(client, bought.award)


def _prompt(given: str) -> str:
    if given != "-":
        return given
    text = sys.stdin.read(PROMPT_CHARACTERS_MAX + 1)
    if len(text) > PROMPT_CHARACTERS_MAX:
        raise typer.BadParameter(f"a prompt is at most {PROMPT_CHARACTERS_MAX} characters", param_hint="PROMPT")
    return text


def slo_of(ttft_ms: int | None, tpot_ms: int | None) -> Slo | None:
    """The objective, with the half that was not given left open."""
    if ttft_ms is None and tpot_ms is None:
        return None
    return Slo(ttft_ms=ttft_ms or ANY_TTFT_MS, tpot_ms=tpot_ms or ANY_TPOT_MS)


def _content(answer: bytes) -> str:
    try:
        choices = msgspec.json.decode(answer, type=_Chunk).choices
    except msgspec.DecodeError:
        raise Malformed("the provider's answer is no chat completion; --json shows it as it is") from None
    return "".join(choice.message.content or "" for choice in choices)


def _show_stream(client: GatewayClient, terms: BidForKey) -> str:
    """Print the pieces as they come; the award."""
    request = {**msgspec.json.decode(bytes(terms.request)), "stream": True}
    with client.stream(CHAT, request, headers_of(terms)) as (headers, lines):
        for piece in pieces(lines):
            sys.stdout.write(plain(piece))
            sys.stdout.flush()
        sys.stdout.write("\n")
        return award_of(headers)


def headers_of(terms: BidForKey) -> dict[str, str]:
    """The terms as the chat door reads them."""
    headers = {"x-wwwmarket-time-value": _decimal(terms.time_value_micro_per_s or 0)}
    if terms.max_price_micro is not None:
        headers["x-wwwmarket-max-price"] = _decimal(terms.max_price_micro)
    if terms.slo is not None:
        headers["x-slo-ttft-ms"] = str(terms.slo.ttft_ms)
        headers["x-slo-tpot-ms"] = str(terms.slo.tpot_ms)
    return headers


def pieces(lines: Iterator[str]) -> Iterator[str]:
    """The text in a stream of chat chunks, up to ``[DONE]``.

    Raises:
        Unavailable: the stream says that it failed, or ends before its end.
        Malformed: a chunk is none.
    """
    for line in lines:
        if not line.startswith("data:"):
            continue
        payload = line.removeprefix("data:").strip()
        if payload == "[DONE]":
            return
        try:
            chunk = msgspec.json.decode(payload, type=_Chunk)
        except msgspec.DecodeError:
            raise Malformed("the answer's stream is no chat completion") from None
        if chunk.error is not None:
            raise Unavailable(str(chunk.error.get("message", "the answer broke off")), retry_after_ms=1_000)
        yield from (choice.delta.content for choice in chunk.choices if choice.delta.content)
    raise Unavailable("the answer broke off before its end", retry_after_ms=1_000)


def award_of(headers: httpx.Headers) -> str:
    """Raises Malformed where an answer names none."""
    award = headers.get("x-wwwmarket-award", "")
    if not award:
        raise Malformed("what answered is no gateway of a market: its answer names no award")
    return str(award)


def _tell(client: GatewayClient, award: str) -> None:
    told = client.get(f"/v1/awards/{award}", Explanation)
    cost = "still being counted" if told.cost_micro is None else f"{credits_text(told.cost_micro)} credits"
    say(f"award    {told.id}")
    say(f"winner   {told.award.winner.signer} of {len(told.asks)} asked: {why(told)}")
    say(f"price    {cost}; first token after {told.ttft_ms} ms, all of it after {told.latency_ms} ms")
    say(f"more     wwwmarket explain {printable(award)} --gateway {client.base}")


def _decimal(micro: int) -> str:
    return credits_text(micro).replace(",", "")


def plain(text: str) -> str:
    """A model's text with what could steer a terminal made visible; lines stay lines."""
    return text.translate(_CONTROLS)
