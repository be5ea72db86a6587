"""Runs migrations on the connection that ``wwwmarket.adapters.storage.schema`` gives, or, under the ``alembic``
command, on the database named by ``-x url=sqlite:///path``. Touches no logging.
"""

from alembic import context
from sqlalchemy import Connection, create_engine

from wwwmarket.adapters.storage.tables import metadata


def run(connection: Connection) -> None:
    """Batch mode: SQLite changes a column only by copying its table."""
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    with create_engine(context.get_x_argument(as_dictionary=True)["url"]).begin() as opened:
        run(opened)
