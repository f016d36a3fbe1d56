// What a view shows when it has nothing to show: nothing yet, nothing found, something wrong, or still loading.
import { h } from "./dom.js";
import { bytes, percent } from "./format.js";

/** No span has come: says how to send some, with this page's own address. */
export function empty(status) {
  const lines = [`llmtrace run --otlp ${location.origin} -- python app.py`];
  const copy = h("button", { type: "button", class: "quiet" }, "Copy");
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(lines.join("\n"));
      copy.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      copy.textContent = "Selected: press Ctrl+C";
    }
  });
  const code = h("pre", { tabindex: "0", "aria-label": "Commands" }, lines.join("\n"));
  return h(
    "div",
    { class: "blank" },
    h("h1", {}, "No traces yet"),
    h(
      "p",
      {},
      "This page is also a receiver of OpenTelemetry traces. Point a program at it, and its calls appear here as they end:",
    ),
    h("div", { class: "code" }, code, copy),
    h(
      "p",
      {},
      "No program at hand? ",
      h("code", {}, `OTEL_EXPORTER_OTLP_ENDPOINT=${location.origin} llmtrace demo`),
      " runs a real model for a quarter of a minute. A file opens with ",
      h("code", {}, "llmtrace view traces.otlp.jsonl"),
      ".",
    ),
    status?.rejected && Object.keys(status.rejected).length
      ? h(
          "p",
          { class: "warn" },
          "! Something was sent and could not be read: ",
          Object.entries(status.rejected)
            .map(([why, number]) => `${why} (${number})`)
            .join(", "),
          ".",
        )
      : null,
  );
}

/** A file is being read. */
export function reading(file) {
  const share = file.total_bytes > 0 ? file.done_bytes / file.total_bytes : null;
  return h(
    "div",
    { class: "blank" },
    h("h1", {}, "Reading"),
    h("p", { class: "path" }, file.path),
    h("progress", {
      max: "1",
      value: share === null ? null : String(share),
      "aria-label": "How much of the file is read",
    }),
    h(
      "p",
      { class: "soft num" },
      share === null
        ? bytes(file.done_bytes)
        : `${bytes(file.done_bytes)} of ${bytes(file.total_bytes)}, ${percent(share, 1)}`,
    ),
  );
}

export const nothing = (title, words, ...more) =>
  h("div", { class: "blank" }, h("h2", {}, title), h("p", {}, words), ...more);

/** The server answered with an error. */
export function failed(error, again) {
  return h(
    "div",
    { class: "blank", role: "alert" },
    h("h2", {}, error.status === 404 ? "Not found" : "That did not work"),
    h("p", {}, `${error.message}${/[.!?]$/.test(error.message) ? "" : "."}`),
    again && error.status !== 404 ? h("button", { type: "button", onclick: again }, "Try again") : null,
    h("p", {}, h("a", { href: "#/calls" }, "All calls")),
  );
}

/** Bars where rows will be. */
export function skeleton(rows, words = "Loading") {
  return h(
    "div",
    { class: "skeleton", role: "status", "aria-label": words },
    Array.from({ length: rows }, () => h("i", {})),
  );
}
