"""The other package that is called ``llmtrace``: whether it is installed beside this one, and what mends that.

Both write to one folder, ``site-packages/llmtrace``. The one that was installed last has overwritten the other's
``__init__.py`` and command, and uninstalling either of them takes files of the other away.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution, version
from urllib.parse import urlsplit

from llmtrace.version import DISTRIBUTION

OTHER = "llmtrace"
"""The distribution that is somebody else's."""


def installed() -> str | None:
    """The version of the other package, None where it is not installed."""
    try:
        return version(OTHER)
    except PackageNotFoundError:
        return None


def imported() -> bool:
    """Whether ``import llmtrace`` gives the other package's ``__init__.py`` in this process."""
    return "uninstrument" not in getattr(sys.modules["llmtrace"], "__all__", ())


def mend() -> str:
    """The command after which this package is whole and the other one is gone."""
    return f"pip uninstall -y {OTHER} && pip install --force-reinstall --no-deps {_ourselves()}"


def _ourselves() -> str:
    """pip's arguments to install this package from where it came: an index, a checkout or a repository."""
    try:
        origin = _origin(distribution(DISTRIBUTION))
    except (PackageNotFoundError, ValueError):
        origin = ""
    return origin or DISTRIBUTION


def _origin(ours: Distribution) -> str:
    """pip's own note of a direct installation (PEP 610) as arguments for pip; empty where there is none."""
    noted = json.loads(ours.read_text("direct_url.json") or "{}")
    url = noted.get("url", "")
    if not url or "@" in urlsplit(url).netloc:  # a user's name or a token would be printed
        return ""
    if noted.get("dir_info", {}).get("editable"):
        return f'--editable "{url}"'
    if (source := noted.get("vcs_info")) is not None:
        url = f"{source['vcs']}+{url}@{source['commit_id']}"
    return f'"{DISTRIBUTION} @ {url}"'
