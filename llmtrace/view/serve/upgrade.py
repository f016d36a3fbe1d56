"""Upgrades stores that an older llmtrace made, in steps that may be repeated."""

from __future__ import annotations

from typing import Any

from llmtrace.view.serve import columns


def from_1(connection: Any) -> None:
    """Upgrade from version 1, which may hold spans of schema version 2 without their new columns."""
    since = [column for column in columns.TAKEN if column.name in columns.SINCE_2]
    for column in since:
        connection.execute(f"ALTER TABLE spans ADD COLUMN IF NOT EXISTS {column.name} {columns.TYPES[column.name]}")
    for name, kind in columns.CALL_TYPES.items():
        connection.execute(f"ALTER TABLE calls ADD COLUMN IF NOT EXISTS {name} {kind}")
    for column in since:
        for attribute in column.attributes:
            connection.execute(
                f"UPDATE spans SET {column.name} = try_cast(attributes ->> ? AS {columns.TYPES[column.name]}) "
                f"WHERE contains(attributes, ?) AND {column.name} IS NULL",
                [f'$."{attribute}"', f'"{attribute}"'],
            )
    connection.execute(
        "UPDATE calls SET schema_version = s.schema_version FROM spans s "
        "WHERE s.trace_id = calls.trace_id AND s.span_id = calls.span_id AND s.schema_version IS NOT NULL"
    )
    # What is not among the traces is made into calls anew.
    connection.execute(
        "DELETE FROM traces WHERE trace_id IN "
        "(SELECT trace_id FROM spans WHERE schema_version > 1 OR name = 'llm.call')"
    )
    connection.execute("UPDATE state SET version = 2")


def from_2(connection: Any) -> None:
    """Upgrade from version 2: engines' own spans that it holds stay what they were, other spans."""
    for name in columns.SINCE_3:
        connection.execute(f"ALTER TABLE spans ADD COLUMN IF NOT EXISTS {name} {columns.TYPES[name]}")
    for name, kind in columns.CALL_TYPES.items():
        connection.execute(f"ALTER TABLE calls ADD COLUMN IF NOT EXISTS {name} {kind}")
    connection.execute("UPDATE state SET version = 3")


def from_3(connection: Any) -> None:
    """Upgrade from version 3: routes of calls that it holds stay without their ports."""
    for name in columns.SINCE_4:
        connection.execute(f"ALTER TABLE spans ADD COLUMN IF NOT EXISTS {name} {columns.TYPES[name]}")
    connection.execute("UPDATE state SET version = 4")


def from_4(connection: Any) -> None:
    """Upgrade from version 4: calls that it holds have no load of a model, which nobody told then."""
    for name, kind in columns.CALL_TYPES.items():
        connection.execute(f"ALTER TABLE calls ADD COLUMN IF NOT EXISTS {name} {kind}")
    connection.execute("UPDATE state SET version = 5")


def from_5(connection: Any) -> None:
    """Upgrade from version 5: calls that it holds keep a cost in which audio and images were priced as text."""
    for name in columns.SINCE_6:
        connection.execute(f"ALTER TABLE spans ADD COLUMN IF NOT EXISTS {name} {columns.TYPES[name]}")
    connection.execute("UPDATE state SET version = 6")
