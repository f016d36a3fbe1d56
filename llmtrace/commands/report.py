"""`llmtrace report`, `compare` and `whatif`: reports over many traces."""

import inspect
import json
import sys
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer

from llmtrace.commands.common import check_given, guarded, importing, terminal, was_given
from llmtrace.errors import LlmtraceError
from llmtrace.whole_file import replacing
from llmtrace.wording import clean_json

Format = Literal["text", "json"]
VersionOf = Literal["weights", "app", "model"]
SOURCES = (
    "Trace files (OTLP/JSON, .gz too), folders of them, the address of llmtrace view, of Jaeger or of Tempo, or a "
    "table's ibis URL."
)


_NAMES = "phases, causes, cost, cancellations, floor, models, accuracy, slo, cache or fleet."
_Quality = Annotated[
    str | None,
    typer.Option(
        metavar="ATTRIBUTE",
        help="A numeric attribute of any span of a request (report fleet: of the call), higher is better; without it "
        "gen_ai.evaluation.score.value, where spans have it.",
        show_default=False,
    ),
]
_Share = Annotated[str, typer.Option(metavar="SHARE", help="slo: the share of calls that are to meet theirs.")]
_WHERE = "s, or PATTERN=s,...: by default what the spans have from the settings."
_Ttft = Annotated[
    str | None, typer.Option(metavar="TARGET", help=f"slo: objective for the TTFT; {_WHERE}", show_default=False)
]
_Itl = Annotated[
    str | None,
    typer.Option(metavar="TARGET", help="slo: the same for the mean time between tokens.", show_default=False),
]
_Total = Annotated[
    str | None, typer.Option(metavar="TARGET", help="slo: the same for the whole call.", show_default=False)
]


@dataclass(frozen=True)
class Given:
    """The options that all three commands take."""

    html: Annotated[
        Path | None, typer.Option(metavar="PAGE", help="Write a self-contained page.", show_default=False)
    ] = None
    format: Annotated[Format, typer.Option(help="What to print.")] = "text"
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Keep the tables made of large files, and use kept ones.")
    ] = True
    service: Annotated[str | None, typer.Option(help="By address: only this service.", show_default=False)] = None
    hours: Annotated[float, typer.Option(min=0.0, help="By address: how far back.")] = 1.0
    limit: Annotated[int, typer.Option(min=1, help="By address: most traces to read (Jaeger: per service).")] = 1000
    query: Annotated[
        str | None, typer.Option(help="Tempo: the TraceQL query that picks the traces.", show_default=False)
    ] = None
    components: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN=NAME,...",
            envvar="LLMTRACE_COMPONENTS",
            help="What your own spans are, by their names: judge*=evaluation,plan*=model/planner.",
            show_default=False,
        ),
    ] = None

    @property
    def mapping(self) -> tuple[tuple[str, str], ...]:
        """The user's own components."""
        from llmtrace.analyze import components

        try:
            return () if self.components is None else components.parse(self.components)
        except ValueError as error:
            raise typer.BadParameter(f"--components is {self.components}; it takes {error}") from None

    @property
    def window(self) -> dict[str, Any]:
        """The window of traces to ask a trace store for."""
        return {"service": self.service, "hours": self.hours, "limit": self.limit, "query": self.query}


def taking(command: Callable[..., None]) -> Callable[..., None]:
    """A command like ``command(context, ..., given)`` that takes the options of ``Given`` instead of ``given``."""
    names = [field.name for field in fields(Given)]

    @wraps(command)
    def run(**options: Any) -> None:
        check_given(options["context"])
        given = Given(**{name: options.pop(name) for name in names})
        command(**options, given=given)

    hints = get_type_hints(Given, include_extras=True)
    own = [parameter for parameter in inspect.signature(command).parameters.values() if parameter.name != "given"]
    shared = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(Given)
    ]
    combined: Any = run
    del combined.__wrapped__
    combined.__signature__ = inspect.Signature([*own, *shared])
    combined.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *shared)}
    return combined


