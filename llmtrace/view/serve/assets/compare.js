// Two calls side by side: their phases on one scale, what differs in time, and which attributes differ.
import { get, silent } from "./api.js";
import { href, traceHref } from "./address.js";
import { failed, nothing, skeleton } from "./blanks.js";
import { h } from "./dom.js";
import { DASH, clock, count, date, difference, dollars, roundUp, seconds, tick, timeTicks, value } from "./format.js";
import * as phases from "./phases.js";

export function open(main, address, app) {
  const stop = new AbortController();
  const box = h("div", { class: "wide compare" });
  main.append(box);
  let params = address.params;

  async function load() {
    const [a, b] = [params.get("a"), params.get("b")];
    if (!a || !b) {
      box.replaceChildren(
        nothing(
          "Choose two calls",
          "In the list of calls, choose two with the box at the left of a row, or with x.",
          h("a", { href: "#/calls" }, "All calls"),
        ),
      );
      return;
    }
    box.replaceChildren(skeleton(8, "Loading both calls"));
    try {
      draw(await get("compare", new URLSearchParams({ a, b }), stop.signal));
    } catch (error) {
      if (!silent(error)) box.replaceChildren(failed(error, load));
    }
  }

  function draw(both) {
    const swap = () => app.go("compare", new URLSearchParams({ a: params.get("b"), b: params.get("a") }));
    const scale = roundUp(Math.max(both.a.duration_s, both.b.duration_s));
    const axis = timeTicks(scale, 6).map((at) =>
      h(
        "span",
        { class: at / scale > 0.97 ? "last" : null, vars: { x: `${((100 * at) / scale).toFixed(2)}%` } },
        tick(at, scale),
      ),
    );
    box.replaceChildren(
      h(
        "p",
        { class: "crumbs" },
        h("a", { href: href("calls", new URLSearchParams({ a: params.get("a"), b: params.get("b") })) }, "Calls"),
        " / two calls",
      ),
      h(
        "div",
        { class: "title-row" },
        h("h1", {}, headline(both)),
        h("button", { type: "button", class: "quiet", onclick: swap }, "Swap A and B"),
      ),
      h(
        "div",
        { class: "two" },
        ["a", "b"].map((letter) => card(letter, both[letter])),
      ),
      h(
        "section",
        { class: "card scales", "aria-label": "Both calls on one scale" },
        h("h2", {}, "On one scale"),
        h("div", { class: "scale-axis" }, h("span", { class: "axis", "aria-hidden": "true" }, axis)),
        ["a", "b"].map((letter) =>
          h(
            "div",
            { class: "scale-row" },
            h("b", { class: `letter ${letter}` }, letter.toUpperCase()),
            phases.bar(both[letter], scale),
            h("span", { class: "num total" }, seconds(both[letter].duration_s)),
          ),
        ),
        phases.legend(),
      ),
      h(
        "section",
        { class: "card" },
        h("h2", {}, "By phase"),
        h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Times by phase" }, byPhase(both)),
        both.note ? h("p", { class: "note" }, `${capital(both.note)}.`) : null,
      ),
      h("section", { class: "card" }, h("h2", {}, "What else differs"), attributes(both)),
    );
  }

  load();
  return {
    close: () => stop.abort(),
    again: load,
    update(next) {
      params = next;
      load();
    },
  };
}

const capital = (words) => words[0].toUpperCase() + words.slice(1);

/** The comparison in a sentence: how much longer, and the phases that make most of it, in both directions. */
function headline(both) {
  const by = both.duration_difference_s ?? both.b.duration_s - both.a.duration_s;
  const words =
    Math.abs(by) < 1e-9 ? "A and B took equally long" : `B took ${seconds(Math.abs(by))} ${by > 0 ? "longer" : "less"}`;
  const told = both.phases.filter((phase) => phase.difference_s != null);
  const most = Math.max(...told.map((phase) => Math.abs(phase.difference_s)), 1e-9);
  const named = told
    .filter((phase) => Math.abs(phase.difference_s) >= 0.25 * most)
    .sort((one, other) => Math.abs(other.difference_s) - Math.abs(one.difference_s))
    .slice(0, 3)
    .map((phase) => `${phases.label(phase.name)} ${difference(phase.difference_s)}`);
  return named.length ? `${words}: ${named.join(", ")}` : words;
}

/** Half the width of the interval of a difference: both phases' own, as independent errors add up. */
function unsure(both, name) {
  return Math.hypot(...[both.a, both.b].map((call) => phaseOf(call, name)?.uncertainty_s ?? 0));
}

/** A phase of a call; of the overhead that is shown as one, its less sure part. */
function phaseOf(call, name) {
  const names = name === phases.OVERHEAD ? ["unattributed", "network"] : [name];
  return names.map((one) => call.phases?.find((phase) => phase.name === one)).find(Boolean);
}

