// The page's address: `#/calls?model=…`, `#/trace/ID?span=…`, `#/compare?a=…&b=…`, `#/percentiles?…`. What is looked at
// is kept in it, so that a reload, the back button and a colleague see the same.

/** Filters that may be given more than once, in the order in which the page shows them. */
export const FACETS = ["service", "route", "provider", "model", "outcome", "cause"];
const SINGLE = ["q", "slower_s", "since_us", "until_us"];
/** `last` (seconds before now) is the page's own: the server is asked for `since_us`. */
export const FILTERS = [...FACETS, ...SINGLE, "last"];

export function read(hash = location.hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  const [page = "", ...rest] = path.split("/");
  return { page: page || "calls", id: decode(rest.join("/")), params: new URLSearchParams(query) };
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

export function href(page, params) {
  const query = String(params ?? "");
  return `#/${page}${query ? `?${query}` : ""}`;
}

export const traceHref = (trace_id, span_id) =>
  href(`trace/${encodeURIComponent(trace_id)}`, span_id ? new URLSearchParams({ span: span_id }) : null);

/** The filters alone. */
export function filters(params) {
  const kept = new URLSearchParams();
  for (const [key, value] of params) if (FILTERS.includes(key) && value !== "") kept.append(key, value);
  return kept;
}

/** The filters as the server wants them. */
export function query(params) {
  const asked = new URLSearchParams();
  for (const key of [...FACETS, ...SINGLE])
    for (const value of params.getAll(key)) if (value !== "") asked.append(key, value);
  const last = Number(params.get("last"));
  if (last > 0) asked.set("since_us", String((Math.floor(Date.now() / 1000) - last) * 1e6));
  return asked;
}
