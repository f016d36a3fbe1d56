"""What the viewer tells once: what it takes and drops, and who speaks what it cannot understand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from llmtrace.version import GRPC_EXPORTER_COMMAND

_TRACES_ONLY: Final = "metrics and logs are taken and dropped: this viewer shows traces"
_WITHOUT_GRPC: Final = (
    f"a program sends over gRPC, which needs grpcio here: {GRPC_EXPORTER_COMMAND}, or let it "
    "send over HTTP: OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"
)


class Notes:
    """Sentences for people, each told once; they stay on the page."""

    def __init__(self, tell: Callable[[str], None] = lambda sentence: None) -> None:
        self._tell = tell
        self.sentences: list[str] = []

    def dropped(self) -> bytes:
        """Note that metrics or logs come; returns OTLP's answer for what was taken."""
        self._note(_TRACES_ONLY)
        return b""

    def without_grpc(self) -> None:
        """Note that a program speaks gRPC and nothing here understands it."""
        self._note(_WITHOUT_GRPC)

    def _note(self, sentence: str) -> None:
        if sentence not in self.sentences:
            self.sentences.append(sentence)
            self._tell(sentence)
