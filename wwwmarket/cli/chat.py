"""``wwwmarket chat``: talk to a model on offer, each answer bought at auction."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import msgspec

from wwwmarket.cli.amounts import credits_text, parse_credits
from wwwmarket.cli.bid import CHAT, award_of, headers_of, pieces, plain, slo_of
from wwwmarket.cli.client import GatewayClient
from wwwmarket.cli.options import GATEWAY, ApiKey, Gateway, Json, option
from wwwmarket.cli.output import printable, say
from wwwmarket.domain.errors import Malformed, Refusal
from wwwmarket.domain.quantity import Slo
from wwwmarket.gateway.catalogue import ModelList
from wwwmarket.gateway.market import BidForKey
from wwwmarket.node.service import Explanation

COST_PATIENCE_S: Final = 8.0
"""A little longer than a gateway waits for the attestation of what was cancelled."""
_POLL_S: Final = 0.1
_TURNS_MAX: Final = 1_000
_MODEL_CHOICES_SHOWN: Final = 8

HELP: Final = """/help          this
/cost          what the answers of this conversation came to
/model NAME    go on with another model
/new           forget the conversation
/quit          leave; so does Ctrl-D
Ctrl-C         cancel the answer: only what was delivered is paid"""


@dataclass
class Conversation:
    """What was said, and what it cost."""

    model: str
    max_tokens: int
    terms: dict[str, str]
    json: bool
    messages: list[dict[str, str]] = field(default_factory=list)
    spent_micro: int = 0
    answers: int = 0


@dataclass
class Told:
    """One answer. ``ttft_ms`` is by this program's own clock."""

    text: str = ""
    award: str = ""
    cancelled: bool = False
    ttft_ms: int | None = None


def chat(  # noqa: PLR0913 - each is a term of its bids
    *,
    api_key: ApiKey,
    gateway: Gateway = GATEWAY,
    model: Annotated[
        str | None, option("--model", "What is on offer is at /v1/models; the only one by default.")
    ] = None,
    system: Annotated[str | None, option("--system", "What the model is told before all else.")] = None,
    max_tokens: Annotated[int, option("--max-tokens", "Longest answer.", min=1)] = 1_024,
    max_price: Annotated[
        int | None,
        option("--max-price", "Most that one answer may cost.", parser=parse_credits, metavar="CREDITS"),
    ] = None,
    ttft_ms: Annotated[int | None, option("--ttft-ms", "Latest first token.", min=1)] = None,
    tpot_ms: Annotated[int | None, option("--tpot-ms", "Longest time per token after it.", min=1)] = None,
    json: Json = False,
) -> None:
    """Talk to a model. Answers are on standard output as they come; cost, provider and time on standard error.

    \b
      wwwmarket chat --api-key sk-…
      wwwmarket chat --model qwen3-8b --max-price 0.002 --system "Answer in one sentence."
      printf 'Name three rivers\\n' | wwwmarket chat --json | jq .cost_micro

    Ctrl-C cancels the answer, and only what was delivered is paid; /help says what else there is.
    """  # noqa: D301 - \b keeps the examples' lines
    slo: Slo | None = slo_of(ttft_ms, tpot_ms)
    terms = BidForKey(path=CHAT, request=msgspec.Raw(b"{}"), max_price_micro=max_price, slo=slo)
    with GatewayClient(gateway, api_key) as client:
        talk = Conversation(model or _only_model(client), max_tokens, headers_of(terms), json)
        if system is not None:
            talk.messages.append({"role": "system", "content": system})
        say(f"{printable(talk.model)} at {client.base}. /help says what there is to say; Ctrl-D leaves.")
        for line in _lines():
            if line.startswith("/"):
                if not _command(talk, line):
                    break
            elif line:
                _turn(client, talk, line)
        say(f"{talk.answers} answers, {credits_text(talk.spent_micro)} credits.")


