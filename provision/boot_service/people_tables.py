"""What the store keeps for people: their accounts and sessions, and the run that the dashboard shows."""

from __future__ import annotations

from sqlalchemy import Column, Float, Index, Integer, MetaData, String, Table, Text

metadata = MetaData()

accounts = Table(
    "accounts",
    metadata,
    Column("name", String, primary_key=True),
    Column("role", String, nullable=False),
    Column("password_hash", String),
    Column("token_sha256", String, unique=True),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id_sha256", String, primary_key=True),
    Column("account", String, nullable=False, index=True),
    Column("expires", Float, nullable=False),
)

failures = Table(
    "login_failures",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", String, nullable=False),
    Column("time", Float, nullable=False),
    Index("login_failures_of_key", "key", "time"),
)

current_run = Table(
    "current_run",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("content", Text, nullable=False),
)
