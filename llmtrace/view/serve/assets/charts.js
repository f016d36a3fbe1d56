// Charts over time, in plain SVG: lines, and stacked bars. Each can be read by pointer, by arrow keys, and as a table.
import { h, s } from "./dom.js";
import { DASH, clock, count, date, moment, moments, roundUp, tick, ticks, timeTicks } from "./format.js";

const HEIGHT = 200;
const PAD = { left: 58, right: 14, top: 10, bottom: 24 };
let patterns = 0;

/** Lines: one per series. A moment without calls is a gap. */
export function lines(options) {
  return chart(
    options,
    (draw) => {
      const { buckets, series, x, y } = draw;
      return [...series].reverse().map((one) => {
        // the first lies on top
        let path = "";
        let pen = "M";
        const alone = [];
        buckets.forEach((bucket, at) => {
          const value = one.of(bucket);
          if (value === null || value === undefined) {
            pen = "M";
            return;
          }
          path += `${pen}${x(bucket).toFixed(1)} ${y(value).toFixed(1)}`;
          pen = "L";
          const near = [buckets[at - 1], buckets[at + 1]].some((other) => other && one.of(other) != null);
          if (!near)
            alone.push(s("circle", { class: one.css, cx: x(bucket).toFixed(1), cy: y(value).toFixed(1), r: 3 }));
        });
        return [s("path", { class: `line ${one.css}`, d: path || "M0 0", fill: "none" }), alone];
      });
    },
    (bucket, series) => Math.max(...series.map((one) => one.of(bucket) ?? 0)),
  );
}

/** Bars: the series one upon another. */
export function bars(options) {
  return chart(
    options,
    (draw) => {
      const { buckets, series, x, y, step } = draw;
      const width = Math.max(1.5, Math.min(28, step - 2));
      return buckets.map((bucket) => {
        let base = 0;
        return series.map((one) => {
          const value = one.of(bucket) ?? 0;
          if (!(value > 0)) return null;
          const top = y(base + value);
          const piece = s("rect", {
            class: `fill ${one.css}`,
            x: (x(bucket) - width / 2).toFixed(1),
            y: top.toFixed(1),
            width: width.toFixed(1),
            height: Math.max(0.8, y(base) - top).toFixed(1),
            fill: draw.paint(one),
          });
          base += value;
          return piece;
        });
      });
    },
    (bucket, series) => series.reduce((sum, one) => sum + (one.of(bucket) ?? 0), 0),
  );
}

