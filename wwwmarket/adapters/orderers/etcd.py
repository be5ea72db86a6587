"""Order by etcd: three to five members that agree by Raft, and a bounded tail of the log among them.

Keys, below ``/wwwmarket/{origin}/``::

    leader            the leader's name, bound to its lease; its create revision is the fence
    head              the log's size, in decimal
    entries/{index}   the leaves of one append, as a bundle, by the index of the first, 16 hexadecimal digits
    sequencers/{name} a sequencer's announcement, bound to its lease

An append is one transaction: if the leader key still has the create revision under which this process was elected, and
the head is where it appends. A leader whose lease has ended therefore cannot write, whatever it believes.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from wwwmarket.adapters.orderers.etcd_client import EtcdClient, decoded, encoded, parse_members
from wwwmarket.adapters.orderers.tenure import LEASE_S, Tenure
from wwwmarket.domain.errors import Conflict, Malformed, NotFound, Refusal, Unavailable
from wwwmarket.ledger.bundles import decode_bundle, encode_bundle
from wwwmarket.ports.store import ORDER_ENTRIES_MAX, Sequencing, check_order

_POLL_S: Final = 0.2
"""How often a candidate looks whether the leader has gone."""
_BATCHES_READ_MAX: Final = 16
"""Appends in one answer: 16 MiB at most."""
_SEQUENCERS_MAX: Final = 64


class EtcdOrderer:
    """Implements ``ports.store.Orderer`` for the log ``origin``, in the name of one sequencer process."""

    def __init__(self, client: EtcdClient, origin: str, name: str, *, lease_s: int = LEASE_S) -> None:
        self._client, self._name, self._lease_s = client, name, lease_s
        prefix = f"/wwwmarket/{origin}/"
        self._leader, self._head = encoded(f"{prefix}leader".encode()), encoded(f"{prefix}head".encode())
        self._entries, self._sequencers = f"{prefix}entries/", f"{prefix}sequencers/"
        self._tenure: Tenure | None = None
        self._announcing: str | None = None

    @classmethod
    def open(cls, address: str, origin: str, name: str, *, lease_s: int = LEASE_S) -> "EtcdOrderer":
        """``etcd://host:port,host:port,host:port``. Raises Malformed."""
        return cls(EtcdClient(parse_members(address)), origin, name, lease_s=lease_s)

    # Leading

    async def campaign(self) -> None:
        if self._tenure is not None:
            await self._tenure.end()
            self._tenure = None
        asked_s = time.monotonic()
        lease = await self._grant()
        while (epoch := await self._elect(lease)) is None:
            await asyncio.sleep(_POLL_S)
            asked_s = time.monotonic()
            if not await self._renew(lease):
                lease = await self._grant()
        self._tenure = Tenure(epoch, lambda: self._renew(lease), lease_s=self._lease_s, granted_s=asked_s)
        self._lease = lease

    async def _grant(self) -> str:
        return str((await self._client.call("lease/grant", {"TTL": self._lease_s}))["ID"])

    async def _renew(self, lease: str) -> bool:
        answer = await self._client.call("lease/keepalive", {"ID": lease})
        return int(answer.get("result", {}).get("TTL", 0)) > 0

    async def _elect(self, lease: str) -> int | None:
        """The create revision of the leader key where it is bound to ``lease``, now or by an answer that was lost."""
        answer = await self._transact(
            compare=[{"key": self._leader, "target": "CREATE", "result": "EQUAL", "create_revision": "0"}],
            success=[_put(self._leader, self._name.encode(), lease), _range(self._leader)],
            failure=[_range(self._leader)],
        )
        for found in _found(answer["responses"][-1]):
            if str(found.get("lease")) == lease:
                return int(found["create_revision"])
        return None

    async def wait_lost(self) -> None:
        if self._tenure is not None:
            await self._tenure.wait_lost()

    # The log

    async def size(self) -> int:
        answer = await self._client.call("kv/range", {"key": self._head})
        return _size(answer)

    async def append(self, first_index: int, leaves: Sequence[bytes]) -> None:
        check_order(leaves)
        if not leaves:
            return
        head: dict[str, Any] = {"key": self._head, "target": "VALUE", "result": "EQUAL"}
        head |= {"value": encoded(b"%d" % first_index)}
        if first_index == 0:
            head = {"key": self._head, "target": "CREATE", "result": "EQUAL", "create_revision": "0"}
        answer = await self._transact(
            compare=[self._fence(), head],
            success=[
                _put(self._head, b"%d" % (first_index + len(leaves))),
                _put(self._entry(first_index), encode_bundle(leaves)),
            ],
            failure=[_range(self._head), _range(self._leader)],
            once=True,
        )
        if not answer.get("succeeded"):
            self._check_leading(answer["responses"][1])
            size = _size(answer["responses"][0]["response_range"])
            raise Conflict(f"the log ends at {size}, not at {first_index}", reason="not_the_end")

    async def read(self, start: int, end: int) -> list[bytes]:
        """An append has at most 256 leaves, so the one that holds ``start`` begins at most 255 before it."""
        entries = {
            "key": self._entry(max(0, start - ORDER_ENTRIES_MAX + 1)),
            "range_end": self._entry(max(start, end)),
            "limit": str(ORDER_ENTRIES_MAX + _BATCHES_READ_MAX),
        }
        keys_only = {"request_range": entries | {"keys_only": True}}
        answer = await self._transact(compare=[], success=[_range(self._head), keys_only], failure=[])
        if start >= min(end, _size(answer["responses"][0]["response_range"])):
            return []
        indices = [self._index(found["key"]) for found in _found(answer["responses"][1])]
        begin = max((index for index in indices if index <= start), default=None)
        if begin is not None:
            leaves = await self._batches(begin, end)
            if len(leaves) > start - begin:
                return leaves[start - begin : end - begin]
        raise NotFound(
            f"etcd keeps only the end of the log, and entry {start} no more: another sequencer or a copy has it",
            reason="trimmed",
        )

    async def _batches(self, begin: int, end: int) -> list[bytes]:
        """The leaves from the append at ``begin`` on, as far as they follow each other; none where it has gone."""
        body = {"key": self._entry(begin), "range_end": self._entry(end), "limit": str(_BATCHES_READ_MAX)}
        leaves: list[bytes] = []
        for found in _found({"response_range": await self._client.call("kv/range", body)}):
            if self._index(found["key"]) != begin + len(leaves):
                break
            leaves += _leaves(decoded(found["value"]))
        return leaves

    async def trim(self, size: int) -> None:
        """Only whole appends go, and then what etcd remembers of them: this etcd is the orderer's own."""
        if size < ORDER_ENTRIES_MAX:
            return
        gone = {
            "request_delete_range": {
                "key": self._entry(0),
                "range_end": self._entry(size - ORDER_ENTRIES_MAX + 1),
            }
        }
        answer = await self._transact(compare=[self._fence()], success=[gone], failure=[_range(self._leader)])
        if not answer.get("succeeded"):
            self._check_leading(answer["responses"][0])
        with suppress(Refusal):  # compacted up to there already
            await self._client.call("kv/compaction", {"revision": answer["header"]["revision"]})

    def _fence(self) -> dict[str, Any]:
        if self._tenure is None or not self._tenure.held:
            raise _fenced()
        epoch = str(self._tenure.epoch)
        return {"key": self._leader, "target": "CREATE", "result": "EQUAL", "create_revision": epoch}

    def _check_leading(self, leader: dict[str, Any]) -> None:
        """Raises Conflict."""
        assert self._tenure is not None
        epochs = [int(found["create_revision"]) for found in _found(leader)]
        if epochs != [self._tenure.epoch]:
            self._tenure.lose()
            raise _fenced()

    # Who is there

    async def announce(self, address: bytes, size: int) -> None:
        if self._announcing is None or not await self._renew(self._announcing):
            self._announcing = await self._grant()
        body = {"name": self._name, "address": address.decode("utf-8"), "size": size}
        key = encoded(f"{self._sequencers}{self._name}".encode())
        await self._client.call(
            "kv/put", {"key": key, "value": encoded(json.dumps(body).encode()), "lease": self._announcing}
        )

    async def sequencers(self) -> list[Sequencing]:
        everyone = {
            "key": encoded(self._sequencers.encode()),
            "range_end": encoded(self._sequencers[:-1].encode() + b"0"),
            "limit": str(_SEQUENCERS_MAX),
        }
        answer = await self._transact(
            compare=[], success=[_range(self._leader), {"request_range": everyone}], failure=[]
        )
        leader = [decoded(found["value"]).decode() for found in _found(answer["responses"][0])]
        return [_announced(decoded(found["value"]), leader) for found in _found(answer["responses"][1])]

    async def close(self) -> None:
        if self._tenure is not None:
            await self._tenure.end()
            with suppress(Unavailable):  # then its lease ends by itself
                await self._client.call("lease/revoke", {"ID": self._lease})
        await self._client.close()

    def _entry(self, index: int) -> str:
        return encoded(f"{self._entries}{index:016x}".encode())

    def _index(self, key: str) -> int:
        return int(decoded(key).decode().rpartition("/")[2], 16)

    async def _transact(
        self, compare: list[Any], success: list[Any], failure: list[Any], *, once: bool = False
    ) -> dict[str, Any]:
        body = {"compare": compare, "success": success, "failure": failure}
        return await self._client.call("kv/txn", body, once=once)


