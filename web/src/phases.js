// What was seen of a call, as contiguous phases. Times are milliseconds of performance.now().

import { float } from "./otlp.js";

const LEAST_MS = 20; // no cause is named for less
const OF_WAIT = 0.2; // nor for a smaller share of the time to the first token
const MERGED = {
  cut_short: "the call ended before its first token",
  no_stream: "the answer came in one piece: a stream would show its first token",
  ambiguous: "the page saw when the first token came, and nobody told what that time was made of",
};

const seconds = (from, to) => float((to - from) / 1000);
const rate = (from, to, tokens) => (tokens > 0 ? float((to - from) / 1000 / tokens) : null);
const unsure = (low, high) => ({
  "llmtrace.phase.uncertainty": float(Math.max(low, high) / 1000),
  ...(low !== high && { "llmtrace.phase.uncertainty.low": float(low / 1000) }),
  ...(low !== high && { "llmtrace.phase.uncertainty.high": float(high / 1000) }),
});

/** The phases of an ended call, in order. */
export function split(call) {
  const { load, first, ended, uncached } = call;
  const phases = [];
  const from = () => phases.at(-1)?.end ?? call.start;
  const add = (name, end, source = "client", own = {}, parts = []) =>
    phases.push({ name, start: from(), end, source, parts, own: { "llmtrace.phase": name, ...own } });
  const merge = (name, end, why) =>
    add(name, end, "client", { "llmtrace.phase.merged_because": why, "llmtrace.phase.merged_because.detail": MERGED[why] });
  if (load) {
    const end = Math.min(load.end ?? ended, ended);
    if (load.start > call.start) add("unattributed", load.start);
    add("model_load", end, "client", load.told(), load.parts(end));
    if (first === undefined && end >= ended) return phases;
  }
  const begun = from();
  if (first === undefined) {
    merge(call.outcome === "completed" ? "opaque" : "queue_prefill", ended, call.outcome === "completed" ? "no_stream" : "cut_short");
    return phases;
  }
  const tokens = { "llmtrace.phase.tokens": uncached };
  const computed = Math.round(call.prefill * 1000) / 1000; // by the engine; what lies before is the wait for it
  if (computed <= first - begun) {
    const began = computed < 0.002 ? first : first - computed - begun < 0.002 ? begun : first - computed;
    add("queue", began, "client", unsure(began - begun, 0));
    add("prefill", first, "server", { ...tokens, "llmtrace.phase.time_per_token": rate(began, first, uncached) });
  } else if (call.prompted !== undefined) {
    const hit = { "llmtrace.phase.tokens": call.cached, ...unsure(0, first - begun) }; // somewhere in the prefill
    if (call.cached) add("kv_cache_hit", begun, "estimate", hit);
    const setup = { "llmtrace.generate.setup": seconds(begun, Math.max(begun, call.prompted)) };
    add("prefill", first, "client", { ...tokens, ...setup, "llmtrace.phase.time_per_token": rate(begun, first, uncached) });
  } else merge("queue_prefill", first, "ambiguous");
  add("decode", ended, "client", decoded(call));
  return phases;
}

function decoded({ first, last, gaps, output, tokenEach }) {
  const sorted = [...gaps].sort((a, b) => a - b);
  const at = (share) => float(sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] / 1000);
  const spread = (name) => ({ [`${name}.p50`]: at(0.5), [`${name}.p99`]: at(0.99), [`${name}.max`]: at(1) });
  const paced = tokenEach && gaps.length && { ...spread("llmtrace.decode.itl"), "llmtrace.decode.itl.basis": "chunks" };
  return {
    "llmtrace.phase.tokens": output,
    "llmtrace.phase.time_per_token": rate(first, last, output - 1),
    ...spread("llmtrace.decode.chunk_gap"),
    ...paced,
  };
}

/** The evidence that the model was loaded first; null where that was no good part of the wait for the first token. */
export function coldModel({ load, start, first, ended }) {
  const loaded = load?.end - load?.start;
  if (!(loaded >= LEAST_MS && loaded >= OF_WAIT * ((first ?? ended) - start))) return null;
  return {
    "llmtrace.diagnosis.cause": "cold_model",
    "llmtrace.diagnosis.confidence": float(0.99),
    "llmtrace.diagnosis.quantity": "model_load",
    "llmtrace.diagnosis.observed": float(loaded / 1000),
    "llmtrace.diagnosis.expected": float(0),
    "llmtrace.diagnosis.excess": float(loaded / 1000),
    "llmtrace.diagnosis.reason": "the model was loaded first",
    "llmtrace.diagnosis.history": 0,
  };
}

/** Gives moments in ns since 1970. Below a microsecond they fall from start to start, as the span contract wants it. */
export function placing(start, moments, end) {
  const ns = (moment) => BigInt(Math.round((performance.timeOrigin + moment) * 1000)) * 1000n;
  const placed = new Map([[start, ns(start) - 1n], [end, ns(end)]]);
  let below = 999n;
  for (const moment of moments) if (!placed.has(moment)) placed.set(moment, ns(moment) - 1000n + --below);
  return (moment) => String(placed.get(moment) ?? ns(moment));
}
