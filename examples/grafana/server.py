"""The page of the reference server: how much of the device that it holds it uses, and for what."""

from __future__ import annotations

from parts import WINDOW, Panel, panel, promql, variable

ON = '{instance=~"$instance"}'
EACH = "{{instance}}"
PHASES = ("queue", "kv_cache_hit", "prefill", "decode")


def rate(name: str) -> str:
    """A counter of the server, a second."""
    return f"rate(llmtrace:{name}{ON}{WINDOW})"


def gauge(name: str) -> str:
    return f"llmtrace:{name}{ON}"


def instances() -> Panel:
    """Which servers the page is about."""
    return variable("instance", "label_values(llmtrace:num_requests_max_running, instance)")


SERVER = [
    panel(
        "Busy against allocated",
        promql(
            (rate("device_busy_seconds_total"), f"computing {EACH}"),
            (f"sum by (instance) ({rate('step_seconds_total')})", f"in a step {EACH}"),
        ),
        "percentunit",
        "Of each second that the device is held, the part in which it computed. What a step has beyond that is the "
        "host's laying out; beyond the steps nobody asked for anything.",
        width=24,
    ),
    panel(
        "Steps by kind",
        promql((f"sum by (kind) ({rate('step_seconds_total')})", "{{kind}}")),
        "percentunit",
        "prefill: prompts only; decode: next tokens only; mixed: both; swap: another adapter put in.",
        stack=True,
    ),
    panel(
        "Running and waiting",
        promql(
            (gauge("num_requests_running"), f"running {EACH}"),
            (gauge("num_requests_waiting"), f"waiting {EACH}"),
            (gauge("num_requests_max_running"), f"slots {EACH}"),
        ),
        "short",
        "Requests. Those that wait while slots are free wait for one that had to give way.",
    ),
    panel(
        "Room for keys and values",
        promql((f"{gauge('kv_cache_used_tokens')} / {gauge('kv_cache_max_tokens')}", EACH)),
        "percentunit",
        "The share that running requests hold, in whole blocks. Where it is full, one of the newer gives way.",
    ),
    panel(
        "Tokens per busy second",
        promql(
            (f"{rate('prompt_tokens_total')} / {rate('device_busy_seconds_total')}", f"prompt {EACH}"),
            (f"{rate('generation_tokens_total')} / {rate('device_busy_seconds_total')}", f"output {EACH}"),
        ),
        "short",
        "Of ended requests, per second that the device computed: larger batches raise it, idle time does not lower it.",
    ),
    panel(
        "A mean request by phase",
        promql(
            *(
                (
                    f"{rate(f'request_{phase}_time_seconds_sum')} / {rate(f'request_{phase}_time_seconds_count')}",
                    f"{phase} {EACH}",
                )
                for phase in PHASES
            )
        ),
        "s",
        "By the server's own clock, of ended requests that had the phase.",
    ),
    panel(
        "Prompts from the cache, and room that had to be given",
        promql(
            (f"{rate('prefix_cache_hits_total')} / {rate('prefix_cache_queries_total')}", f"from the cache {EACH}"),
            (f"{rate('num_preemptions_total')} / {rate('iterations_total')}", f"preemptions per step {EACH}"),
        ),
        "percentunit",
        "The share of prompt tokens that a prefix gave, and how many requests a step had to make give way.",
    ),
    panel(
        "Loading",
        promql(
            (gauge("model_load_seconds"), f"model {EACH}"),
            (gauge("adapter_load_seconds"), "adapter {{adapter}} {{instance}}"),
        ),
        "s",
        "What the model and each adapter took to load, when the server began.",
    ),
]