def add(app: Any) -> None:
    """Register the commands."""

    @app.command()
    @guarded
    @taking
    def report(  # pyright: ignore[reportUnusedFunction]
        context: typer.Context,
        name: Annotated[
            str,
            typer.Argument(metavar="NAME", help=_NAMES),
        ],
        sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help=SOURCES)],
        top: Annotated[int, typer.Option(min=1, help="Rows of a list.")] = 20,
        span_usd: Annotated[float, typer.Option(min=0.0, help="cost: USD that keeping a million spans costs.")] = 0.0,
        usd: Annotated[
            str | None,
            typer.Option(
                metavar="ATTRIBUTE",
                help="cost: what your spans (tools, say) say that they cost, USD, beside llmtrace.cost.usd.",
                show_default=False,
            ),
        ] = None,
        quality: _Quality = None,
        slo: _Share = "99%",
        slo_ttft: _Ttft = None,
        slo_itl: _Itl = None,
        slo_total: _Total = None,
        version_of: Annotated[
            VersionOf | None,
            typer.Option(help="fleet: whose versions; by default the first that the spans tell.", show_default=False),
        ] = None,
        newest: Annotated[
            str,
            typer.Option(
                metavar="VERSION",
                help="fleet: the newest, if not the last to appear; all others are older then.",
                show_default=False,
            ),
        ] = "",
        save: Annotated[
            Path | None,
            typer.Option(metavar="TABLE.parquet", help="Write the table of spans too.", show_default=False),
        ] = None,
        *,
        given: Given,
    ) -> None:
        """What many traces say together: where time and money went, which models answered, what runs in a fleet."""
        with importing("analyze"):
            from llmtrace.analyze import reports
            from llmtrace.analyze.book import Book
        if name not in reports.NAMES:
            raise typer.BadParameter(f"no report {name!r}; there are {', '.join(reports.NAMES)}")
        for option, takers in reports.TAKERS.items():
            if name not in takers and was_given(context, option):
                raise typer.BadParameter(
                    f"report {name} does not take --{option.replace('_', '-')}; report {' and '.join(takers)} "
                    f"{'do' if len(takers) > 1 else 'does'}"
                )
        objectives = _objectives(slo_ttft, slo_itl, slo_total)
        options = reports.Options(
            top=top, span_usd=span_usd, usd=usd, quality=quality, objectives=objectives, slo=share_of(slo),
            version_of=version_of or "", newest=newest,
        )  # fmt: skip
        mapping = given.mapping
        with opened([sources], given, (usd, quality)) as (traces,):
            if save is not None:
                _save(traces, save)
            result = reports.make(name, Book(traces, mapping), options)
            give(result, given)

    @app.command()
    @guarded
    @taking
    def compare(  # pyright: ignore[reportUnusedFunction]
        context: typer.Context,
        before: Annotated[str, typer.Argument(help=SOURCES)],
        after: Annotated[str, typer.Argument(help="The same, after the change.")],
        quality: _Quality = None,
        *,
        given: Given,
    ) -> None:
        """What a change did: to each phase and each component of a request, with intervals; and the bottleneck."""
        with importing("analyze"):
            from llmtrace.analyze import compare as comparing
            from llmtrace.analyze.book import Book
        mapping = given.mapping
        with opened([[before], [after]], given, (quality,)) as (old, new):
            give(comparing.make(Book(old, mapping), Book(new, mapping), quality), given)

    @app.command()
    @guarded
    @taking
    def whatif(  # pyright: ignore[reportUnusedFunction]
        context: typer.Context,
        sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help=SOURCES)],
        phase: Annotated[
            str | None, typer.Option(help="The phase or component that would change.", show_default=False)
        ] = None,
        factor: Annotated[
            float | None,
            typer.Option(min=0.0, help="How long it would take: 0.5 is half as long.", show_default=False),
        ] = None,
        faster: Annotated[
            list[str] | None,
            typer.Option(
                metavar="PART=SHARE",
                help="A component, its kind or name, or a phase that takes less time: retrieval=30%. May be repeated.",
                show_default=False,
            ),
        ] = None,
        without: Annotated[
            list[str] | None,
            typer.Option(metavar="PART", help="The same, gone altogether. May be repeated.", show_default=False),
        ] = None,
        slo: Annotated[
            str | None,
            typer.Option(
                metavar="SHARE",
                help="Instead: how much less of which phase brings this share of calls (99%) within their objectives.",
                show_default=False,
            ),
        ] = None,
        slo_ttft: _Ttft = None,
        slo_itl: _Itl = None,
        slo_total: _Total = None,
        *,
        given: Given,
    ) -> None:
        """What a faster part would gain end to end: each request worked out anew from the order of its spans."""
        with importing("analyze"):
            from llmtrace.analyze import restore
            from llmtrace.analyze import whatif as asking
            from llmtrace.analyze.book import Book
        objectives = _objectives(slo_ttft, slo_itl, slo_total)
        factors = _factors(faster, without)
        if phase is not None and factor is not None:
            if phase in factors:
                raise typer.BadParameter(f"{phase} is given twice: by --phase and by --faster or --without")
            factors[phase] = factor
        mapping = given.mapping
        is_whole = (phase is None) == (factor is None)
        if slo is not None and not factors and is_whole:
            if was_given(context, "components"):
                raise typer.BadParameter("whatif --slo does not take --components: it is about phases")
            share = share_of(slo)
            with opened([sources], given) as (traces,):
                give(restore.make(Book(traces), objectives, share), given)
        elif slo is None and factors and is_whole and not objectives:
            with opened([sources], given) as (traces,):
                give(asking.make(Book(traces, mapping), factors), given)
        else:
            raise typer.BadParameter(
                "whatif takes --faster PART=30%, --without PART, or --phase and --factor; or --slo (with --slo-ttft 2, "
                "for instance)"
            )


