// The border between the names and the bars, which can be dragged or moved by keys.
//
// What was chosen is a share of both columns' width. It is kept in the browser, where that is allowed, and else until
// the page is left. Without a choice the style sheet's own widths hold.
import { h } from "./dom.js";

const LEAST = 15; // percent of both columns that each of them keeps
const STEP = 2; // percent, by an arrow key
const chosen = {}; // by list, where nothing can be kept

/**
 * The border as an element, for the heading of the bars. `list` names what is remembered, `whole` is the element that
 * has the columns and gets `--names` and `--bars`, and `columns()` are the two headings that meet at the border.
 */
export function border(list, whole, columns) {
  const element = h("span", {
    class: "border",
    role: "separator",
    tabindex: "0",
    "aria-orientation": "vertical",
    "aria-label": "Width of the names",
    "aria-valuemin": String(LEAST),
    "aria-valuemax": String(100 - LEAST),
    title: "Drag to make room for names or bars; a double click puts it back",
  });
  const apply = (share) => {
    for (const [name, part] of [["names", share], ["bars", 100 - share]])
      if (share === null) whole.style.removeProperty(`--${name}`);
      else whole.style.setProperty(`--${name}`, `minmax(60px, ${part}fr)`);
    element.setAttribute("aria-valuenow", String(Math.round(share ?? 33)));
  };
  const choose = (share) => {
    share = share === null ? null : Math.max(LEAST, Math.min(100 - LEAST, share));
    keep(list, share);
    apply(share);
  };
  /** Where the border is, in percent; or would be, at `x`. */
  const at = (x) => {
    const [names, bars] = columns().map((column) => column.getBoundingClientRect());
    return (100 * ((x ?? names.right) - names.left)) / (bars.right - names.left || 1);
  };
  element.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    event.preventDefault(); // no text is chosen on the way
    element.setPointerCapture(event.pointerId);
    element.focus();
  });
  element.addEventListener("pointermove", (event) => {
    if (element.hasPointerCapture(event.pointerId)) choose(at(event.clientX));
  });
  element.addEventListener("dblclick", () => choose(null));
  element.addEventListener("keydown", (event) => {
    const to = {
      ArrowLeft: () => at() - STEP,
      ArrowRight: () => at() + STEP,
      Home: () => LEAST,
      End: () => 100 - LEAST,
      Enter: () => null,
    }[event.key];
    if (!to) return;
    event.preventDefault();
    event.stopPropagation();
    choose(to());
  });
  apply(kept(list));
  return element;
}

function kept(list) {
  let share = chosen[list];
  try {
    share ??= parseFloat(localStorage.getItem(`llmtrace-columns-${list}`));
  } catch {
    /* a private window */
  }
  return share >= LEAST && share <= 100 - LEAST ? share : null;
}

function keep(list, share) {
  chosen[list] = share ?? NaN;
  try {
    if (share === null) localStorage.removeItem(`llmtrace-columns-${list}`);
    else localStorage.setItem(`llmtrace-columns-${list}`, share.toFixed(1));
  } catch {
    /* a private window: it holds until the page is left */
  }
}
