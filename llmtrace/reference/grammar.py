"""Holds answers to a JSON schema, a regular expression or a grammar; llguidance computes the allowed next tokens.

A grammar is compiled once per request, before the request joins the queue. From then on each token of an answer moves
a `Constraint` on, which gives the tokens that may follow; the others' logits are set to minus infinity. The work is
the host's and nobody else's rows are touched.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import Future
from time import perf_counter_ns
from typing import Any

from llmtrace.reference._errors import RunnerError
from llmtrace.reference.model import LoadedModel
from llmtrace.version import install_hint

__all__ = ["BrokenGrammar", "Constraint", "Grammar", "Grammars"]

# A model that has learned nothing would write white space for ever; between the parts of JSON it means nothing.
_JSON: Any = {"whitespace_flexible": False}
_LONGEST = {"regex": 16 * 1024}
"""Characters of a source; compiling an expression takes time with their square."""
_LONGEST_OTHER = 128 * 1024
_STACK = 256 * 1024 * 1024
"""Bytes of stack for compiling: llguidance goes down it as deep as one rule refers to another, and where it ended, so
would the process. In a source of that length there is no such depth."""


class BrokenGrammar(ValueError):
    """The schema, expression or grammar is not valid; the message says what is wrong with it."""


class Grammar:
    """One compiled grammar."""

    def __init__(self, kind: str, matcher: Any, vocabulary: int, compile_ns: int) -> None:
        self.kind = kind
        """`json_schema`, `json_object`, `regex` or `grammar`."""
        self.compile_ns = compile_ns
        self._matcher = matcher
        self._vocabulary = vocabulary

    def begin(self) -> Constraint:
        """The constraint for one answer, from its first token on."""
        return Constraint(self._matcher.deep_copy(), self._vocabulary)


class Constraint:
    """The state of one answer in its grammar."""

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self.banned: Any = None
        """The tokens that must not come next, bool `[vocabulary]`."""
        self.mask_ns = 0
        """Nanoseconds spent so far on computing the tokens that may come next."""
        self._look()

    @property
    def ended(self) -> bool:
        """Whether only the end can follow."""
        return bool(self._matcher.is_stopped())

    def push(self, token: int) -> None:
        """Move on by the chosen token. Raises `RunnerError` where the grammar gives up."""
        began = perf_counter_ns()
        self._matcher.consume_token(token)
        self.mask_ns += perf_counter_ns() - began
        self._look()

    def _look(self) -> None:
        import torch

        began = perf_counter_ns()
        if self._matcher.is_error():
            raise RunnerError(f"the grammar failed: {' '.join(self._matcher.get_error().split())[:200]}")
        if not self.ended:
            allowed = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8)
            self.banned = allowed[: self._vocabulary] == 0
        self.mask_ns += perf_counter_ns() - began


class Grammars:
    """Compiles for one tokenizer. Safe to use from several threads."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._tokenizer: Any = None
        self._lock = threading.Lock()

    def compile(self, kind: str, source: Any) -> Grammar:
        """`source`: a schema (`json_schema`), ignored (`json_object`), text (`regex`; `grammar`, in Lark's form).

        The first call also reads the tokenizer (a second for a large vocabulary), and counts it. Raises
        `BrokenGrammar`, and `RunnerError` where llguidance is not installed or cannot read the tokenizer.
        """
        began = perf_counter_ns()
        try:
            from llguidance import LLMatcher
        except ImportError as error:
            raise RunnerError(f"grammars need llguidance, which is not installed: {install_hint('grammar')}") from error
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = self._read_tokenizer()
        matcher = _with_deep_stack(lambda: self._compiled(LLMatcher, kind, source))
        if matcher.is_error():
            raise BrokenGrammar(" ".join(matcher.get_error().split())[:300])
        return Grammar(kind, matcher, self._loaded.vocabulary, perf_counter_ns() - began)

    def _compiled(self, matcher: Any, kind: str, source: Any) -> Any:
        """A matcher of the class `matcher`. Raises `BrokenGrammar`."""
        try:
            text = source if isinstance(source, str) else json.dumps({"type": "object"} if source is None else source)
            most = _LONGEST.get(kind, _LONGEST_OTHER)
            if len(text) > most:
                raise BrokenGrammar(f"it has {len(text)} characters; at most {most} are taken")
            if kind == "regex":
                grammar = matcher.grammar_from_regex(text)
            elif kind == "grammar":
                grammar = matcher.grammar_from_lark(text)
            else:
                grammar = matcher.grammar_from_json_schema(text, defaults=_JSON)
        except (ValueError, RecursionError) as error:
            raise BrokenGrammar(str(error)[:300]) from error
        return matcher(self._tokenizer, grammar, log_level=0)

    def _read_tokenizer(self) -> Any:
        from llguidance.hf import from_tokenizer

        loaded = self._loaded
        ends = sorted(loaded.stop_ids)
        try:
            return from_tokenizer(loaded.tokenizer, n_vocab=loaded.vocabulary, eos_token=ends or None)
        except Exception as error:
            raise RunnerError(f"llguidance cannot read the tokenizer of {loaded.name}: {error}") from error


_stack_lock = threading.Lock()


def _with_deep_stack(work: Callable[[], Any]) -> Any:
    """What `work` returns or raises, in a thread of its own with a stack of `_STACK`."""
    outcome: Future[Any] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    with _stack_lock:
        before = threading.stack_size(_STACK)
        try:
            threading.Thread(target=run, name="llmtrace-grammar", daemon=True).start()
        finally:
            threading.stack_size(before)
    return outcome.result()
