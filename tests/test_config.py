"""Settings: arguments before environment, clear words for what is not known."""

from __future__ import annotations

from pathlib import Path

import pytest

import llmtrace
from llmtrace import config
from llmtrace.config import Settings, settings
from llmtrace.version import DISTRIBUTION, install_hint


def test_defaults_record_nothing_sensitive() -> None:
    assert settings({}, {}) == Settings()
    assert Settings().capture_content == "no_content"
    assert Settings().propagate == "auto"


def test_arguments_go_before_the_environment() -> None:
    environ = {"LLMTRACE_SERVER_TIMINGS": "off", "LLMTRACE_MIN_CALLS": "50"}
    assert settings({}, environ).server_timings is False
    assert settings({"server_timings": True}, environ).server_timings is True
    assert settings({}, environ).min_calls == 50


@pytest.mark.parametrize(("given", "mode"), [(True, "span_only"), (False, "no_content"), ("EVENT_ONLY", "event_only")])
def test_content_modes(given: object, mode: str) -> None:
    assert settings({"capture_content": given}, {}).capture_content == mode


def test_an_unknown_setting_names_the_known_ones() -> None:
    """Instrumentors take any keyword, as OpenTelemetry's do; ``instrument`` itself has them written out."""
    with pytest.raises(llmtrace.LlmtraceError, match=r"unknown setting 'server_timing'. Did you mean server_timings\?"):
        settings({"server_timing": False}, {})


def test_a_bad_value_says_what_it_takes() -> None:
    with pytest.raises(llmtrace.LlmtraceError, match="propagate is 'maybe'; it takes auto or always or never"):
        settings({"propagate": "maybe"}, {})


def test_a_bad_value_in_the_environment_is_told_and_passed_over(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "_slips_told", set[str]())
    for _ in range(3):
        assert settings({}, {"LLMTRACE_MIN_CALLS": "x"}).min_calls == 30
    message = "the value of LLMTRACE_MIN_CALLS is ignored; it takes a number of at least 2"
    assert [record.getMessage() for record in caplog.records] == [message], "once, not once for each client"


def test_a_prior_that_cannot_be_read_is_passed_over_from_the_environment_and_refused_as_an_argument(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "_slips_told", set[str]())
    missing, empty = tmp_path / "none.json", tmp_path / "empty.json"
    empty.write_text("{}")
    for path in (missing, empty):
        assert settings({}, {"LLMTRACE_BASELINE_PRIOR": str(path)}).baseline_prior == ""
        with pytest.raises(llmtrace.LlmtraceError, match="it takes a JSON file that can be read"):
            settings({"baseline_prior": path}, {})
    assert "the value of LLMTRACE_BASELINE_PRIOR is ignored" in caplog.text
    empty.write_text('{"seconds_per_prefill_token": 1e-5}')
    assert settings({"baseline_prior": empty}, {}).baseline_prior == str(empty)


def test_a_content_mode_that_others_understand_is_passed_over_quietly(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    environ = {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "true"}
    assert settings({}, environ).capture_content == "no_content"
    (record,) = [record for record in caplog.records if "CAPTURE_MESSAGE_CONTENT" in record.getMessage()]
    assert record.levelname == "DEBUG"


def test_an_unknown_client_names_the_known_ones() -> None:
    with pytest.raises(llmtrace.LlmtraceError, match=r"unknown client 'opena'. Did you mean 'openai'\?"):
        llmtrace.instrument("opena")


def test_the_version_and_the_name_are_one() -> None:
    project = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    assert f'version = "{llmtrace.__version__}"' in project
    assert f'name = "{DISTRIBUTION}"' in project


@pytest.mark.parametrize(
    ("asked", "command"),
    [
        (install_hint(), 'pip install "llmtrace-phases"'),
        (install_hint("openai"), 'pip install "llmtrace-phases[openai]"'),
        (install_hint("view", upgrade=True), 'pip install --upgrade "llmtrace-phases[view]"'),
    ],
)
def test_the_command_that_installs_it(asked: str, command: str) -> None:
    assert asked == command
