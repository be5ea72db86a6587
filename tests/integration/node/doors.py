"""Somebody at a provider's door with a key of its own: an honest gateway whose every word can be changed."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec.structs import replace

from tests.integration.node.town import REGISTRY, REQUEST, House, Town
from tests.unit.rules.world import key
from wwwmarket.crypto import canonical, signing
from wwwmarket.crypto.digest import digest, request_digest
from wwwmarket.crypto.sealing import Channel, SealingPair
from wwwmarket.crypto.signing import KeyPair, Verified, VerifiedEntry
from wwwmarket.domain.identity import NodeId
from wwwmarket.domain.model import ModelRequirement
from wwwmarket.domain.quantity import Slo
from wwwmarket.domain.records import Ask, Award, Bid, Inclusion, Offer, Receipt, Signed, Transfer
from wwwmarket.node import loopback, messages
from wwwmarket.simulator.transport import MemoryTransport

SALT = bytes(32)
TIMEOUT_MS = 10_000


class Gateway:
    """Has a million micro-credits, a place on the network, and one provider in mind."""

    def __init__(self, town: Town, provider: House, name: str) -> None:
        self.town, self.provider, self.client = town, provider, key(name)
        self.transport: MemoryTransport = town.network.join(NodeId(self.client.account))
        self.transport.serve(_nobody, _nobody)
        self.sealing = SealingPair(bytes(range(32)))
        self.channel: Channel

    @classmethod
    async def made(
        cls, town: Town, provider: House, *, name: str = "gateway", amount_micro: int = 1_000_000
    ) -> "Gateway":
        gateway = cls(town, provider, name)
        operator = town.operator
        if amount_micro:
            body = Transfer(to=gateway.client.account, amount_micro=amount_micro)
            await operator.node.author.settle(operator.key.account, body)
        await town.listed(1)
        state = provider.node.replica.state
        await town.until(lambda: state.account(gateway.client.account).available_micro == amount_micro)
        return gateway

    @property
    def offer(self) -> tuple[str, Offer]:
        offers = self.provider.node.replica.state.offers()
        return next(
            (name, listed.offer) for name, listed in offers.items() if listed.provider == self.provider.key.account
        )

    def bid(self, **changes: Any) -> Bid:
        bid = Bid(
            client=self.client.account,
            model=ModelRequirement(name="test/model"),
            input_tokens=20,
            max_input_tokens=100,
            expected_output_tokens=8,
            max_output_tokens=16,
            max_price_micro=100_000,
            time_value_micro_per_s=0,
            slo=Slo(ttft_ms=10_000, tpot_ms=1_000),
            request_digest=request_digest(SALT, REQUEST),
            auctioneer=NodeId(self.client.account),
            issued_ms=self.town.clock.now_ms(),
            expires_ms=self.town.clock.now_ms() + 30_000,
        )
        return replace(bid, **changes)

    async def say(self, message: bytes, house: House | None = None) -> bytes:
        """One request to the provider's door, or another's."""
        address = (house or self.provider).transport.address()
        return await self.transport.request(address, message, timeout_ms=TIMEOUT_MS)

    async def ask(self, bid: Bid) -> Verified[Ask]:
        message = messages.AskRequest(offer=self.offer[0], bid=signing.sign(self.client, bid).signed)
        answer = messages.read_answer(await self.say(canonical.encode(message)))
        assert isinstance(answer, messages.AskAnswer), answer
        return signing.verify(answer.ask)

    def award(self, bid: Bid, ask: Verified[Ask], **changes: Any) -> Award:
        now_ms = self.town.clock.now_ms()
        clearing = REGISTRY.current.award.clear(bid, ask.body, self.offer[1], None)
        award = Award(
            bid=bid,
            winner=ask.signed,
            runner_up=None,
            asks=(digest(ask.body),),
            prices=clearing.prices,
            locked_micro=clearing.locked_micro,
            claim_after_ms=now_ms + 20_000,
            expires_ms=now_ms + 40_000,
        )
        return replace(award, **changes)

    def entry(self, body: Any, signer: KeyPair | None = None, *, ahead: int = 0) -> VerifiedEntry:
        author = signer or self.client
        seq, prev = self.town.operator.node.replica.state.chain_head(author.account)
        return signing.verified_own(signing.sign_entry(author, seq=seq + ahead, prev=prev, body=body))

    async def submit(self, entry: VerifiedEntry) -> Signed[Inclusion]:
        message = canonical.encode(messages.Submit(leaves=(entry.leaf.decode(),)))
        answer = messages.read_answer(await self.say(message, self.town.operator))
        if isinstance(answer, messages.Refused):
            raise messages.as_refusal(answer)
        assert isinstance(answer, messages.Submitted)
        (own,) = answer.answers
        if isinstance(own, messages.Refused):
            raise messages.as_refusal(own)
        return own.inclusion

    async def opening(
        self, *, promised: bool = True, request: bytes = REQUEST, award: Award | None = None
    ) -> messages.Execute:
        """An honest opening, with the ledger's promise or without."""
        if award is None:
            bid = self.bid()
            award = self.award(bid, await self.ask(bid))
        return await self.open_with(self.entry(award), promised=promised, request=request)

    async def open_with(
        self, entry: VerifiedEntry, *, promised: bool = False, request: bytes = REQUEST
    ) -> messages.Execute:
        promise = await self.submit(entry) if promised else None
        self.channel = self.sealing.channel(self.offer[1].sealing_key, "gateway")
        order = messages.Order(path="/v1/chat/completions", salt=SALT.hex(), request_bytes=len(request))
        return messages.Execute(
            leaf=entry.leaf.decode(),
            gateway_key=self.sealing.public,
            sealed=self.channel.seal(canonical.encode(order) + b"\n" + request),
            promise=promise,
        )

    async def open_stream(self, opening: messages.Execute | bytes) -> Any:
        frame = opening if isinstance(opening, bytes) else canonical.encode(opening)
        return await self.transport.open_stream(self.provider.transport.address(), frame, timeout_ms=TIMEOUT_MS)

    async def hear(self, stream: Any) -> list[bytes]:
        """All unsealed frames until the last."""
        heard, last = [], False
        while not last:
            frame = await stream.receive()
            assert frame is not None, heard
            plain, last = self.channel.open(frame)
            heard.append(plain)
        return heard

    async def execute(self, opening: messages.Execute) -> list[bytes]:
        return await self.hear(await self.open_stream(opening))

    async def said(self, opening: messages.Execute) -> messages.AttestationGiven:
        """What the provider attests in the end."""
        return attestation_in(await self.execute(opening))

    async def send(self, stream: Any, message: messages.GatewayFrame) -> None:
        await stream.send(canonical.encode(message))

    def receipt(self, given: messages.AttestationGiven, **changes: Any) -> Signed[Receipt]:
        said = given.attestation.body
        receipt = Receipt(
            award=said.award,
            response_digest=said.response_digest,
            usage=said.usage,
            ttft_ms=1,
            latency_ms=1,
            verdict="agreed",
        )
        return signing.sign(self.client, replace(receipt, **changes)).signed

    def dead_stream(self) -> Any:
        """A stream that nobody reads."""
        return loopback.pair(NodeId(self.client.account))[0]

    async def close(self) -> None:
        await self.transport.close()


def attestation_in(frames: list[bytes]) -> messages.AttestationGiven:
    assert frames[-1][:1] == b"a", frames
    return canonical.decode(frames[-1][1:], messages.AttestationGiven)


async def _nobody(*_: Any) -> Any:
    raise AssertionError("nobody calls a gateway")


async def within(doing: Awaitable[Any], duration_ms: int) -> Any:
    """Its result, in simulated time."""
    return await asyncio.wait_for(asyncio.ensure_future(doing), duration_ms / 1_000)


Changing = Callable[[Award], Award]
