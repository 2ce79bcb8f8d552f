"""Several versions of a model may be wanted, with copies and limits; aliases."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Creates the tables; each load that was wanted becomes the serving version of its model, with one copy."""
    op.create_table(
        "wanted_models",
        sa.Column("model", sa.String, nullable=False),
        sa.Column("serving", sa.BigInteger, nullable=False),
        sa.Column("instances", sa.BigInteger, nullable=False),
        sa.Column("max_batch_rows", sa.BigInteger),
        sa.Column("max_queue_rows", sa.BigInteger),
        sa.PrimaryKeyConstraint("model", name="pk_wanted_models"),
    )
    op.execute("INSERT INTO wanted_models (model, serving, instances) SELECT model, version, 1 FROM wanted_loads")
    with op.batch_alter_table("wanted_loads") as table:
        table.drop_constraint("pk_wanted_loads", type_="primary")
        table.create_primary_key("pk_wanted_loads", ["model", "version"])
    op.create_table(
        "aliases",
        sa.Column("model", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("previous", sa.BigInteger),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("model", "name", name="pk_aliases"),
    )
