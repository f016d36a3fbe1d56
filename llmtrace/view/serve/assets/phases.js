// How phases look: a colour and a name each, how each number is known, and bars of them.
import { h } from "./dom.js";
import { CLASSES, LABELS, OTHER_TONE, OVERHEAD, PHASES, SOURCES, TONES } from "/assets/words.js";
import { DASH, count, giveOrTake, percent, seconds } from "./format.js";

export { LABELS, OVERHEAD, PHASES, SOURCES };

/** The classes that give a phase its colour or stripes. */
export const css = (phase) => CLASSES[phase] ?? "of-other";
export const label = (phase) => LABELS[phase] ?? phase;

/** A phase's colour as a small square. */
export const dot = (phase, hollow) =>
  h("span", { class: `dot ${css(phase)}${hollow ? " hollow" : ""}`, "aria-hidden": "true" });

/** By how much a phase may have been shorter and longer, in seconds; null where that is not told. */
export function unsure({ uncertainty_s, shorter_s, longer_s }) {
  const ends = [shorter_s ?? uncertainty_s ?? 0, longer_s ?? uncertainty_s ?? 0];
  return ends.some((end) => end > 0) ? ends.map((end) => Math.max(0, end)) : null;
}

/** How a number is known: a shape and its word. `off` is what `unsure` says. */
export function source(name, off) {
  if (!name) return h("span", { class: "known" });
  const kind = name in SOURCES ? name : "unknown";
  return h(
    "span",
    { class: "known", title: SOURCES[name] ?? null },
    h("span", { class: `glyph ${kind}`, "aria-hidden": "true" }),
    name,
    off ? h("small", {}, ` ${giveOrTake(...off)}`) : null,
  );
}

/** A call's phases in one sentence, for those who do not see the bar. */
export function spoken(call) {
  if (!call.phases?.length) return "no phases";
  return call.phases
    .map(
      (phase) =>
        `${label(phase.name)} ${seconds(phase.duration_s)}${phase.source ? `, ${phase.source}` : ""}` +
        spokenRange(unsure(phase)),
    )
    .join("; ");
}

function spokenRange(off) {
  if (!off) return "";
  const [low, high] = off.map(seconds);
  return low === high ? `, plus or minus ${high}` : `, up to ${low} less or ${high} more`;
}

/**
 * A call's phases as one bar on a scale of `scale` seconds. Estimates are hatched, what is not told apart is striped, and
 * a phase's uncertainty lies as a whisker around its end. A call longer than the scale runs out of it, and says so.
 */
export function bar(call, scale) {
  const share = (value) => `${((100 * value) / scale).toFixed(3)}%`;
  const pieces = [];
  const over = call.duration_s > scale * 1.0005;
  for (const phase of call.phases ?? []) {
    const start = Math.max(0, phase.start_s ?? 0);
    if (start >= scale) break;
    const length = Math.min(phase.duration_s, scale - start);
    pieces.push(
      h(
        "i",
        {
          class: `seg ${css(phase.name)}${phase.source === "estimate" ? " estimate" : ""}${length / scale < 0.012 ? " thin" : ""}`,
          vars: { x: share(start), w: share(length) },
        },
        h("span", {}, label(phase.name)),
      ),
    );
    const [shorter, longer] = unsure(phase) ?? [0, 0];
    const end = start + phase.duration_s;
    if ((shorter + longer) / scale > 0.008 && end - shorter < scale) {
      const left = Math.max(0, end - shorter);
      pieces.push(
        h("i", { class: "whisker", vars: { x: share(left), w: share(Math.min(scale, end + longer) - left) } }),
      );
    }
  }
  return h(
    "span",
    { class: `bar${over ? " over" : ""}`, role: "img", "aria-label": spoken(call) },
    h("i", { class: "seg of-other whole", vars: { x: "0%", w: share(Math.min(call.duration_s, scale)) } }),
    pieces,
  );
}

// On a phone the legend is folded away: it would be taller than the first call.
const wide = matchMedia("(min-width: 761px)");
wide.addEventListener("change", () => {
  for (const box of document.querySelectorAll(".legend-box")) box.open = wide.matches;
});

/** What the colours and marks mean. */
export function legend(phases = PHASES) {
  return h(
    "details",
    { class: "legend-box", open: wide.matches },
    h("summary", {}, "What the colours and marks mean"),
    h(
      "div",
      { class: "legend" },
      h(
        "ul",
        { "aria-label": "Phases" },
        phases.map((phase) => h("li", {}, dot(phase), label(phase))),
      ),
      h(
        "ul",
        { "aria-label": "How a number is known" },
        Object.entries(SOURCES).map(([name, meaning]) =>
          h("li", { title: `${name}: ${meaning}` }, h("span", { class: `glyph ${name}`, "aria-hidden": "true" }), name),
        ),
        h("li", {}, h("span", { class: "dot estimate", "aria-hidden": "true" }), "hatched: an estimate"),
        h("li", {}, h("span", { class: "range", "aria-hidden": "true" }), "90 % interval of where a phase ends"),
      ),
    ),
  );
}

/** A call's phases in full: length, share, how it is known, how sure that is. */
export function table(call) {
  return h(
    "table",
    { class: "phases" },
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        ["phase", "time", "share", "known by", "±"].map((name, at) =>
          h("th", { scope: "col", class: at && at !== 3 ? "" : "text" }, name),
        ),
      ),
    ),
    h(
      "tbody",
      {},
      (call.phases ?? []).map((phase) =>
        h(
          "tr",
          {},
          h(
            "th",
            { scope: "row", class: "text" },
            dot(phase.name),
            label(phase.name),
            phase.because ? h("small", { class: "soft why" }, phase.because) : null,
          ),
          h("td", {}, seconds(phase.duration_s)),
          h("td", {}, percent(phase.duration_s, call.duration_s)),
          h("td", { class: "text" }, phase.source ? source(phase.source) : DASH),
          h("td", {}, unsure(phase) ? giveOrTake(...unsure(phase)).replace("±", "") : DASH),
        ),
      ),
    ),
  );
}

/** `1,301 → 24`, with what came from the cache. */
export function tokens(call) {
  if (call.input_tokens == null && call.output_tokens == null) return DASH;
  return `${count(call.input_tokens)} → ${count(call.output_tokens)}`;
}

const MARKS = { good: "✓", bad: "✕", warn: "!", "": "" };

/** An outcome as a pill: a colour, a mark and its word. */
export function outcome(name, status) {
  const said = name ?? (status === "error" ? "error" : null);
  if (!said) return null;
  const tone = TONES[said] ?? OTHER_TONE;
  return h(
    "span",
    { class: `pill ${tone}` },
    h("span", { "aria-hidden": "true" }, `${MARKS[tone]} `),
    said.replaceAll("_", " "),
  );
}

/** A cause, as the diagnosis named it. */
export const cause = (name, confidence) =>
  h(
    "span",
    { class: "pill cause", title: confidence != null ? `confidence ${Number(confidence).toFixed(2)}` : null },
    name.replaceAll("_", " "),
  );
