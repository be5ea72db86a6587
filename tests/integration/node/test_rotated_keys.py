"""Whole nodes whose accounts are owned by other keys than the ones that they are named after."""

import pytest

from tests.integration.node.town import Town, buy, collect, dearer, key, purchase, settlements, simulate
from wwwmarket.crypto.signing import sign
from wwwmarket.domain.errors import Forbidden
from wwwmarket.domain.keys import Consent, Delegation, Rotation
from wwwmarket.domain.records import Transfer
from wwwmarket.node.keys import derived
from wwwmarket.node.service import Awarded

TEXT = b"data: hello\n\ndata: world\n\ndata: !\n\n"


def consent(by, account, role="owner"):
    return sign(by, Consent(account=account, role=role)).signed


async def rotate(house, to):
    """Put another key in the place of the node's account key, and restart the node with it."""
    account = house.node.account
    await house.run(house.node.author.settle(account, Rotation(account=account, consent=consent(to, account))))
    await house.close()
    house.life.over = True
    house.account_key = to
    await house.open()


async def pay(operator, account, amount_micro):
    await operator.node.author.settle(operator.node.account, Transfer(to=account, amount_micro=amount_micro))


def test_a_provider_and_a_client_go_on_under_other_keys():
    """After both have rotated, an answer is bought, delivered and settled; credits stay under the first names."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        provider, buyer = await town.house("provider"), await town.house("buyer", None)
        await town.listed(1)
        await pay(operator, buyer.key.account, 1_000_000)
        await pay(operator, provider.key.account, 5)
        await town.until(lambda: buyer.node.replica.state.account(buyer.key.account).available_micro == 1_000_000)
        first = await buy(buyer)
        await town.settled()
        await rotate(provider, key("the provider's next key"))
        await rotate(buyer, key("the buyer's next key"))
        await town.listed(1)
        await town.until(
            lambda: {house.node.replica.size for house in town.houses.values()} == {operator.node.replica.size}
        )
        second = await buy(buyer)
        assert second.text == TEXT, second.refusal
        assert second.of(Awarded)[0].provider == provider.key.account
        await town.settled()
        assert settlements(operator)[second.delivered.award] == 1
        earned = first.delivered.cost_micro + second.delivered.cost_micro
        assert town.available(provider.key.account) == 5 + earned
        assert town.available(buyer.key.account) == 1_000_000 - earned
        state = operator.node.replica.state
        assert state.standing(provider.key.account).served_milli == 2_000
        assert provider.answers.provider(provider.key.account).keys.owner == provider.account_key.account

    simulate(story)


def test_a_node_that_missed_the_rotation_is_told_so():
    """The replaced key signs nothing more, whichever node still has it."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        buyer = await town.house("buyer", None)
        await pay(operator, buyer.key.account, 1_000)
        account, following = buyer.key.account, key("the next key")
        await town.until(lambda: buyer.node.replica.state.account(account).available_micro == 1_000)
        await buyer.run(
            buyer.node.author.settle(account, Rotation(account=account, consent=consent(following, account)))
        )
        await town.until(lambda: buyer.node.replica.state.owned_by(following.account) == account)
        with pytest.raises(Forbidden):
            await buyer.run(buyer.node.author.settle(account, Transfer(to=operator.key.account, amount_micro=1)))
        assert town.available(account) == 1_000

    simulate(story)


def test_a_machine_sells_for_its_provider():
    """A second node with a machine's key offers beside the first, answers and settles; what it earns is the provider's."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        head = await town.house("head", prices=dearer(2))
        await pay(operator, head.key.account, 5)
        machine = key("the machine's key")
        account = head.key.account
        await town.until(lambda: head.node.replica.state.account(account).available_micro == 5)
        delegation = Delegation(consent=consent(machine, account, "machine"))
        await head.run(head.node.author.settle(account, delegation))
        second = town.houses["second"] = type(head)(town, "second", town.playing())
        second.account_key = machine
        await second.open()
        assert second.node.account == account
        await town.listed(2)
        bought = await buy(operator)
        assert bought.text == TEXT, bought.refusal
        await town.settled()
        assert town.available(account) == 5 + bought.delivered.cost_micro
        assert town.available(machine.account) == town.available(second.key.account) == 0

    simulate(story)


def test_api_keys_go_on_after_their_node_s_rotation():
    """Their sub-accounts are rotated with it, keep name and budget, and buy; new ones are named by the new key."""

    async def story(town: Town) -> None:
        operator = await town.house("operator", None)
        provider = await town.house("provider")
        await town.listed(1)
        secret, view = await operator.answers.create_key("ada", 1_000_000)
        following = key("the next key")
        fresh = derived(following, view.id)
        body = Rotation(account=view.account, consent=consent(fresh, view.account))
        await operator.run(operator.node.author.settle(view.account, body))
        await rotate(operator, following)
        await town.until(lambda: provider.node.replica.state.owned_by(fresh.account) == view.account)
        assert operator.answers.authenticate(secret).account == view.account
        bought = await operator.run(_buy_as(operator, view.account))
        assert bought.text == TEXT, bought.refusal
        await town.settled()
        assert town.available(view.account) == 1_000_000 - bought.delivered.cost_micro
        _, newer = await operator.answers.create_key("bob", 7)
        assert newer.account == derived(following, newer.id).account

    simulate(story)


async def _buy_as(house, account):
    return await collect(house.answers.purchase(purchase(account)))
