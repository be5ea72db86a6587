"""What a node says of an award, a receipt and an account: pending until a quorum of mirrors has cosigned it."""

from http import HTTPStatus

import pytest
from msgspec.structs import replace

from tests.integration.node.test_own_signature import make_bid
from tests.integration.node.town import Town, buy, simulate
from wwwmarket.crypto.signing import KeyPair, sign
from wwwmarket.domain.committee import Committee, Member
from wwwmarket.domain.errors import NotFound, Unavailable
from wwwmarket.ledger.checkpoint import cosign_checkpoint, open_checkpoint
from wwwmarket.ledger.note import Cosigner, VerifierKey
from wwwmarket.ledger.quorum import check_quorum, cosigner_keys
from wwwmarket.ledger.witness import parse_request
from wwwmarket.ports.mirrors import MirrorAnswer

COSIGNERS = [Cosigner(f"mirror.test/{number}", KeyPair(bytes([number]) * 32)) for number in range(1, 5)]
COMMITTEE = Committee(
    members=tuple(
        Member(
            name=each.verifier.name,
            account=KeyPair(bytes([number + 100]) * 32).account,
            cosigner=each.verifier.account,
            url=f"http://mirror-{number}.test",
        )
        for number, each in enumerate(COSIGNERS)
    )
)


class Credulous:
    """Implements ``ports.mirrors.Mirrors``: those that are ``up`` cosign whatever the log has signed."""

    def __init__(self, log: VerifierKey) -> None:
        self._log = log
        self.up = 4

    async def add_checkpoint(self, url: str, body: bytes, *, timeout_ms: int) -> MirrorAnswer:
        number = next(place for place, member in enumerate(COMMITTEE.members) if member.url == url)
        if number >= self.up:
            raise Unavailable("nobody answers", retry_after_ms=timeout_ms)
        checkpoint = open_checkpoint(parse_request(body).note, self._log)
        line = cosign_checkpoint(COSIGNERS[number], checkpoint, timestamp_s=1).line
        return MirrorAnswer(status=HTTPStatus.OK, media_type="text/plain", body=line.encode())


def test_awards_receipts_accounts_offers_and_providers_are_pending_and_then_final():
    """With two mirrors of four nothing new is final and every answer says so; with the third, all of it is."""

    async def story(town: Town) -> None:
        log = VerifierKey(name=town.genesis.origin, account=town.log_key.account)
        town.genesis = replace(town.genesis, committee=COMMITTEE)
        town.mirrors = mirrors = Credulous(log)
        operator = await town.house("operator", None)
        await town.house("provider")
        await town.listed(1)
        answers = operator.answers

        def listed() -> set[str]:
            ((name, one),) = answers.offers()
            return {answers.offer_finality(name), answers.provider(one.provider).finality}

        await town.until(lambda: answers.status().final_size > 0)
        await town.until(lambda: listed() == {"final"})
        mirrors.up = 2
        bought = await buy(operator)
        await town.settled()

        async def said() -> set[str]:
            award, receipt = (
                await answers.explain(bought.delivered.award),
                await answers.receipt(bought.delivered.award),
            )
            return {award.finality, receipt.finality, answers.account(operator.key.account).finality}

        assert await said() == {"pending"}
        bid = sign(operator.key, make_bid(town, client=operator.key.account)).signed
        assert (await operator.run(answers.auction(bid))).finality == "pending", "it does not even stand there"
        ((name, one),) = answers.offers()
        assert answers.offer_finality(name) == "final", "it was listed before"
        assert answers.provider(one.provider).finality == "pending", "and has earned since"
        before = answers.status()
        assert before.final_size < before.ledger_size
        mirrors.up = 3
        await town.until(lambda: answers.status().final_size >= before.ledger_size)
        assert await said() | listed() == {"final"}
        final = open_checkpoint(answers.final_checkpoint(), log, cosigner_keys(COMMITTEE))
        check_quorum(final, COMMITTEE)
        assert final.checkpoint.size == answers.status().final_size

    simulate(story)


def test_where_there_is_no_committee_nothing_is_said_of_finality():
    """None: the operator alone says what stands, and no checkpoint ever is final."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        await town.house("provider")
        await town.listed(1)
        bought = await buy(operator)
        await town.settled()
        award = await operator.answers.explain(bought.delivered.award)
        assert (award.finality, operator.answers.account(operator.key.account).finality) == ("none", "none")
        with pytest.raises(NotFound):
            operator.answers.final_checkpoint()

    simulate(story)