def _put(key: str, value: bytes, lease: str | None = None) -> dict[str, Any]:
    put = {"key": key, "value": encoded(value)}
    return {"request_put": put if lease is None else put | {"lease": lease}}


def _range(key: str) -> dict[str, Any]:
    return {"request_range": {"key": key}}


def _found(response: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = response.get("response_range", {}).get("kvs", [])
    return found


def _size(answer: dict[str, Any]) -> int:
    kept = answer.get("kvs", [])
    return int(decoded(kept[0]["value"])) if kept else 0


def _leaves(bundle: bytes) -> list[bytes]:
    """Raises Malformed."""
    count, place = 0, 0
    while place + 2 <= len(bundle) and count < ORDER_ENTRIES_MAX:
        place += 2 + int.from_bytes(bundle[place : place + 2], "big")
        count += 1
    return decode_bundle(bundle, width=max(1, count))


def _announced(text: bytes, leader: list[str]) -> Sequencing:
    """Raises Malformed."""
    try:
        body = json.loads(text)
        name, address, size = str(body["name"]), str(body["address"]).encode(), int(body["size"])
    except (ValueError, KeyError, TypeError):
        raise Malformed("etcd holds a sequencer's announcement that none of ours wrote") from None
    return Sequencing(name=name, address=address, size=size, leads=leader == [name])


def _fenced() -> Conflict:
    return Conflict("this process does not lead: another sequencer orders now", reason="fenced")
