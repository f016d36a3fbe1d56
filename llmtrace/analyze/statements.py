"""Statements over one table of spans, compiled once in a process for all tables of that shape.

ibis takes seconds to build and compile what DuckDB answers in milliseconds, and two files to compare ask the same.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cached_property
from itertools import count
from typing import Any, Final, NamedTuple

from llmtrace.analyze import tables

_MOST: Final = 200
"""The most statements that are kept; prices and attributes of the user's are part of them."""
_numbers = count()


class _Statement(NamedTuple):
    """A query as text, and the columns that come out of it as a table's definition spells them."""

    query: str
    columns: str


_kept: dict[Hashable, _Statement] = {}


def name_of(table: Any | None) -> str | None:
    """The name of a table that was made, as part of the next statement; None where there is none."""
    return None if table is None else getattr(table.op(), "name", "")


class Statements:
    """Computes tables from ``spans`` on ``connection``; tables that are computed stay until the connection ends."""

    def __init__(self, connection: Any, spans: Any) -> None:
        self._connection, self._spans = connection, spans

    def hold(self, expression: Any) -> Any:
        """Compute the table of ``expression`` now."""
        if self._connection.name in ("duckdb", "clickhouse"):
            return self._connection.create_table(f"held_{next(_numbers)}", expression, temp=True)
        return expression.cache()

    def make(self, build: Callable[[], Any], name: str, *made_of: Hashable) -> Any:
        """Compute the table of the expression that ``build`` returns now, and call ``build`` only where it must be.

        ``name`` and ``made_of`` tell the statement from every other over a table of spans of this shape. Tables that
        were made by this function are part of a statement by their names.
        """
        if self._connection.name != "duckdb":
            return self.hold(build())
        statement = self._statement(build, name, *made_of)
        # Numbered by what the connection holds, so that the same reports name their tables the same on each.
        ((number,),) = self._connection.raw_sql("SELECT count(*) FROM duckdb_tables() WHERE temporary").fetchall()
        made = f"made_{number}"
        self._connection.raw_sql(f"CREATE TEMP TABLE {made} ({statement.columns})")
        self._connection.raw_sql(f"INSERT INTO temp.main.{made} {statement.query}")
        return self._connection.table(made, database=("temp", "main"))

    def rows(self, build: Callable[[], Any], name: str, *made_of: Hashable) -> list[tuple[Any, ...]]:
        """The rows of the expression that ``build`` returns, as plain Python values; on the same terms as ``make``."""
        if self._connection.name != "duckdb":
            return tables.values(build())
        return self._connection.raw_sql(self._statement(build, name, *made_of).query).fetchall()

    def is_empty(self, table: Any) -> bool:
        """Whether a table that ``make`` made has no rows."""
        if self._connection.name != "duckdb":
            return table.aggregate(n=table.count()).to_pyarrow()["n"][0].as_py() == 0
        return not self._connection.raw_sql(f"SELECT 1 FROM temp.main.{name_of(table)} LIMIT 1").fetchall()

    def _statement(self, build: Callable[[], Any], name: str, *made_of: Hashable) -> _Statement:
        key = (self._shape, name, *made_of)
        statement = _kept.get(key)
        if statement is None:
            if len(_kept) >= _MOST:
                _kept.clear()
            statement = _kept[key] = self._compiled(build())
        return statement

    def _compiled(self, expression: Any) -> _Statement:
        kinds = self._connection.compiler.type_mapper
        quoted = {name: '"' + name.replace('"', '""') + '"' for name in expression.columns}
        columns = [f"{quoted[name]} {kinds.to_string(kind)}" for name, kind in expression.schema().items()]
        return _Statement(self._connection.compile(expression), ", ".join(columns))

    @cached_property
    def _shape(self) -> Hashable:
        return self._connection.compile(self._spans), self._spans.schema()
