// The page's frame: which view the address asks for, the notice when the server is gone, theme, live tail and shortcuts.
import { ApiError, get, live, silent, whenSilent } from "./api.js";
import { filters, href, read } from "./address.js";
import { h, later, say, typing } from "./dom.js";
import { bytes, count, plural } from "./format.js";
import { showShortcuts, singleKeys } from "./shortcuts.js";
import * as calls from "./calls.js";
import * as compare from "./compare.js";
import * as percentiles from "./percentiles.js";
import * as trace from "./trace.js";

const VIEWS = { calls, compare, percentiles, trace };
const TITLES = { calls: "Calls", compare: "Two calls", percentiles: "Percentiles", trace: "Trace" };
const main = document.getElementById("main");

/** What the views share: the server's status, and the way from one address to another. */
const app = {
  status: null,
  live: false,
  go(page, params, { replace = false } = {}) {
    const to = href(page, params);
    if (to === location.hash) return;
    history[replace ? "replaceState" : "pushState"](null, "", to);
    show();
  },
  /** Changes the address and leaves the view as it is. */
  note(page, params) {
    history.replaceState(null, "", href(page, params));
    links();
  },
};

let view = null;
let shown = null;

function show({ afresh = false } = {}) {
  const address = read();
  const module = VIEWS[address.page];
  document.title = `${TITLES[address.page] ?? "Not found"} · llmtrace view`;
  links();
  const same = !afresh && view && shown.page === address.page && shown.id === address.id && view.update;
  shown = address;
  if (same) {
    view.update(address.params);
  } else {
    view?.close?.();
    hideTip();
    main.replaceChildren();
    if (!module) {
      main.append(
        h("div", { class: "blank" }, h("h1", {}, "No such page"), h("p", {}, h("a", { href: "#/calls" }, "All calls"))),
      );
      view = null;
    } else {
      scrollTo(0, 0);
      view = module.open(main, address, app);
    }
  }
  liveButton();
}

// The links of the frame keep the filters, so that a filtered list and its percentiles are one step apart.
function links() {
  const { page, params } = read();
  for (const link of document.querySelectorAll("header nav a")) {
    const here = link.dataset.page === page;
    link.href = href(link.dataset.page, page === "calls" || page === "percentiles" ? filters(params) : null);
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

// --- The server: its status, and what to do when it is gone

async function refreshStatus() {
  app.status = await get("status");
  foot();
  liveButton();
  view?.status?.(app.status);
  if (app.status.loading) setTimeout(() => refreshStatus().catch(() => {}), 1000);
  return app.status;
}

let waiting = null;

whenSilent(() => {
  if (waiting) return;
  button.hidden = true; // nothing is live while nobody answers
  let pause = 1;
  const trouble = document.getElementById("trouble");
  const words = h("span", {});
  const attempt = async () => {
    clearTimeout(waiting);
    words.textContent = "The server does not answer. Asking again …";
    try {
      const response = await fetch("/api/status", { cache: "no-store", signal: AbortSignal.timeout(10_000) });
      if (!response.ok) throw new ApiError(response.status, "");
    } catch {
      wait();
      return;
    }
    waiting = null;
    trouble.replaceChildren();
    say("The server answers again.");
    tail();
    liveButton();
    await refreshStatus().catch(() => {});
    if (view?.again) view.again();
    else show({ afresh: true });
  };
  const wait = () => {
    words.textContent =
      `The server at ${location.host} does not answer. Was it stopped? Start llmtrace view again; ` +
      `this page asks again in ${pause} s.`;
    waiting = setTimeout(attempt, pause * 1000);
    pause = Math.min(15, pause * 2);
  };
  trouble.replaceChildren(
    h("div", { class: "trouble" }, words, h("button", { type: "button", onclick: attempt }, "Ask now")),
  );
  wait();
});

function foot() {
  const status = app.status;
  const rejected = Object.values(status.rejected ?? {}).reduce((sum, number) => sum + number, 0);
  const parts = [
    `llmtrace ${status.version}`,
    `${plural(status.spans, "span")} in ${plural(status.traces, "trace")}`,
    status.max_bytes ? `${bytes(status.bytes)} of ${bytes(status.max_bytes)}` : bytes(status.bytes),
    status.dropped_spans ? `${plural(status.dropped_spans, "old span")} dropped to make room` : null,
    rejected
      ? h(
          "span",
          {
            title: Object.entries(status.rejected)
              .map(([why, number]) => `${why}: ${count(number)}`)
              .join("\n"),
          },
          `${count(rejected)} rejected`,
        )
      : null,
    ...(status.sources ?? []).map(
      (file) => `${file.path}${file.bad_lines ? ` (${plural(file.bad_lines, "broken line")} skipped)` : ""}`,
    ),
  ].filter(Boolean);
  document.getElementById("foot").replaceChildren(
    h(
      "p",
      {},
      parts.map((part, at) => [at ? " · " : null, part]),
    ),
    ...(status.warnings ?? []).map((warning) => h("p", { class: "warn" }, `! ${warning}`)),
    ...(status.notes ?? []).map((note) => h("p", {}, note)),
  );
}

// --- Live tail

const button = document.getElementById("live");
let stopLive = null;

function liveButton() {
  const can = Boolean(view?.tick) && app.status?.live !== false && app.status !== null;
  app.live = can && shown.params.get("live") !== "0";
  button.hidden = !can;
  button.setAttribute("aria-pressed", String(app.live));
  button.title = app.live
    ? "New calls appear as they come. Press to hold still."
    : "The view holds still. Press to follow.";
}

function tail() {
  stopLive?.();
  stopLive = live((news) => {
    soonStatus();
    if (app.live && view?.tick && !document.hidden) view.tick(news);
  });
}

const soonStatus = later(() => refreshStatus().catch(() => {}), 1500);

function toggleLive() {
  const { page, params } = read();
  if (app.live) params.set("live", "0");
  else params.delete("live");
  app.note(page, params);
  shown.params = params;
  liveButton();
  say(app.live ? "Live: new calls appear as they come." : "Holding still.");
  if (app.live) view?.tick?.();
}

button.addEventListener("click", toggleLive);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && app.live) view?.tick?.();
});