def _factors(faster: Sequence[str] | None, without: Sequence[str] | None) -> dict[str, float]:
    """How many times as long each part takes."""
    parts: list[tuple[str, float]] = []
    for text in faster or ():
        part, _, share = text.rpartition("=")
        try:
            less = float(share.strip().removesuffix("%")) / (100 if share.strip().endswith("%") else 1)
        except ValueError:
            less = -1.0
        if not part.strip() or not 0 <= less <= 1:
            raise typer.BadParameter(f"--faster is {text}; it takes a part and the share that it is faster: decode=30%")
        parts.append((part.strip(), 1 - less))
    parts += [(part.strip(), 0.0) for part in without or ()]
    for part, times in Counter(part for part, _ in parts).items():
        if times > 1:
            raise typer.BadParameter(f"{part} is given {times} times; it takes one --faster or --without for a part")
    return dict(parts)


def share_of(text: str) -> float:
    """The share that ``99%``, ``99.9`` or ``0.99`` says."""
    try:
        share = float(text.strip().rstrip("%"))
    except ValueError:
        share = 0.0
    if text.strip().endswith("%") or share > 1:
        share /= 100
    if not 0 < share < 1:
        raise typer.BadParameter(f"--slo is {text}; it takes a share between 0 and 1: 99%, 99.9% or 0.99")
    return share


def _objectives(ttft: str | None, itl: str | None, total: str | None) -> dict[str, Any]:
    """The targets that were given, by objective."""
    from llmtrace.phases import objectives

    given = {objectives.TTFT: ttft, objectives.ITL: itl, objectives.TOTAL: total}
    parsed: dict[str, Any] = {}
    for name, text in given.items():
        if text is not None:
            try:
                parsed[name] = objectives.parse_objective(text)
            except ValueError as error:
                raise typer.BadParameter(f"--slo-{name} is {text}; it takes {error}") from None
    return parsed


def _save(traces: Any, path: Path) -> None:
    """Write the table of spans.

    Raises:
        LlmtraceError: it cannot be written there.
    """
    import duckdb

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as place:
            traces.table.to_parquet(place)
    except (OSError, duckdb.IOException) as error:
        reason = getattr(error, "strerror", None) or str(error).rpartition(": ")[2]
        raise LlmtraceError(f"cannot write {path}: {reason}") from error


@contextmanager
def opened(
    groups: Sequence[Sequence[str]], given: Given, attributes: Sequence[str | None] = ()
) -> Generator[list[Any], None, None]:
    """The traces of each group of sources, read with a progress bar on stderr if that is a terminal."""
    with importing("analyze"):
        from llmtrace.analyze import schema
        from llmtrace.analyze.load import load
    extra = schema.extra(attributes)
    window = {name: value for name, value in given.window.items() if value is not None}
    with ExitStack() as stack:
        with _progress() as tell:
            groups_of_traces = [
                stack.enter_context(load(group, extra=extra, tell=tell, cache=given.cache, **window))
                for group in groups
            ]
        yield groups_of_traces


@contextmanager
def _progress() -> Generator[Callable[[int, int], None], None, None]:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = terminal(stderr=True)
    if not console.is_terminal:
        yield lambda done, whole: None
        return
    columns = (TextColumn("reading"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("reading", total=None)
        yield lambda done, whole: progress.update(task, completed=done, total=whole)


def give(report: Any, given: Given) -> None:

    from llmtrace.analyze.report import as_json
    from llmtrace.view import report_page, report_text

    if given.html is not None:
        report_page.write(report, given.html)
        print(f"wrote {given.html}", file=sys.stderr if given.format == "json" else sys.stdout)
    if given.format == "json":
        print(clean_json(json.dumps(as_json(report), ensure_ascii=False, indent=1)))
    elif given.html is None:
        report_text.show(report, terminal())
