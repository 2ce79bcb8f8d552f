"""The first tables: jobs and wanted loads."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Creates the tables."""
    op.create_table(
        "jobs",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("algorithm", sa.String, nullable=False),
        sa.Column("task", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("dataset", sa.String, nullable=False),
        sa.Column("cores", sa.BigInteger, nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("request_id", sa.String),
        sa.Column("request_hash", sa.String, nullable=False),
        sa.Column("time_limit", sa.Float(53)),
        sa.Column("progress", sa.Float(53), nullable=False),
        sa.Column("step", sa.Text),
        sa.Column("metrics", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("load_error", sa.Text),
        sa.Column("train_rows", sa.BigInteger, nullable=False),
        sa.Column("validation_rows", sa.BigInteger, nullable=False),
        sa.Column("peak_memory_bytes", sa.BigInteger, nullable=False),
        sa.Column("cpu_seconds", sa.Float(53), nullable=False),
        sa.Column("start_time", sa.DateTime(timezone=True)),
        sa.Column("end_time", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.UniqueConstraint("request_id", name="uq_jobs_request_id"),
    )
    op.create_index("ix_jobs_create_time", "jobs", ["create_time", "id"])
    op.create_index("ix_jobs_state", "jobs", ["state"])
    op.create_table(
        "wanted_loads",
        sa.Column("model", sa.String, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("loaded_by", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("model", name="pk_wanted_loads"),
    )
