"""The colours and the words of every page and of the terminal: a phase has one of each, wherever it is drawn.

Pages have a light and a dark one of each, by the system's choice unless the page's own switch says otherwise. A
terminal does not tell which it is: it has the light page's, which are seen on both.
"""

from __future__ import annotations

from typing import Final

from llmtrace.analyze import contract
from llmtrace.phases.model import LOAD_PARTS

FAMILIES: Final = {
    "network": ("#8593a8", "#7d8ba1"),
    "gateway": ("#0b8a99", "#35a9b8"),
    "unattributed": ("#a5825f", "#c0a080"),
    "model_load": ("#d1663f", "#e58257"),
    "queue": ("#eaa51c", "#f0b23c"),
    "kv_cache_hit": ("#17a884", "#2cc09a"),
    "prefill": ("#7a5af0", "#957bff"),
    "decode": ("#3d8bfd", "#559bff"),
    "merged": ("#b56aa5", "#c985ba"),
    "other": ("#a9afba", "#6b7380"),
    "attempt": ("#9aa1ad", "#8790a0"),
}
"""The colour of each family of spans: on light pages, on dark pages."""
CLASSES: Final = {name: f"of-{name}" for name in FAMILIES} | {"merged": "of-merged stripe"}
"""The classes that give an element its family's colour or stripes."""
PHASE_FAMILIES: Final = {
    "network": "network",
    "gateway": "gateway",
    "unattributed": "unattributed",
    "model_load": "model_load",
    **{f"model_load.{part}": "model_load" for part in LOAD_PARTS},
    "queue": "queue",
    "kv_cache_hit": "kv_cache_hit",
    "prefill": "prefill",
    "decode": "decode",
    "decode.reasoning": "decode",
    "decode.output": "decode",
    "queue_prefill": "merged",
    "opaque": "merged",
}
"""The family of each phase that a span can be."""
PHASE_CLASSES: Final = {
    **{phase: CLASSES[family] for phase, family in PHASE_FAMILIES.items()},
    "opaque": "of-merged stripe blind",
    contract.OVERHEAD: CLASSES["network"],
    "retry": CLASSES["attempt"],
}
LABELS: Final = {
    **{name: name for name in (*FAMILIES, *PHASE_FAMILIES, contract.OVERHEAD)},
    **contract.WORDS,
    "call": "call",
    "other": "other span",
}
"""The words for families, phases and what else reports name beside them."""
SOURCES: Final = {
    "device": "timed on the accelerator",
    "server": "reported by the engine",
    "client": "seen on the client's clock",
    "estimate": "fitted from earlier calls",
}
"""How a length can be known, and what that means."""
TONES: Final = {"completed": "good", "error": "bad", "timed_out": "bad"}
"""Whether an outcome is good or bad. Any other is ``OTHER_TONE``."""
OTHER_TONE: Final = "warn"
SERIES: Final = ("#3d8bfd", "#eaa51c", "#17a884", "#7a5af0", "#d9534f", "#0fa3b1", "#b56aa5", "#7a8b45")
"""Colours of what is no phase: models, routes, causes, in the order of their coming."""
TERMINAL: Final = {name: light for name, (light, _) in FAMILIES.items()}
OF_PHASE: Final = {name: name for name in FAMILIES} | {
    "queue_prefill": "merged", "opaque": "merged", contract.OVERHEAD: "network", "retry": "attempt",
    "application": "attempt",
}  # fmt: skip
"""The families whose colours a report's parts have. Any other part takes the next free colour."""

_LIGHT = """color-scheme: light;
  --page: #f6f6f4; --card: #ffffff; --sunk: #f3f3f1; --ink: #14161a; --soft: #565c68; --faint: #6b717d;
  --line: #e4e4e0; --grid: #ecece8; --focus: #2563eb;
  --shadow: 0 1px 2px rgb(20 22 26 / .04), 0 12px 32px -20px rgb(20 22 26 / .18);
  --good: #11734b; --good-bg: #e3f5ec; --warn: #8a5800; --warn-bg: #fdf1d9; --bad: #b3261e; --bad-bg: #fdeae8;
  --hatch: rgb(255 255 255 / .42);
  --sans: "Inter", ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  --mono: ui-monospace, "SF Mono", "JetBrains Mono", Menlo, Consolas, "Liberation Mono", monospace;"""
_DARK = """color-scheme: dark;
  --page: #0c0e11; --card: #14171c; --sunk: #1b1f26; --ink: #eef0f4; --soft: #a9b0bd; --faint: #8a92a1;
  --line: #252a33; --grid: #21262e; --focus: #7aa7ff; --shadow: none;
  --good: #5fd6a2; --good-bg: #12301f; --warn: #f2bf62; --warn-bg: #33260c; --bad: #ff8f86; --bad-bg: #3a1714;
  --hatch: rgb(12 14 17 / .42);"""


_MARKS = """.stripe { --stripe: repeating-linear-gradient(115deg, var(--queue) 0 8px, var(--prefill) 8px 16px); }
.stripe.dot { --stripe: linear-gradient(115deg, var(--queue) 50%, var(--prefill) 50%); }
.stripe.blind { --stripe: repeating-linear-gradient(115deg, var(--other) 0 6px, var(--attempt) 6px 12px); }
.glyph { flex: none; width: 9px; height: 9px; display: inline-block; background: var(--soft); }
.glyph.device { transform: rotate(45deg); width: 8px; height: 8px; }
.glyph.server { border-radius: 1.5px; }
.glyph.client { border-radius: 50%; }
.glyph.estimate { border-radius: 50%; background: transparent; border: 1.6px dashed var(--soft); }
.glyph.unknown { border-radius: 50%; background: transparent; border: 1.5px solid var(--faint); }"""


def css() -> str:
    """The rules that set the custom properties which pages use, and give phases and sources their look."""
    light, dark = (" ".join(f"--{name}: {pair[at]};" for name, pair in FAMILIES.items()) for at in (0, 1))
    return (
        f":root {{\n  {_LIGHT}\n  {light}\n}}\n"
        f'@media (prefers-color-scheme: dark) {{ :root:not([data-theme="light"]) {{ {_DARK} {dark} }} }}\n'
        f':root[data-theme="dark"] {{ {_DARK} {dark} }}\n'
        + " ".join(f".{CLASSES[name].split()[0]} {{ --c: var(--{name}); }}" for name in FAMILIES)
        + f"\n{_MARKS}\n"
    )
