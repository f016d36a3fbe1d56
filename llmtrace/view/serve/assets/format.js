// Numbers and names as people read them: the same rules as llmtrace/view/text.py.

export const DASH = "–";
const SPACE = "\u00a0"; // keeps a number and its unit on one line

const three = (value) => value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0);

/** `412 µs`, `3.21 ms`, `1.24 s`, `2 min 03 s`: three figures that matter. Takes seconds. */
export function seconds(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return DASH;
  const sign = value < 0 ? "−" : "";
  const size = Math.abs(value);
  if (size < 0.5e-9) return `0${SPACE}s`;
  if (size < 59.95) {
    for (const [unit, name] of [
      [1e-6, "µs"],
      [1e-3, "ms"],
      [1, "s"],
    ]) {
      if (size < unit * 999.5 || name === "s") return `${sign}${three(size / unit)}${SPACE}${name}`;
    }
  }
  const whole = Math.round(size);
  const two = (part) => String(part).padStart(2, "0");
  if (whole < 3600) return `${sign}${Math.floor(whole / 60)}${SPACE}min${SPACE}${two(whole % 60)}${SPACE}s`;
  return `${sign}${Math.floor(whole / 3600)}${SPACE}h${SPACE}${two(Math.floor((whole % 3600) / 60))}${SPACE}min`;
}

/** `±92.0 ms`; `−40.0/+130 ms` where a value may be less by another measure than it may be more. Takes seconds. */
export function giveOrTake(low, high) {
  const [shorter, longer] = [seconds(low), seconds(high)];
  if (shorter === longer) return `±${longer}`;
  if (!(low > 0) || !(high > 0)) return low > 0 ? `−${shorter}` : `+${longer}`;
  const [number, unit] = longer.split(SPACE);
  const scale = { µs: 1e-6, ms: 1e-3, s: 1 }[unit];
  if (!scale || Math.max(low, high) >= 59.95 || low / scale >= 999.5 || low / scale < 0.005)
    return `−${shorter}/+${longer}`;
  return `−${three(low / scale)}/+${number}${SPACE}${unit}`;
}

/** A difference in seconds, always with its sign. */
export function difference(value) {
  if (value === null || value === undefined) return DASH;
  return value > 0 ? `+${seconds(value)}` : seconds(value);
}

const counts = new Intl.NumberFormat("en-US");
export const count = (value) => (value === null || value === undefined ? DASH : counts.format(value));
export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

export function bytes(value) {
  if (value === null || value === undefined) return DASH;
  for (const [unit, name] of [
    [2 ** 30, "GiB"],
    [2 ** 20, "MiB"],
    [2 ** 10, "KiB"],
  ]) {
    if (value >= unit) return `${three(value / unit)}${SPACE}${name}`;
  }
  return `${value}${SPACE}B`;
}

export function dollars(value) {
  if (value === null || value === undefined) return DASH;
  return `$${value >= 1 ? value.toFixed(2) : value > 0 ? value.toPrecision(2).replace(/e-7$/, "e−7") : "0"}`;
}

export function percent(part, whole) {
  const share = whole > 0 ? (100 * part) / whole : 0;
  return share >= 9.5 ? `${share.toFixed(0)}%` : share >= 0.05 ? `${share.toFixed(1)}%` : share > 0 ? "<0.1%" : "0%";
}

const hour = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const minute = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const year = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });

/** Local time of day. Takes microseconds since the epoch. */
export const clock = (us) => hour.format(us / 1000);
/** A time label on an axis that spans `span_us`. */
export const moment = (us, span_us) =>
  span_us > 2 * 86400e6 ? day.format(us / 1000) : span_us > 600e6 ? minute.format(us / 1000) : hour.format(us / 1000);
/** The date, without a year that goes without saying. */
export function date(us) {
  const at = new Date(us / 1000);
  return (at.getFullYear() === new Date().getFullYear() ? day : year).format(at);
}
export const today = (us) => new Date(us / 1000).toDateString() === new Date().toDateString();
/** All of it, for a tooltip: ISO, UTC, to the microsecond. */
export function exact(us) {
  const at = new Date(Math.floor(us / 1000));
  if (Number.isNaN(at.getTime())) return String(us);
  return at.toISOString().replace("Z", String(Math.floor(us % 1000)).padStart(3, "0") + "Z");
}

/** The same for seconds: beyond some minutes, round minutes or hours. */
export function timeTicks(span, most, from = 0) {
  const unit = span < 180 ? 1 : span < 3 * 3600 ? 60 : 3600;
  return ticks(span / unit, most, from / unit).map((at) => at * unit);
}

/** Round positions on an axis from `from` over `span`, at most `most` of them. */
export function ticks(span, most, from = 0) {
  if (!(span > 0) || most < 2) return [from];
  const rough = span / (most - 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((unit) => unit * power).find((unit) => unit >= rough * 0.999) ?? 10 * power;
  const first = Math.ceil(from / step - 1e-9);
  const found = [];
  for (let at = first; at * step <= from + span * 1.0001; at++) found.push(at * step || 0); // no −0
  return found;
}

const STEPS = [
  1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800, 2592000,
];

/** Round times of the local clock between two moments (microseconds), at most `most` of them. */
export function moments(from, to, most) {
  const step = (STEPS.find((one) => (to - from) / 1e6 / one <= most) ?? 31536000) * 1e6;
  const shift = new Date(from / 1000).getTimezoneOffset() * 60e6;
  const found = [];
  for (let at = Math.ceil((from - shift) / step) * step + shift; at <= to; at += step) found.push(at);
  return found;
}

/** A tick's label in seconds, in the unit that suits the whole axis. */
export function tick(value, span) {
  if (value === 0) return "0";
  if (span >= 180)
    return `${counts.format(Number((value / (span < 3 * 3600 ? 60 : 3600)).toPrecision(6)))}${SPACE}${span < 3 * 3600 ? "min" : "h"}`;
  for (const [unit, name] of [
    [1e-6, "µs"],
    [1e-3, "ms"],
    [1, "s"],
  ]) {
    if (span < unit * 1000 || name === "s") return `${Number((value / unit).toPrecision(6))}${SPACE}${name}`;
  }
  return "";
}

/** The round number at or above `value`: the end of a scale. */
export function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return (
    [1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9, 10]
      .map((unit) => unit * power)
      .find((unit) => unit >= value * 0.999) ?? 10 * power
  );
}

/** Text that cannot steer the page: control and direction characters made visible or dropped. */
export function clean(text, longest = 4000) {
  if (text.length > longest) text = `${text.slice(0, longest - 1)}…`;
  if (/^[\x20-\x7e]*$/.test(text)) return text;
  return text
    .replace(/[\t\r\v\f\x85\u2028\u2029]/g, " ")
    .replace(/(?![\n])[\p{Cc}\p{Cs}\p{Co}\p{Cn}]/gu, "\ufffd")
    .replace(/(?!\u200d)\p{Cf}/gu, "");
}

/** An attribute's value in text. */
export function value(item) {
  if (typeof item === "number" && !Number.isInteger(item)) return String(Number(item.toPrecision(9)));
  if (item !== null && typeof item === "object") return JSON.stringify(item);
  return item === null || item === undefined ? "" : String(item);
}

export const words = (name) => String(name).replaceAll("_", " ");
