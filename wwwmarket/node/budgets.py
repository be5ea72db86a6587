"""API keys and their money: made, limited, rotated, paid and emptied. A key's budget is its sub-account's balance.

So the operator of a gateway spends no more for a key than was moved to it, and whoever audits the ledger sees each
movement. A budget per period is the same: at the period's first request the sub-account is filled up to it.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Final

from wwwmarket.domain.errors import Conflict, Malformed
from wwwmarket.domain.identity import AccountId
from wwwmarket.domain.quantity import MicroCredits
from wwwmarket.market.allowance import NO_LIMITS, Allowance, Limits
from wwwmarket.node.author import Author
from wwwmarket.node.keys import Keyring
from wwwmarket.node.moves import NAME_CHARS_MAX, Moves
from wwwmarket.node.replica import Replica
from wwwmarket.node.service import ApiKeyView, Delivered, DeliveryEvent, Purchase
from wwwmarket.ports.clock import Clock
from wwwmarket.ports.engine import ResponsePiece

_PROMPT_BYTES_PER_TOKEN: Final = 4
"""The usual measure of English text; only for requests whose count nobody waited for."""


class Budgets:
    def __init__(  # noqa: PLR0913, PLR0917 - a node's own parts
        self,
        node: Callable[[], AccountId],
        keyring: Keyring,
        author: Author,
        moves: Moves,
        replica: Replica,
        clock: Clock,
    ) -> None:
        self._node = node
        self._keyring = keyring
        self._author = author
        self._moves = moves
        self._replica = replica
        self._clock = clock
        self._sweeping = asyncio.Lock()

    async def create(self, name: str, budget_micro: MicroCredits, limits: Limits) -> tuple[str, ApiKeyView]:
        """A key with its secret, shown this once. Raises Conflict where the node cannot pay the budget."""
        self._check_funds(self._node(), budget_micro)
        secret, view = await self._keyring.create(name, limits)
        for pair in self._keyring.pairs(view.id):
            self._author.add_key(pair)
        if budget_micro:
            await self._moves.move(self._node(), view.account, budget_micro, None)
        return secret, view

    async def rotate(self, key_id: str) -> tuple[str, ApiKeyView]:
        """Another secret for the same key; the old one is worthless from now on. Raises NotFound, Conflict."""
        return await self._keyring.rotate(key_id)

    async def limit(self, key_id: str, limits: Limits) -> ApiKeyView:
        """Other limits from now on. Raises NotFound, Conflict."""
        return await self._keyring.limit(key_id, limits)

    async def revoke(self, key_id: str) -> ApiKeyView:
        """The key is dead, and what it has left returns to the node; what open awards lock returns when they close."""
        view = await self._keyring.revoke(key_id)
        await self._return_left(view)
        return view

    async def pay(self, to: AccountId, amount_micro: MicroCredits, name: str | None) -> None:
        """From the node's account to anybody's. Raises Malformed, InsufficientCredit, Conflict."""
        if not amount_micro:
            raise Malformed("a payment is at least one micro-credit", param="amount_micro")
        if to == self._node():
            raise Malformed("a payment to oneself moves nothing", param="to")
        await self._moves.move(self._node(), to, amount_micro, _named("payment", "", name))

    async def sweep(self) -> None:
        """What has come back to revoked keys since returns to the node as well."""
        for view in self._keyring.revoked():
            await self._return_left(view)

    async def _return_left(self, view: ApiKeyView) -> None:
        async with self._sweeping:
            left = self._available_micro(view.account)
            if left:
                await self._moves.move(view.account, self._node(), left, None)

    async def top_up(self, key_id: str, amount_micro: MicroCredits, name: str | None) -> ApiKeyView:
        """Raises NotFound, Conflict (revoked, or the node has not so much), Malformed."""
        view = self._check_live(key_id)
        if not amount_micro:
            raise Malformed("a top-up is at least one micro-credit", param="amount_micro")
        await self._moves.move(self._node(), view.account, amount_micro, _named("top-up", key_id, name))
        return view

    async def refund(self, key_id: str, amount_micro: MicroCredits, name: str | None) -> ApiKeyView:
        """Back to the node's account, from what is not locked. Raises NotFound, InsufficientCredit, Malformed."""
        view = self._keyring.view(key_id)
        if not amount_micro:
            raise Malformed("a refund is at least one micro-credit", param="amount_micro")
        await self._moves.move(view.account, self._node(), amount_micro, _named("refund", key_id, name))
        return view

    async def admit(self, account: AccountId, model: str) -> Allowance:
        """Let a request of the key behind ``account`` in; the node's own account has no limits.

        Raises as ``Allowance.admit``.
        """
        key_id = self._keyring.id_of(account)
        if key_id is None:
            return Allowance(NO_LIMITS)
        allowance = self._keyring.allowance(key_id)
        allowance.admit(self._clock.now_ms(), model)
        if allowance.limits.period is not None:
            await self._fill_up(key_id, account, allowance.limits)
        return allowance

    async def _fill_up(self, key_id: str, account: AccountId, limits: Limits) -> None:
        """At the first request of a period. The period is marked first: were the node to crash in between, the key
        would wait a period rather than be paid twice.
        """
        period = limits.period
        assert period is not None
        view = self._keyring.view(key_id)
        number = max(0, self._clock.now_ms() - view.created_ms) // period.length_ms
        if not await self._keyring.begin_period(key_id, number):
            return
        balance = self._replica.state.account(account)
        missing = period.budget_micro - balance.available_micro - balance.locked_micro
        payable = min(missing, self._available_micro(self._node()))
        if payable > 0:
            await self._moves.move(self._node(), account, payable, f"period/{key_id}/{number}")

    def _check_live(self, key_id: str) -> ApiKeyView:
        view = self._keyring.view(key_id)
        if view.revoked:
            raise Conflict("this API key was revoked; create another", param="id")
        return view

    def _check_funds(self, account: AccountId, amount_micro: int) -> None:
        available = self._available_micro(account)
        if amount_micro > available:
            raise Conflict(
                f"this node's account has {available} micro-credits available, not {amount_micro}",
                param="budget_micro",
            )

    def _available_micro(self, account: AccountId) -> MicroCredits:
        return self._replica.state.account(account).available_micro


async def metered(
    events: AsyncGenerator[DeliveryEvent], allowance: Allowance, purchase: Purchase, clock: Clock
) -> AsyncGenerator[DeliveryEvent]:
    """Count the tokens of an answer; of one that its client leaves, a token for each piece that it was sent."""
    pieces, usage = 0, None
    try:
        async for event in events:
            if isinstance(event, ResponsePiece):
                pieces += event.tokens
            elif isinstance(event, Delivered):
                usage = event.usage
            yield event
    finally:
        prompt = purchase.prompt_bytes // _PROMPT_BYTES_PER_TOKEN if pieces else 0
        allowance.used(clock.now_ms(), prompt + pieces if usage is None else usage.input_tokens + usage.output_tokens)


def _named(kind: str, key_id: str, name: str | None) -> str | None:
    if name is None:
        return None
    if not 0 < len(name) <= NAME_CHARS_MAX or not name.isascii() or not name.isprintable():
        raise Malformed(
            f"an idempotency key is 1 to {NAME_CHARS_MAX} printable ASCII characters", param="idempotency-key"
        )
    return f"{kind}/{key_id}/{name}"
