// Elements. Whatever a span says goes in as text (never as HTML), and styles go through the CSSOM, as the page's
// Content-Security-Policy asks.
import { clean } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element: `h("a", { class: "x", href: "#", onclick: f, vars: { w: "3%" } }, "text", child)`. */
export function h(name, props, ...children) {
  return dress(document.createElement(name), props, children);
}

/** The same in SVG. */
export function s(name, props, ...children) {
  return dress(document.createElementNS(SVG, name), props, children);
}

function dress(element, props, children) {
  for (const [key, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "vars")
      for (const [name, set] of Object.entries(value)) element.style.setProperty(`--${name}`, set);
    else
      element.setAttribute(key, value === true ? "" : key === "title" || key === "aria-label" ? clean(value) : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : clean(String(child)));
  }
  return element;
}

/** Says something to a screen reader. */
export function say(words) {
  document.getElementById("spoken").textContent = words;
}

/** Whether keys belong to what is focused: a field that is typed into. */
export function typing(target) {
  return (
    target instanceof Element &&
    target.closest("input:not([type=checkbox]):not([type=radio]), textarea, select") !== null
  );
}

/** Calls `run` once, after `ms` without a further call. */
export function later(run, ms) {
  let timer = 0;
  const wait = (...all) => {
    clearTimeout(timer);
    timer = setTimeout(run, ms, ...all);
  };
  wait.cancel = () => clearTimeout(timer);
  return wait;
}
