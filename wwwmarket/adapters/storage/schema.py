"""Brings a database to the schema of this code, by the migrations and nothing else."""

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from wwwmarket.domain.errors import Conflict

_PACKAGE: Final = Path(__file__).resolve().parents[2]


def migrations() -> Path:
    """The migrations: inside an installed package, or at the top of a checkout."""
    installed, checkout = _PACKAGE / "_migrations", _PACKAGE.parent / "migrations"
    return installed if installed.is_dir() else checkout


def configuration(connection: Connection) -> Config:
    """Alembic's settings for one open connection, from no file, so that nobody's logging is touched."""
    config = Config()
    config.set_main_option("script_location", str(migrations()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def upgrade(connection: Connection, what: str) -> None:
    """Raises Conflict: ``what`` was written by newer code, whose schema is unknown here."""
    config = configuration(connection)
    scripts = ScriptDirectory.from_config(config)
    known = {script.revision for script in scripts.walk_revisions()}
    current = set(MigrationContext.configure(connection).get_current_heads())
    if current - known:
        raise Conflict(
            f"{what} has schema {', '.join(sorted(current - known))}, newer than this program knows: upgrade "
            "wwwmarket, or restore the copy made before the upgrade",
            reason="newer_database",
        )
    if current != set(scripts.get_heads()):
        command.upgrade(config, "head")