// --- Theme

const theme = document.getElementById("theme");
const system = matchMedia("(prefers-color-scheme: dark)");

const dark = () =>
  document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : system.matches;

function themeLabel() {
  theme.textContent = dark() ? "Light" : "Dark";
  theme.setAttribute("aria-label", dark() ? "Switch to light colours" : "Switch to dark colours");
}

function toggleTheme() {
  document.documentElement.dataset.theme = dark() ? "light" : "dark";
  try {
    localStorage.setItem("llmtrace-theme", document.documentElement.dataset.theme);
  } catch {
    /* a private window: it holds until the page is left */
  }
  themeLabel();
}

theme.addEventListener("click", toggleTheme);
system.addEventListener("change", themeLabel);

// --- A tip: what a bar says in numbers, for the pointer (the keyboard gets it on the row's own page and as its label)

const tip = document.getElementById("tip");
let tipTimer = 0;

function hideTip() {
  clearTimeout(tipTimer);
  tip.hidden = true;
}

/** Shows `make()` beside `element` while the pointer is on it. */
app.tip = (element, make) => {
  element.addEventListener("pointerenter", (event) => {
    if (event.pointerType !== "mouse") return;
    clearTimeout(tipTimer);
    tipTimer = setTimeout(() => {
      if (!element.isConnected) return;
      tip.replaceChildren(make());
      tip.hidden = false;
      const box = element.getBoundingClientRect();
      const { offsetWidth: width, offsetHeight: height } = tip;
      const below = box.bottom + 8;
      const fits = below + height <= innerHeight - 8 || box.top - height - 8 < 8;
      tip.style.top = `${Math.max(8, fits ? Math.min(below, innerHeight - height - 8) : box.top - height - 8)}px`;
      tip.style.left = `${Math.max(16, Math.min(box.left + 12, innerWidth - width - 16))}px`;
    }, 160);
  });
  element.addEventListener("pointerleave", hideTip);
};

addEventListener("scroll", hideTip, { passive: true });
addEventListener("pointerdown", hideTip);

// --- Keys

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address is the view's
  main.focus();
});
document.getElementById("help").addEventListener("click", showShortcuts);

addEventListener("keydown", (event) => {
  hideTip();
  if (
    event.defaultPrevented ||
    event.ctrlKey ||
    event.metaKey ||
    event.altKey ||
    document.querySelector("dialog[open]")
  )
    return;
  if (event.key === "Escape" && typing(event.target)) {
    event.target.blur();
    return;
  }
  const letter = event.key.length === 1 && event.key !== " ";
  if (typing(event.target) || (letter && !singleKeys())) return;
  if (view?.key?.(event) || !letter) return;
  const run = {
    "?": showShortcuts,
    1: () => document.querySelector('[data-page="calls"]').click(),
    2: () => document.querySelector('[data-page="percentiles"]').click(),
    "/": () => main.querySelector("input[type=search]")?.focus(),
    l: () => button.hidden || toggleLive(),
    t: toggleTheme,
  }[event.key];
  if (!run) return;
  event.preventDefault();
  run();
});

history.scrollRestoration = "manual"; // views are built anew: the list of calls remembers its own place
addEventListener("hashchange", () => show());

themeLabel();
show();
tail();
refreshStatus().catch((error) => {
  if (!silent(error)) throw error;
});
