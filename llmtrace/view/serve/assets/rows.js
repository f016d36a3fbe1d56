// A long list of which only the rows in sight are elements: a million rows cost what forty do.
//
// The page itself scrolls. Rows have one height, which the style sheet sets (`--row`, px): it is another one on a phone.
import { say } from "./dom.js";

const MARGIN = 8; // rows drawn beyond each edge, so that a quick scroll does not show a gap

export class Rows {
  /**
   * `place` is the element that holds the rows; `draw(index)` makes one; `seen(from, to)` is told which are drawn;
   * `head` and `foot` are the pixels that sticky things cover above and below.
   */
  constructor({ place, draw, seen = () => {}, head = () => 0, foot = () => 0 }) {
    Object.assign(this, { place, draw, seen, head, foot });
    this.count = 0;
    this.at = 0; // the row that Tab comes to
    this.nodes = new Map();
    this.frame = 0;
    this.onScroll = () => {
      this.frame ||= requestAnimationFrame(() => {
        this.frame = 0;
        this.layout();
      });
    };
    this.onResize = () => {
      this.measure();
      this.redraw();
    };
    addEventListener("scroll", this.onScroll, { passive: true });
    addEventListener("resize", this.onResize);
    place.addEventListener("focusin", (event) => {
      const row = event.target.closest("[data-index]");
      if (row) this.stop(Number(row.dataset.index));
    });
    this.measure();
  }

  close() {
    cancelAnimationFrame(this.frame);
    removeEventListener("scroll", this.onScroll);
    removeEventListener("resize", this.onResize);
  }

  measure() {
    this.height = parseFloat(getComputedStyle(this.place).getPropertyValue("--row")) || 40;
  }

  set(count) {
    this.count = count;
    this.at = Math.max(0, Math.min(this.at, count - 1));
    this.redraw();
  }

  /** Draws everything in sight anew; focus stays on its row. */
  redraw() {
    this.place.style.height = `${this.count * this.height}px`;
    const held = this.holds() ? this.at : null;
    for (const node of this.nodes.values()) node.remove();
    this.nodes.clear();
    this.layout();
    if (held !== null && held < this.count) this.focus(held, { scroll: false });
  }

  /** Draws one row anew, if it is in sight. */
  update(index) {
    const old = this.nodes.get(index);
    if (!old) return;
    const held = old.contains(document.activeElement);
    const fresh = this.make(index);
    old.replaceWith(fresh);
    if (held) fresh.focus({ preventScroll: true });
  }

  holds() {
    return this.place.contains(document.activeElement);
  }

  make(index) {
    const node = this.draw(index);
    node.dataset.index = index;
    node.tabIndex = -1;
    node.style.setProperty("--top", `${index * this.height}px`);
    this.nodes.set(index, node);
    return node;
  }

  range() {
    const top = this.place.getBoundingClientRect().top;
    const from = Math.max(0, Math.floor(-top / this.height) - MARGIN);
    const to = Math.min(this.count, Math.ceil((innerHeight - top) / this.height) + MARGIN);
    return [Math.min(from, to), Math.max(from, to)];
  }

  /** The first row that is in sight below what covers the top. */
  first() {
    const top = this.place.getBoundingClientRect().top;
    return Math.max(0, Math.min(this.count - 1, Math.ceil((this.head() - top) / this.height)));
  }

  layout() {
    const [from, to] = this.range();
    for (const [index, node] of this.nodes) {
      if ((index < from || index >= to) && !node.contains(document.activeElement)) {
        node.remove();
        this.nodes.delete(index);
      }
    }
    let after = null; // in the list's order, for those who read it rather than see it
    for (let index = from; index < to; index++) {
      let node = this.nodes.get(index);
      if (!node) {
        node = this.make(index);
        if (after) after.after(node);
        else this.place.prepend(node);
      }
      after = node;
    }
    this.stop(this.nodes.has(this.at) ? this.at : this.first());
    if (to > from) this.seen(from, to);
  }

  /** Makes a row the one that Tab comes to. */
  stop(index) {
    const before = this.nodes.get(this.at);
    if (before) before.tabIndex = -1;
    const node = this.nodes.get(index);
    if (!node) return;
    this.at = index;
    node.tabIndex = 0;
  }

  reveal(index) {
    const top = this.place.getBoundingClientRect().top + index * this.height;
    const low = innerHeight - this.foot() - this.height;
    if (top < this.head()) scrollBy({ top: top - this.head() - 4, behavior: "instant" });
    else if (top > low) scrollBy({ top: top - low + 4, behavior: "instant" });
  }

  focus(index, { scroll = true } = {}) {
    if (!this.count) return;
    index = Math.max(0, Math.min(this.count - 1, index));
    if (scroll) this.reveal(index);
    this.layout();
    this.stop(index);
    this.nodes.get(index)?.focus({ preventScroll: true });
  }

  /** Moves by the arrow, page, Home and End keys; tells whether the key was one of them. */
  key(event) {
    const page = Math.max(1, Math.floor((innerHeight - this.head() - this.foot()) / this.height) - 1);
    const steps = {
      ArrowDown: 1,
      j: 1,
      ArrowUp: -1,
      k: -1,
      PageDown: page,
      PageUp: -page,
      Home: -Infinity,
      End: Infinity,
    };
    const step = steps[event.key];
    if (step === undefined) return false;
    event.preventDefault();
    this.focus(step === -Infinity ? 0 : step === Infinity ? this.count - 1 : this.at + step);
    if (step === Infinity) say("the last row that is loaded");
    return true;
  }
}
