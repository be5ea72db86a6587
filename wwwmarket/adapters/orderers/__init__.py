"""Orderers by their address: ``sqlite:///path``, ``postgresql+psycopg://…``, ``etcd://host:port,host:port,host:port``."""

from wwwmarket.adapters.orderers.etcd import EtcdOrderer
from wwwmarket.adapters.orderers.sql import SqlOrderer

__all__ = ["EtcdOrderer", "SqlOrderer", "open_orderer"]


def open_orderer(address: str, *, origin: str, name: str) -> EtcdOrderer | SqlOrderer:
    """The orderer of the log ``origin``, in the name of one of its sequencers. Blocks.

    Raises:
        Refusal: as the ``open`` of each, with what to do about it.
    """
    if address.startswith("etcd:"):
        return EtcdOrderer.open(address, origin, name)
    return SqlOrderer.open(address, name)
