// Which rows of a tree are shown. Spans are numbered in depth-first order, so that what lies under a span is the stretch
// of its descendants right behind it: closing one leaves out a stretch, whether its spans are loaded or not.

export class Folds {
  constructor() {
    this.closed = new Map(); // a closed span's number: how many lie under it
    this.hidden = []; // the stretches that are left out, [number before it, length], in order; none inside another
  }

  isClosed(index) {
    return this.closed.has(index);
  }

  close(index, descendants) {
    this.closed.set(index, descendants);
    this.hidden = null;
  }

  open(index) {
    this.closed.delete(index);
    this.hidden = null;
  }

  openAll() {
    this.closed.clear();
    this.hidden = null;
  }

  stretches() {
    if (this.hidden) return this.hidden;
    this.hidden = [];
    let end = -1;
    for (const [index, under] of [...this.closed].sort((one, other) => one[0] - other[0])) {
      if (index <= end) continue; // inside one that is closed
      this.hidden.push([index, under]);
      end = index + under;
    }
    return this.hidden;
  }

  /** How many rows `total` spans are. */
  rows(total) {
    return total - this.stretches().reduce((sum, [, under]) => sum + under, 0);
  }

  /** The span of a row. */
  index(row) {
    let index = row;
    for (const [at, under] of this.stretches()) {
      if (at >= index) break;
      index += under;
    }
    return index;
  }

  /** The row of a span; of one that is hidden, that of the span which hides it. */
  row(index) {
    let row = index;
    for (const [at, under] of this.stretches()) {
      if (at >= index) break;
      row -= Math.min(under, index - at);
    }
    return row;
  }
}