function chart({ title, buckets, series, unit, jump, whole = false }, marks, height) {
  const id = `hatch-${(patterns += 1)}`;
  const svg = s("svg", { class: "plot", tabindex: "0", role: "img", height: HEIGHT });
  const readout = h("p", { class: "readout num", "aria-live": "polite" });
  const first = buckets[0].start_us;
  const last = buckets[buckets.length - 1].start_us + buckets[buckets.length - 1].width_us;
  const highest = roundUp(Math.max(...buckets.map((bucket) => height(bucket, series)), whole ? 4 : 0));
  let at = null;
  let box = null;

  svg.setAttribute("aria-label", `${title} over time, ${buckets.length} moments. Left and right arrows read them out.`);
  const said = (bucket) =>
    `${date(bucket.start_us)}, ${clock(bucket.start_us)}: ` +
    series.map((one) => `${one.name} ${one.of(bucket) == null ? DASH : unit(one.of(bucket))}`).join(", ") +
    (whole ? "" : `, ${count(bucket.count)} calls`);

  function draw() {
    const width = Math.max(260, svg.parentElement?.clientWidth || 600);
    const inner = width - PAD.left - PAD.right;
    const x = (bucket) => PAD.left + (inner * (bucket.start_us + bucket.width_us / 2 - first)) / (last - first);
    const y = (value) => HEIGHT - PAD.bottom - ((HEIGHT - PAD.top - PAD.bottom) * value) / highest;
    const step = inner / Math.max(1, Math.round((last - first) / buckets[0].width_us));
    box = { x, step, inner };
    const paint = (one) =>
      one.css.includes("stripe")
        ? `url(#${id}-${one.css.includes("blind") ? "blind" : "mixed"})`
        : one.css === "calls-bad"
          ? `url(#${id}-bad)`
          : null;
    const marksX = moments(first, last, Math.max(2, Math.floor(inner / 100)));
    svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    svg.setAttribute("width", width);
    svg.replaceChildren(
      s(
        "defs",
        {},
        stripes(`${id}-mixed`, "queue", "prefill"),
        stripes(`${id}-blind`, "other", "attempt"),
        stripes(`${id}-bad`, "bad", "bad-bg"),
      ),
      ...(whole ? ticks : timeTicks)(highest, 5).map((value) =>
        s(
          "g",
          { class: "grid-line" },
          s("line", { x1: PAD.left, x2: width - PAD.right, y1: y(value), y2: y(value) }),
          s(
            "text",
            { x: PAD.left - 8, y: y(value) + 4, "text-anchor": "end" },
            whole ? count(value) : tick(value, highest),
          ),
        ),
      ),
      ...marksX.map((us) =>
        s(
          "text",
          {
            class: "soft",
            x: PAD.left + (inner * (us - first)) / (last - first),
            y: HEIGHT - 6,
            "text-anchor": us > last - (last - first) * 0.04 ? "end" : "middle",
          },
          moment(us, last - first),
        ),
      ),
      ...flatten(marks({ buckets, series, x, y, step, paint })),
      s("line", { class: "cross", y1: PAD.top, y2: HEIGHT - PAD.bottom, x1: -9, x2: -9 }),
    );
    point(at);
  }

  function point(index) {
    at = index;
    const cross = svg.querySelector(".cross");
    const bucket = index === null ? null : buckets[index];
    const px = bucket ? box.x(bucket) : -9;
    cross?.setAttribute("x1", px);
    cross?.setAttribute("x2", px);
    readout.replaceChildren(
      bucket ? said(bucket) : "",
      bucket && bucket.count && jump ? h("a", { href: jump(bucket) }, " its calls") : "",
    );
  }

  svg.addEventListener("pointermove", (event) => {
    const px = event.clientX - svg.getBoundingClientRect().left;
    let best = 0;
    buckets.forEach((bucket, index) => {
      if (Math.abs(box.x(bucket) - px) < Math.abs(box.x(buckets[best]) - px)) best = index;
    });
    if (best !== at) point(best);
  });
  svg.addEventListener("click", () => {
    const bucket = at === null ? null : buckets[at];
    if (bucket?.count && jump) location.hash = jump(bucket);
  });
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (event.key === "Enter" && at !== null && buckets[at].count && jump) location.hash = jump(buckets[at]);
    if (step === undefined) return;
    event.preventDefault();
    const next =
      at === null ? (step > 0 ? 0 : buckets.length - 1) : Math.max(0, Math.min(buckets.length - 1, at + step));
    point(next);
  });

  const key = h(
    "ul",
    { class: "chart-key" },
    series.map((one) => h("li", {}, h("span", { class: `dot ${one.css}`, "aria-hidden": "true" }), one.name)),
  );
  const rows = h("tbody", {});
  const more = h(
    "details",
    { class: "as-table" },
    h("summary", {}, "As a table"),
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": `${title}, as a table` },
      h(
        "table",
        {},
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("th", { scope: "col", class: "text" }, "from"),
            series.map((one) => h("th", { scope: "col" }, one.name)),
            whole ? null : h("th", { scope: "col" }, "calls"),
          ),
        ),
        rows,
      ),
    ),
  );
  more.addEventListener("toggle", () => {
    if (!more.open || rows.firstChild) return;
    rows.append(
      ...buckets.map((bucket) =>
        h(
          "tr",
          {},
          h("th", { scope: "row", class: "text num" }, `${date(bucket.start_us)}, ${clock(bucket.start_us)}`),
          series.map((one) => h("td", {}, one.of(bucket) == null ? DASH : unit(one.of(bucket)))),
          whole ? null : h("td", {}, count(bucket.count)),
        ),
      ),
    );
  });
  const element = h(
    "figure",
    { class: "card chart" },
    h("figcaption", {}, h("h3", {}, title), key),
    h("div", { class: "plot-box" }, svg),
    readout,
    more,
  );
  let wide = 0;
  const watch = new ResizeObserver(([entry]) => {
    if (Math.abs(entry.contentRect.width - wide) < 1) return;
    wide = entry.contentRect.width;
    draw();
  });
  watch.observe(svg.parentElement);
  return { element, close: () => watch.disconnect() };
}

const flatten = (items) => items.flat(Infinity).filter(Boolean);

/** Stripes of two colours: what is not told apart, and errors, which are to be seen without colour too. */
function stripes(id, one, other) {
  return s(
    "pattern",
    { id, width: 8, height: 8, patternUnits: "userSpaceOnUse", patternTransform: "rotate(25)" },
    s("rect", { width: 8, height: 8, class: `paint-${one}` }),
    s("rect", { width: 4, height: 8, class: `paint-${other}` }),
  );
}