def _only_model(client: GatewayClient) -> str:
    names = [card.id for card in client.get("/v1/models", ModelList).data]
    if len(names) != 1:
        some = ", ".join(names[:_MODEL_CHOICES_SHOWN]) or "none"
        raise Malformed(f"say which model with --model; on offer: {printable(some)}")
    return names[0]


def _lines() -> Iterator[str]:
    """What is typed, until the end of it. At the prompt Ctrl-C only begins the line anew."""
    at_terminal = sys.stdin.isatty()
    if at_terminal:
        import readline  # noqa: F401 - importing it gives input() its history and editing
    for _ in range(_TURNS_MAX):
        try:
            yield input("> " if at_terminal else "").strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            say("(Ctrl-D or /quit leaves)")


def _command(talk: Conversation, line: str) -> bool:
    """Whether the conversation goes on."""
    name, _, rest = line.partition(" ")
    match name:
        case "/quit" | "/exit":
            return False
        case "/cost":
            say(f"{talk.answers} answers, {credits_text(talk.spent_micro)} credits.")
        case "/new":
            talk.messages = [message for message in talk.messages if message["role"] == "system"]
            say("Forgotten.")
        case "/model" if rest:
            talk.model = rest.strip()
            say(f"Going on with {printable(talk.model)}.")
        case _:
            for told in HELP.splitlines():
                say(told)
    return True


def _turn(client: GatewayClient, talk: Conversation, line: str) -> None:
    """One question and its answer. A refusal ends the turn, not the conversation."""
    talk.messages.append({"role": "user", "content": line})
    try:
        told = _ask(client, talk)
    except Refusal as refusal:
        talk.messages.pop()
        say(printable(refusal.message))
        return
    talk.messages.append({"role": "assistant", "content": told.text})
    talk.answers += 1
    settled = _settled(client, told.award)
    talk.spent_micro += settled.cost_micro or 0
    _report(talk, told, settled)


def _ask(client: GatewayClient, talk: Conversation) -> Told:
    request: dict[str, Any] = {
        "model": talk.model,
        "messages": talk.messages,
        "max_tokens": talk.max_tokens,
        "stream": True,
    }
    told, begun_s = Told(), time.monotonic()
    try:
        with client.stream(CHAT, request, talk.terms) as (headers, lines):
            told.award = award_of(headers)
            for piece in pieces(lines):
                if told.ttft_ms is None:
                    told.ttft_ms = round((time.monotonic() - begun_s) * 1_000)
                told.text += piece
                if not talk.json:
                    sys.stdout.write(plain(piece))
                    sys.stdout.flush()
    except KeyboardInterrupt:
        if not told.award:
            raise Malformed("cancelled before there was an answer: nothing is paid") from None
        told.cancelled = True
    if not talk.json:
        sys.stdout.write("\n")
        sys.stdout.flush()
    return told


def _settled(client: GatewayClient, award: str) -> Explanation:
    """The award with its cost, which a cancelled answer has only once its provider has attested."""
    deadline_s = time.monotonic() + COST_PATIENCE_S
    while True:
        told = client.get(f"/v1/awards/{award}", Explanation)
        if told.cost_micro is not None or time.monotonic() > deadline_s:
            return told
        time.sleep(_POLL_S)


def _report(talk: Conversation, told: Told, settled: Explanation) -> None:
    winner, usage = settled.award.winner.signer, settled.usage
    if talk.json:
        line = {
            "text": told.text,
            "award": told.award,
            "provider": winner,
            "cost_micro": settled.cost_micro,
            "output_tokens": None if usage is None else usage.output_tokens,
            "ttft_ms": told.ttft_ms,
            "cancelled": told.cancelled,
        }
        sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
        sys.stdout.flush()
        return
    cost = "still being counted" if settled.cost_micro is None else f"{credits_text(settled.cost_micro)} credits"
    tokens = "" if usage is None else f" for {usage.output_tokens} tokens"
    first = "" if told.ttft_ms is None else f", first token after {told.ttft_ms} ms"
    cancelled = "cancelled; " if told.cancelled else ""
    say(f"[{cancelled}{cost}{tokens}, by {winner[:12]}{first}]")
