// What was seen of a call, as contiguous phases. Times are milliseconds of performance.now().

import { float, seconds } from "./otlp.js";

const LEAST_MS = 20; // no cause is named for less
const OF_WAIT = 0.2; // nor for a smaller share of the time to the first token
const ROUNDING_MS = 0.002; // by so much a span may be shorter than what was measured, in whole microseconds
const LEAST_LOAD_MS = 1; // less is a look at a model that is loaded already
const MERGED = {
  cut_short: "the call ended before its first token",
  no_stream: "the answer came in one piece: a stream would show its first token",
  ambiguous: "the page saw when the first token came, and nobody told what that time was made of",
};

const rate = (from, to, tokens) => (tokens > 0 ? float((to - from) / 1000 / tokens) : null);
const unsure = (low, high) => {
  const sides = { "llmtrace.phase.uncertainty.low": seconds(low), "llmtrace.phase.uncertainty.high": seconds(high) };
  return { "llmtrace.phase.uncertainty": seconds(Math.max(low, high)), ...(low !== high && sides) };
};

/** The phases of an ended call, in order, as spans. */
export function split(call) {
  const { first, ended, uncached, prompted } = call;
  const load = call.load?.end - call.load?.start < LEAST_LOAD_MS ? undefined : call.load;
  const phases = [];
  const from = () => phases.at(-1)?.end ?? call.start;
  const add = (name, end, more, source = "client") => {
    const own = { "llmtrace.phase": name, "llmtrace.phase.source": source, "llmtrace.side": "client", ...more };
    phases.push({ name: `llm.${name}`, start: from(), end, own });
  };
  const merge = (name, end, why) =>
    add(name, end, { "llmtrace.phase.merged_because": why, "llmtrace.phase.merged_because.detail": MERGED[why] });
  if (load) {
    if (load.start > call.start) add("unattributed", load.start);
    phases.push(load.span(Math.min(load.end ?? ended, first ?? ended)));
  }
  const begun = from();
  if (first === undefined) {
    if (call.outcome === "completed") merge("opaque", ended, "no_stream");
    else if (!load || begun < ended) merge("queue_prefill", ended, "cut_short");
    return phases;
  }
  const prefill = (more, source) => {
    const hit = { "llmtrace.phase.tokens": call.cached, ...unsure(0, first - from()) }; // somewhere in the prefill
    if (call.cached) add("kv_cache_hit", from(), hit, "estimate");
    const pace = { "llmtrace.phase.tokens": uncached, "llmtrace.phase.time_per_token": rate(from(), first, uncached) };
    add("prefill", first, { ...pace, ...more }, source);
  };
  const waited = first - Math.round(call.prefill * 1000) / 1000 - begun; // until the engine began, where that is told
  if (waited >= 0) {
    add("queue", begun + waited, unsure(Math.max(0, waited - ROUNDING_MS), 0));
    prefill({}, "server");
  } else if (prompted !== undefined) prefill({ "llmtrace.generate.setup": seconds(Math.max(0, prompted - begun)) });
  else merge("queue_prefill", first, "ambiguous");
  add("decode", ended, decoded(call));
  return phases;
}

function decoded({ first, last, gaps, output, tokenEach }) {
  const sorted = [...gaps].sort((a, b) => a - b);
  const at = (share) => seconds(sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]);
  const spread = { p50: at(0.5), p99: at(0.99), max: at(1) };
  const times = tokenEach && sorted.length && { "llmtrace.decode.itl": { ...spread, basis: "chunks" } };
  const pace = { "llmtrace.phase.tokens": output, "llmtrace.phase.time_per_token": rate(first, last, output - 1) };
  return { ...pace, "llmtrace.decode.chunk_gap": spread, ...times };
}

/** Names the model's load as the cause, if it was a good part of the wait for the first token. */
export function judge({ load, start, first, ended }, loaded) {
  const took = load.end - load.start;
  if (!(took >= LEAST_MS && took >= OF_WAIT * ((first ?? ended) - start))) return {};
  const [cause, sure] = ["cold_model", float(0.99)];
  const numbers = { confidence: sure, observed: seconds(took), expected: float(0), excess: seconds(took), history: 0 };
  const evidence = { cause, quantity: "model_load", reason: "the model was loaded first", ...numbers };
  loaded.events = [["llmtrace.diagnosis", (loaded.start + loaded.end) / 2, { "llmtrace.diagnosis": evidence }]];
  return { "llmtrace.diagnosis": [cause], "llmtrace.diagnosis.cause": cause, "llmtrace.diagnosis.confidence": [sure] };
}
