"""What a node keeps, in SQL: SQLite on one machine, by SQLAlchemy Core, its schema made by migrations alone."""

from wwwmarket.adapters.storage.store import SqlStore
from wwwmarket.adapters.storage.witness import Witness

__all__ = ["SqlStore", "Witness"]
