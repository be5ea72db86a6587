"""What clients and the bank were told, against what the ledger says: to the last micro-credit.

The ledger is replayed here, by this program's own rules, up to a checkpoint that its key has signed.
"""

from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass, field

from wwwmarket.adapters.log_reader import open_log
from wwwmarket.cli.ledger import entries, read_checkpoint
from wwwmarket.crypto.signing import open_entry
from wwwmarket.domain.identity import AccountId, EntryId
from wwwmarket.domain.records import Award, Settlement, Transfer
from wwwmarket.ledger.checkpoint import open_checkpoint
from wwwmarket.ledger.merkle import Frontier, leaf_hash
from wwwmarket.ledger.note import parse_verifier_key
from wwwmarket.market.audit.balances import conservation_fault, expiry_fault
from wwwmarket.rules.check import Checked, check
from wwwmarket.rules.registry import Registry
from wwwmarket.rules.state import State


@dataclass
class Client:
    """One API key as its owner knows it. ``moved_micro`` is what the bank was told has come, less what has gone.

    ``intents`` counts what was asked to be bought; a repeat under the same name is no further intent.
    """

    account: AccountId
    moved_micro: int = 0
    intents: int = 0
    told: dict[EntryId, int] = field(default_factory=dict)
    free: set[EntryId] = field(default_factory=set)
    """Awards of which the client was told that nothing is charged."""


class Ledger:
    """A replay: balances, and what each award cost whom."""

    def __init__(self, address: str, vkey: str) -> None:
        self.state = State(Registry.load())
        self.costs: dict[EntryId, int] = {}
        self.awards: dict[AccountId, set[EntryId]] = defaultdict(set)
        self.moved: dict[AccountId, int] = defaultdict(int)
        self.settled_twice: list[EntryId] = []
        tree = Frontier()
        with closing(open_log(address)) as log:
            note, checkpoint = read_checkpoint(log)
            open_checkpoint(note, parse_verifier_key(vkey))
            for _, leaf in entries(log, checkpoint, 0):
                tree.append(leaf_hash(leaf))
                self._follow(check(open_entry(leaf)))
        assert tree.root() == checkpoint.root, "the entries are not those of the checkpoint"

    def _follow(self, checked: Checked) -> None:
        body, state = checked.body, self.state
        opened = state.award(body.award) if isinstance(body, Settlement) else None
        before = None if opened is None else state.account(opened.client)
        state.apply(checked)
        if isinstance(body, Award):
            self.awards[checked.account].add(checked.id)
        elif isinstance(body, Transfer):
            self.moved[checked.account] -= body.amount_micro
            self.moved[body.to] += body.amount_micro
        elif isinstance(body, Settlement) and opened is not None and before is not None:
            if body.award in self.costs:
                self.settled_twice.append(body.award)
            came_back_micro = state.account(opened.client).available_micro - before.available_micro
            self.costs[body.award] = opened.award.locked_micro - came_back_micro

    @property
    def size(self) -> int:
        return self.state.size

    def faults(self) -> list[str]:
        """Of the ledger by itself."""
        state = self.state
        found = [conservation_fault(state.accounts(), state.total_micro), expiry_fault(state)]
        faults = [fault.message for fault in found if fault is not None]
        faults += [f"award {award} is settled twice" for award in self.settled_twice]
        if state.awards():
            faults.append(f"{len(state.awards())} awards are still open")
        locked = sum(account.locked_micro for account in state.accounts().values())
        return [*faults, *([f"{locked} micro-credits are still locked"] if locked else [])]

    def unexplained(self, client: Client) -> list[str]:
        """Where the ledger differs from what a client was told."""
        name, found = client.account[:8], []
        balance = self.state.account(client.account)
        costs = {award: self.costs.get(award, 0) for award in self.awards[client.account]}
        if self.moved[client.account] != client.moved_micro:
            found.append(f"{name}: {self.moved[client.account]} came, the bank was told {client.moved_micro}")
        if balance.available_micro != client.moved_micro - sum(costs.values()):
            found.append(f"{name}: has {balance.available_micro}, not {client.moved_micro - sum(costs.values())}")
        for award, cost_micro in client.told.items():
            if costs.get(award) != cost_micro:
                found.append(f"{name}: award {award} cost {costs.get(award)}, its client was told {cost_micro}")
        found += [
            f"{name}: award {award} cost {costs[award]}, and was to be free"
            for award in client.free
            if costs.get(award)
        ]
        charged = sum(cost_micro > 0 for cost_micro in costs.values())
        if charged > client.intents:
            found.append(f"{name}: charged for {charged} answers, and asked for {client.intents}")
        return found