function card(letter, call) {
  const fact = (name, said) => h("div", {}, h("dt", {}, name), h("dd", { class: "num" }, said));
  return h(
    "article",
    { class: "card side-card" },
    h(
      "header",
      {},
      h("b", { class: `letter ${letter}` }, letter.toUpperCase()),
      h("h2", {}, h("a", { href: traceHref(call.trace_id, call.span_id) }, call.name || call.model || "(no name)")),
    ),
    h(
      "p",
      { class: "pills" },
      phases.outcome(call.outcome, call.status),
      (call.causes ?? []).map((cause, at) =>
        phases.cause(cause, Array.isArray(call.confidence) ? call.confidence[at] : call.confidence),
      ),
    ),
    h(
      "dl",
      { class: "sums" },
      fact("total", seconds(call.duration_s)),
      fact("TTFT", seconds(call.ttft_s)),
      fact("tokens in", count(call.input_tokens)),
      call.cached_tokens ? fact("cached", count(call.cached_tokens)) : null,
      fact("tokens out", count(call.output_tokens)),
      call.cost_usd > 0 ? fact("cost", dollars(call.cost_usd)) : null,
    ),
    h(
      "p",
      { class: "soft" },
      [
        call.answered_model || call.model,
        call.upstream ? `via ${call.upstream}` : null,
        call.provider,
        call.service,
        `${date(call.start_us)}, ${clock(call.start_us)}`,
      ]
        .filter(Boolean)
        .join(" · "),
    ),
  );
}

function byPhase(both) {
  const most = Math.max(
    ...both.phases.map((phase) => Math.abs(phase.difference_s ?? 0)),
    Math.abs(both.duration_difference_s ?? 0),
    1e-9,
  );
  const known = (letter, name) => phaseOf(both[letter], name);
  const cell = (letter, name, time) => {
    const phase = known(letter, name);
    return h(
      "td",
      {},
      h("span", { class: "num" }, time == null ? DASH : seconds(time)),
      phase ? phases.source(phase.source, phases.unsure(phase)) : null,
    );
  };
  const row = (head, cells, by, off = 0) =>
    h(
      "tr",
      {},
      h("th", { scope: "row", class: "text" }, head),
      cells,
      h(
        "td",
        { class: "num" },
        by == null ? DASH : difference(by),
        by != null && off > 0 ? h("small", { class: "soft off" }, `±${seconds(off)}`) : null,
      ),
      h("td", { class: "delta-cell" }, delta(by ?? 0, most)),
    );
  return h(
    "table",
    { class: "by-phase" },
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        h("th", { scope: "col", class: "text" }, "phase"),
        h("th", { scope: "col" }, "A"),
        h("th", { scope: "col" }, "B"),
        h("th", { scope: "col" }, "B − A"),
        h("th", { scope: "col", class: "delta-head" }, "B is shorter | longer"),
      ),
    ),
    h(
      "tbody",
      {},
      both.phases.map((phase) =>
        row(
          [phases.dot(phase.name), phases.label(phase.name)],
          [cell("a", phase.name, phase.a_s), cell("b", phase.name, phase.b_s)],
          phase.difference_s,
          unsure(both, phase.name),
        ),
      ),
      row("TTFT", [h("td", {}, seconds(both.a.ttft_s)), h("td", {}, seconds(both.b.ttft_s))], both.ttft_difference_s),
      row(
        "total",
        [h("td", {}, seconds(both.a.duration_s)), h("td", {}, seconds(both.b.duration_s))],
        both.duration_difference_s,
      ),
    ),
  );
}

/** A difference as a bar to the left (less) or right (more) of the middle. */
function delta(by, most) {
  const share = (50 * Math.abs(by)) / most;
  return h(
    "span",
    {
      class: `delta ${by > 0 ? "more" : "less"}`,
      "aria-hidden": "true",
      vars: { x: `${by > 0 ? 50 : 50 - share}%`, w: `${share}%` },
    },
    h("i", {}),
  );
}

function attributes(both) {
  if (!both.attributes?.length) return h("p", { class: "soft" }, "Their attributes are the same.");
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": "Attributes that differ" },
    h(
      "table",
      { class: "differ" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          ["attribute", "A", "B"].map((name) => h("th", { scope: "col", class: "text" }, name)),
        ),
      ),
      h(
        "tbody",
        {},
        both.attributes.map((one) =>
          h(
            "tr",
            {},
            h("th", { scope: "row", class: "text key" }, one.key),
            [one.a, one.b].map((item) =>
              h(
                "td",
                { class: "text key" },
                item === null || item === undefined ? h("span", { class: "soft" }, "absent") : value(item),
              ),
            ),
          ),
        ),
      ),
    ),
  );
}
