// The keys, listed under `?`. Single letters can be switched off, for those whose tools type them by themselves.
import { h } from "./dom.js";

const KEYS = [
  [
    "Everywhere",
    [
      ["?", "this list"],
      ["1", "calls"],
      ["2", "percentiles"],
      ["/", "search"],
      ["l", "live tail on or off"],
      ["t", "light or dark"],
      ["Esc", "close, or leave a field"],
    ],
  ],
  [
    "In the list of calls",
    [
      ["↑ ↓", "row by row, also j and k"],
      ["Home End PgUp PgDn", "further"],
      ["Enter", "open the trace"],
      ["x", "choose for comparison"],
      ["c", "compare the two that are chosen"],
    ],
  ],
  [
    "In a trace",
    [
      ["↑ ↓", "span by span, also j and k"],
      ["→ ←", "open or close what is under it; to the parent"],
      ["Enter", "details of the span"],
      ["z", "zoom to the span, and back"],
      ["Esc", "close the details"],
    ],
  ],
  ["On a chart", [["← →", "moment by moment"]]],
  [
    "On the border between names and bars",
    [
      ["← →", "narrower or wider; it can be dragged too"],
      ["Enter", "as it was"],
    ],
  ],
];
const STORE = "llmtrace-single-keys";

/** Whether letters without a modifier are shortcuts. */
export function singleKeys() {
  try {
    return localStorage.getItem(STORE) !== "off";
  } catch {
    return true;
  }
}

export function showShortcuts() {
  const dialog = document.getElementById("shortcuts");
  const box = h("input", { type: "checkbox", checked: singleKeys() });
  box.addEventListener("change", () => {
    try {
      localStorage.setItem(STORE, box.checked ? "on" : "off");
    } catch {
      /* a private window */
    }
  });
  dialog.replaceChildren(
    h(
      "div",
      { class: "dialog-head" },
      h("h2", { id: "shortcuts-title" }, "Keyboard shortcuts"),
      h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Close"),
    ),
    h(
      "div",
      { class: "keys" },
      KEYS.map(([where, keys]) =>
        h(
          "section",
          {},
          h("h3", {}, where),
          h(
            "dl",
            {},
            keys.map(([key, does]) =>
              h(
                "div",
                {},
                h(
                  "dt",
                  {},
                  key.split(" ").map((part) => h("kbd", {}, part)),
                ),
                h("dd", {}, does),
              ),
            ),
          ),
        ),
      ),
    ),
    h("label", { class: "choice" }, box, "Single letters and digits are shortcuts"),
  );
  dialog.showModal();
}
