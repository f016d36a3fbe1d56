"""Options of all commands: numbers that nobody can mean, texts that are empty, and what a report does not take."""

from __future__ import annotations

import re
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from llmtrace.analyze import reports
from llmtrace.cli import build_app


def options(kinds: str) -> list[tuple[list[str], str]]:
    """Every option of every command that takes such a value, by a pattern of types: the command's words, and the
    option."""
    found: list[tuple[list[str], str]] = []

    def walk(command: Any, words: list[str]) -> None:
        arguments = ["x" for each in command.params if each.param_type_name == "argument"]
        for option in command.params:
            kind = getattr(option, "type", None) or option.type_descriptor.annotation  # typer's own, and click's
            if option.param_type_name == "option" and re.search(kinds, repr(kind).lower()):
                found.append(([*words, *arguments], option.opts[0]))
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, [*words, name])

    walk(typer.main.get_command(build_app()), [])
    return found


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(build_app(), list(arguments), env={"COLUMNS": "200"})
    assert result.exit_code in (1, 2), (arguments, result.output)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.output


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e400", "1e30", str(10**30), "-1e30"])
def test_no_option_takes_a_number_that_nobody_can_mean(value: str) -> None:
    found = options("int|float")
    assert len(found) > 30
    for words, option in found:
        given = [option, value, value] if option == "--price" else [option, value]
        assert option in refused(*words, *given)


@pytest.mark.parametrize("size", ["9" * 400, "0", "-1GB", "nan", "1e400"])
def test_a_room_for_spans_is_a_size(size: str) -> None:
    assert "is no size" in refused("view", "--memory", "--max-size", size)


@pytest.mark.parametrize("command", ["report", "compare", "whatif", "breakeven", "show"])
def test_an_option_that_is_empty_is_refused(command: str) -> None:
    found = [(words, option) for words, option in options("str") if words[0] == command]
    assert found
    for words, option in found:
        assert f"{option} is empty" in refused(*words, option, "")


@pytest.mark.parametrize("name", reports.NAMES)
def test_a_report_refuses_what_it_does_not_take(name: str) -> None:
    values = {"span_usd": "1", "slo_ttft": "1", "slo_itl": "1", "slo_total": "1", "version_of": "app", "slo": "99%"}
    values["components"] = "judge*=evaluation"
    for option, takers in reports.TAKERS.items():
        shown = f"--{option.replace('_', '-')}"
        if name not in takers:
            told = refused("report", name, "not-there.jsonl", shown, values.get(option, "x"))
            assert f"report {name} does not take {shown}" in told
            assert takers[0] in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["whatif", "x", "--slo", "99%", "--components", "a*=tool"], "does not take --components"),
        (["breakeven", "x", "--components", "a*=tool"], "does not take --components"),
        (["breakeven", "x", "--slo-ttft", "0"], "--slo-ttft is 0"),
        (["bench", "adapters", "a=x", "b=y", "--weights", "1,nan"], "is no list of weights"),
    ],
)
def test_what_is_refused_beside(words: list[str], told: str) -> None:
    assert told in refused(*words)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["report", "phases", ""], "SOURCE is empty"),
        (["report", "phases", "x", ""], "SOURCE is empty"),
        (["compare", "x", ""], "AFTER is empty"),
        (["whatif", "", "--without", "decode"], "SOURCE is empty"),
    ],
)
def test_a_source_that_is_empty_is_refused(words: list[str], told: str) -> None:
    """It is no other name of the folder that one is in."""
    assert told in refused(*words)
