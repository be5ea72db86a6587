"""The order of a log that several sequencers share: its leaves, who leads, and who is there."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "ordered",
        sa.Column("index", _SERIAL, autoincrement=False, nullable=False),
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("index", name="pk_ordered"),
    )
    terms = op.create_table(
        "terms",
        sa.Column("epoch", _SERIAL, autoincrement=False, nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("until_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("epoch", name="pk_terms"),
    )
    op.create_table(
        "sequencers",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("address", sa.LargeBinary(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("until_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_sequencers"),
    )
    op.bulk_insert(terms, [{"epoch": 0, "holder": "", "until_ms": 0}])


def downgrade() -> None:
    op.drop_table("sequencers")
    op.drop_table("terms")
    op.drop_table("ordered")
