"""From a URL to a host, and whether that host may be told of the trace."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtrace.observe.address import address_of, apart, is_private


class Url:
    """As httpx's and yarl's: an object with parts."""

    def __init__(self, scheme: str, host: str, port: int | None = None) -> None:
        self.scheme, self.host, self.port = scheme, host, port


@pytest.mark.parametrize(
    ("url", "host", "port", "private"),
    [
        ("https://generativelanguage.googleapis.com/v1beta/models", "generativelanguage.googleapis.com", 443, False),
        ("https://api.example.com", "api.example.com", 443, False),
        ("http://api.example.com:8080/v1?x=http://10.0.0.1/", "api.example.com", 8080, False),
        ("https://user:word@api.example.com/", "api.example.com", 443, False),
        ("https://[2607:f8b0:4004:c07::5f]/v1", "2607:f8b0:4004:c07::5f", 443, False),
        ("https://[2607:f8b0:4004:c07::5f]:8443/v1", "2607:f8b0:4004:c07::5f", 8443, False),
        ("http://[::ffff:8.8.8.8]/", "::ffff:8.8.8.8", 80, False),
        ("http://[::1]:8000/v1", "::1", 8000, True),
        ("http://127.0.0.1/v1", "127.0.0.1", 80, True),
        ("http://[::ffff:10.0.0.1]/", "::ffff:10.0.0.1", 80, True),
        ("https://192.168.1.7:8443", "192.168.1.7", 8443, True),
        ("http://localhost", "localhost", 80, True),
        ("http://vllm:8000/v1", "vllm", 8000, True),
        ("http://engine.internal", "engine.internal", 80, True),
        ("http://134744072/", "134744072", 80, False),
        (Url("https", "api.example.com"), "api.example.com", 443, False),
        (Url("http", "[::1]", 80), "::1", 80, True),
        ("api.example.com/v1", None, None, False),
        ("https://api.example.com:port/", None, None, False),
        ("https://[2607:/", None, None, False),
        ("", None, None, False),
        (None, None, None, False),
        (42, None, None, False),
    ],
)
def test_host_port_and_privacy(url: Any, host: str | None, port: int | None, private: bool) -> None:
    assert address_of(url) == (host, port)
    assert is_private(host) is private


@pytest.mark.parametrize(
    ("url", "plain", "user"),
    [
        ("http://me:pass@host:1/metrics", "http://host:1/metrics", "me:pass"),
        ("http://me:p%2Fa%40s@host/metrics", "http://host/metrics", "me:p/a@s"),
        ("http://me:p/a?s#s@host:1/metrics?a=b", "http://host:1/metrics?a=b", "me:p/a?s#s"),
        ("http://me:p/a@s@host/metrics", "http://host/metrics", "me:p/a@s"),
        ("//me:pass@host/metrics", "//host/metrics", "me:pass"),
        ("http://[::1]:8000/metrics/a@b", "http://[::1]:8000/metrics/a@b", ""),
        ("https://host/v1?user=a@b", "https://host/v1?user=a@b", ""),
        ("host:8000/a@b", "host:8000/a@b", ""),
        ("", "", ""),
    ],
)
def test_no_password_is_left_in_what_is_shown(url: str, plain: str, user: str) -> None:
    assert apart(url) == (plain, f"Basic {b64encode(user.encode()).decode()}" if user else "")


@given(st.text())
def test_no_text_is_taken_for_a_private_url_by_accident(text: str) -> None:
    host, port = address_of(text)
    assert (host is None) == (port is None)
    if host is None:
        assert not is_private(host), "an unknown host is public"
