"""The log with its tiles and checkpoints, and a node's own records."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "entries",
        sa.Column("index", _SERIAL, autoincrement=False, nullable=False),
        sa.Column("id", sa.LargeBinary(32), nullable=False),
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("index", name="pk_entries"),
        sa.UniqueConstraint("id", name="uq_entries_id"),
    )
    op.create_table(
        "tiles",
        sa.Column("level", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hashes", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("level", "number", name="pk_tiles"),
    )
    op.create_table(
        "checkpoints",
        sa.Column("size", _SERIAL, autoincrement=False, nullable=False),
        sa.Column("note", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("size", name="pk_checkpoints"),
    )
    op.create_table(
        "records",
        sa.Column("serial", _SERIAL, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("serial", name="pk_records"),
        sa.UniqueConstraint("kind", "key", name="uq_records_kind_key"),
    )
    op.create_index("ix_records_kind_serial", "records", ["kind", "serial"])


def downgrade() -> None:
    op.drop_table("records")
    op.drop_table("checkpoints")
    op.drop_table("tiles")
    op.drop_table("entries")
