"""Hugging Face ``transformers`` in this process: ``generate`` gets its prefill and decode timed where they happen.

Two kinds of hooks, none of which changes an argument or a result. ``GenerationMixin.generate`` and the decoding methods
beneath it tell when a call begins and ends, and its settings. ``_has_unfinished_sequences``, which every decoding loop
calls before each turn, makes a mark: one perf_counter reading on the CPU, one CUDA event on the device. So N tokens
cost N + 1 marks, nothing waits, and a loop that a later version writes differently goes unmarked.

torch is never imported here; it is there already, or no model could be.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.trace import Span, set_span_in_context

from llmtrace.calls import attributes
from llmtrace.calls.result import Result
from llmtrace.calls.state import CallState
from llmtrace.calls.tracer import CallTracer
from llmtrace.emit import names
from llmtrace.emit.attached import Attached
from llmtrace.instrumentation import tokenizers
from llmtrace.instrumentation.event_timer import EventTimer, timer_on
from llmtrace.instrumentation.identity import identity_attributes
from llmtrace.instrumentation.patching import Patches
from llmtrace.observe import call as calls
from llmtrace.observe import internal_errors
from llmtrace.observe.answer import Answer
from llmtrace.observe.call import Call
from llmtrace.observe.chunk_timing import NO_CHUNKS, ChunkTiming
from llmtrace.observe.clock import now
from llmtrace.observe.stream import cause_of
from llmtrace.phases.merged import STEPS_UNSEEN
from llmtrace.phases.model import CLIENT, DECODE, OPAQUE, PREFILL, Phase
from llmtrace.phases.observation import Observation
from llmtrace.phases.pace import pace
from llmtrace.phases.stagger import stagger_phases
from llmtrace.providers import transformers as reads
from llmtrace.providers.declare import Generate, Provider
from llmtrace.providers.model_identity import identify, identify_tokenizer, model_name

_DECODING = ("_sample", "_beam_search", "_assisted_decoding", "_contrastive_search", "_group_beam_search")
_running: ContextVar[Generation | Span | None] = ContextVar("llmtrace_generation", default=None)
"""The generation that runs in this context; a bare span where it is not recorded."""


def patch(patches: Patches, tracer: CallTracer, provider: Provider, hook: Generate) -> None:
    """Patch ``transformers``, now or when it is imported."""

    def hook_generation(module: Any) -> None:
        mixin = module.GenerationMixin
        parameters = list(inspect.signature(mixin.generate).parameters)[1:]

        def generate(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            outer = _running.get()
            if isinstance(outer, Generation) and outer.decodes:
                with _Inside(outer.span, outer.span):  # an assistant drafts: its turns are no tokens of the call's
                    return wrapped(*args, **kwargs)
            begun = _begin(tracer, provider, hook, instance, parameters, args, kwargs) if outer is None else None
            if begun is None:
                return wrapped(*args, **kwargs)
            if not isinstance(begun, Generation):
                with _Inside(begun, begun):  # nothing is recorded of it, nor of an assistant's calls inside it
                    return wrapped(*args, **kwargs)
            try:
                with _Inside(begun, begun.span):
                    result = wrapped(*args, **kwargs)
            except BaseException as error:
                begun.failed(error)
                raise
            begun.returned(result)
            return result

        patches.wrap_method(mixin, "generate", generate)
        for name in _DECODING:
            patches.wrap_method(mixin, name, _decoding)
        patches.wrap_method(mixin, "_prefill", _prefilling)
        patches.wrap_method(mixin, "_has_unfinished_sequences", _turning)

    patches.when_imported("transformers.generation.utils", hook_generation)
    tokenizers.patch(patches)


class _Inside:
    """While ``generate`` runs, makes its generation the running one and its span the current one."""

    __slots__ = ("_attached", "_running", "_span")

    def __init__(self, running: Generation | Span, span: Span) -> None:
        self._running = running
        self._span = span

    def __enter__(self) -> None:
        self._attached = Attached(set_span_in_context(self._span), _running, self._running)

    def __exit__(self, *raised: object) -> None:
        self._attached.detach()


def _of(model: Any) -> Generation | None:
    """The generation under way in this thread, if it is this model's own (not its assistant's)."""
    running = _running.get()
    return running if isinstance(running, Generation) and running.model is model else None


def _decoding(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if (generation := _of(instance)) is not None:
        generation.decoding(wrapped.__name__, args, kwargs)
        if not hasattr(instance, "_prefill"):  # older versions compute the prompt in the loop's first turn
            generation.set_up = now()
    return wrapped(*args, **kwargs)


def _prefilling(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if (generation := _of(instance)) is not None:
        generation.set_up = generation.set_up or now()
    return wrapped(*args, **kwargs)


def _turning(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if (generation := _of(instance)) is not None:
        generation.turn()
    return wrapped(*args, **kwargs)


def _begin(
    tracer: CallTracer,
    provider: Provider,
    hook: Generate,
    model: Any,
    parameters: Sequence[str],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Generation | Span | None:
    """The generation that this call starts, or its bare span where it is not recorded; None where it is not traced."""
    try:
        if not is_instrumentation_enabled():
            return None
        arguments = dict(zip(parameters, args, strict=False)) | kwargs
        arguments["model"] = model_name(model)
        tokenizer, templated, basis = tokenizers.find_tokenizer(arguments, reads.prompt(arguments))
        if tokenizer is not None:
            arguments["tokenizer"] = tokenizer
        call = tracer.begin(provider, hook.chat if templated else hook.completion, model, arguments)
        if not isinstance(call, Call):
            return call
        call.chunk_timing = NO_CHUNKS  # nothing is pulled: the model pushes
        call.kept = None
        state = call.state
        tracer.drop(state)  # nobody queues in front of a model in this process: there is no route to learn
        return Generation(call, model, arguments, basis)
    except Exception as error:
        internal_errors.note("beginning a generation", error)
        return None


class Generation:
    """One ``generate`` call under way."""

    def __init__(self, call: Call, model: Any, arguments: dict[str, Any], basis: str | None) -> None:
        self.model = model
        self.set_up: int | None = None
        """When the preparations were over and the model was first run."""
        self.span: Span = call.state.span
        self._call = call
        self._arguments = arguments
        """What was passed to ``generate``, by name; the request's facts are added as they become known."""
        self._basis = basis
        self._cached = reads.cached_tokens(arguments)
        self._timer: EventTimer = timer_on(model)
        self._turns: list[int] = []
        self._rows: int | None = None
        call.state.judge = self._judge
        # So that a flush or an exit takes the call for one that goes on, not for a stream that nobody reads.
        call.running = lambda: True
        self._timer.mark()

    @property
    def decodes(self) -> bool:
        """Whether the decoding loop has begun."""
        return "start" in self._arguments

    # --- what the hooks see -------------------------------------------------------------------------------------
    def decoding(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the config and the prompt's shape when the decoding loop is about to begin."""
        try:
            ids = args[0] if args else kwargs.get("input_ids")
            config = kwargs.get("generation_config")
            assert ids is not None
            self._rows, start = int(ids.shape[0]), int(ids.shape[1])
            self._arguments.update(config=config, start=start, mode=reads.mode(method, config))
        except Exception as error:
            internal_errors.note("reading a generation", error)

    def turn(self) -> None:
        """Mark a turn of the decoding loop, which begins now; from the second turn on, each mark is a token."""
        try:
            self._timer.mark()
        except Exception as error:
            internal_errors.note("marking a token", error)

    # --- its end ------------------------------------------------------------------------------------------------
    def returned(self, result: Any) -> None:
        """End the call: ``generate`` is about to return ``result``."""
        try:
            self._call.answer = (self._call.state.request, result) if self._call.is_open else None
            self._call.finish(calls.COMPLETED)
        except Exception as error:
            internal_errors.note("ending a generation", error)

    def failed(self, error: BaseException) -> None:
        """End the call: ``generate`` raised ``error``."""
        try:
            self._call.finish(cause_of(error), error=error)
        except Exception as ours:
            internal_errors.note("ending a generation", ours)

    def _judge(self, call: Call, state: CallState) -> Result:
        """The result of the ended call: answer, observation and phases."""
        end = call.end or now()
        marks = [min(max(mark, call.start), end) for mark in self._timer.resolve()]
        tokens = marks[2:]  # the first is the call's begin, the second the loop's
        beams = self._arguments.get("mode") == "beam_search"
        first = tokens[0] if tokens else None
        observation = Observation(call.start, end, call.streaming, first_token=None if beams else first)
        if call.streaming:
            call.first_chunk = first
        answer = self._answer(call, len(tokens))
        observation.usage = answer.usage
        phases = self._phases(call, tokens, answer)
        return Result(call, state, answer, observation, phases, None, attributes.failure(call, answer), None)

    def _phases(self, call: Call, tokens: list[int], answer: Answer) -> list[Phase]:
        start, end = call.start, call.end or now()
        source = self._timer.source
        usage = answer.usage
        if not tokens:
            if self.set_up is not None and call.outcome != calls.COMPLETED:
                return [Phase(PREFILL, start, end, CLIENT)]
            merge = STEPS_UNSEEN
            return [Phase(OPAQUE, start, end, CLIENT, merged_because=merge.reason, merged_detail=merge.detail)]
        prefill = Phase(PREFILL, start, tokens[0], source)
        if usage.input_tokens is not None:
            prefill.tokens = max(0, usage.input_tokens - (usage.cached_tokens or 0))
            prefill.per_token = prefill.duration / prefill.tokens if prefill.tokens else None
        clock_error = {} if self._timer.error is None else {names.CLOCK_ERROR: self._timer.error}
        prefill.extra = (
            clock_error if self.set_up is None else {names.GENERATE_SETUP: (self.set_up - start) / 1e9, **clock_error}
        )
        decode = Phase(DECODE, tokens[0], end, source, tokens=usage.output_tokens)
        if len(tokens) > 1:
            decode.per_token = (tokens[-1] - tokens[0]) / 1e9 / (len(tokens) - 1)
        chunk_timing = ChunkTiming()
        for before, mark in zip([start, *tokens], tokens, strict=False):
            chunk_timing.block += (before, mark)
        chunk_timing.fold()
        single_answer = usage.output_tokens == len(tokens)  # one answer, and a token each step
        token_times = attributes.paced(pace(chunk_timing, (), len(tokens), len(tokens), None)) if single_answer else {}
        decode.extra = {
            names.GENERATE_STEPS: len(tokens),
            **token_times,
            **attributes.gaps(chunk_timing),
            **clock_error,
        }
        stagger_phases([prefill, decode])
        return [prefill, decode]

    def _answer(self, call: Call, steps: int) -> Answer:
        answer = Answer(model=self._arguments["model"])
        extra: dict[str, Any] = {}
        try:
            identity = identify(self.model)
            answer.fingerprint = identity.fingerprint
            extra.update(identity_attributes(identity))
            self._count(call, steps, answer)
            self._describe(extra)
        except Exception as error:
            internal_errors.note("describing a generation", error)
        answer.extra = extra
        return answer

    def _count(self, call: Call, steps: int, answer: Answer) -> None:
        arguments, usage = self._arguments, answer.usage
        usage.input_tokens = reads.prompt_tokens(arguments)
        prompt = reads.prompt(arguments)
        if self._cached is not None and prompt is not None:
            usage.cached_tokens = self._cached * int(prompt.shape[0])
        if call.answer is not None and "start" in arguments:
            usage.output_tokens, answer.finish_reasons = reads.read_rows(
                call.answer[1], arguments["start"], arguments["config"]
            )
        elif call.answer is None and self._rows == 1:
            usage.output_tokens = steps  # of several rows, some may have ended earlier

    def _describe(self, extra: dict[str, Any]) -> None:
        arguments = self._arguments
        prompt = reads.prompt(arguments)
        if prompt is not None:
            extra[names.GENERATE_ROWS] = int(prompt.shape[0])
        if "mode" in arguments:
            extra[names.GENERATE_MODE] = arguments["mode"]
            if (beams := getattr(arguments["config"], "num_beams", None)) and beams > 1:
                extra[names.GENERATE_BEAMS] = beams
        if self._basis is not None:
            extra[names.TOKENIZER_FINGERPRINT] = identify_tokenizer(arguments["tokenizer"])
            extra[names.TOKENIZER_BASIS] = self._basis
