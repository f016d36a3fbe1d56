(function () {
  "use strict";
  var root = document.documentElement, button = document.getElementById("theme"), tip = document.getElementById("tip");
  var system = matchMedia("(prefers-color-scheme: dark)"), timer = 0;
  function stored() { try { return localStorage.getItem("llmtrace-theme"); } catch (e) { return null; } }
  function dark() { return root.dataset.theme ? root.dataset.theme === "dark" : system.matches; }
  function label() { button.textContent = dark() ? "Light" : "Dark"; button.setAttribute("aria-label", dark() ? "Switch to light colours" : "Switch to dark colours"); }
  var kept = stored(), asked = location.hash === "#dark" ? "dark" : location.hash === "#light" ? "light" : kept;
  if (asked === "dark" || asked === "light") { root.dataset.theme = asked; }
  button.hidden = false;
  label();
  system.addEventListener("change", label);
  button.addEventListener("click", function () {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("llmtrace-theme", root.dataset.theme); } catch (e) { /* private window */ }
    label();
  });

  function hide() { clearTimeout(timer); tip.hidden = true; }
  function show(summary) {
    var row = summary.parentNode, more = row.querySelector(".more");
    if (!more || row.open) { hide(); return; }
    tip.replaceChildren(more.cloneNode(true));
    tip.hidden = false;
    var box = summary.getBoundingClientRect(), height = tip.offsetHeight, width = tip.offsetWidth;
    var below = box.bottom + 8, above = box.top - height - 8;
    tip.style.top = Math.max(8, below + height <= innerHeight - 8 || above < 8 ? Math.min(below, innerHeight - height - 8) : above) + "px";
    tip.style.left = Math.max(16, Math.min(box.left + box.width * 0.3, innerWidth - width - 16)) + "px";
  }
  var fine = matchMedia("(hover: hover) and (pointer: fine)");
  document.querySelectorAll(".row > summary").forEach(function (summary) {
    summary.addEventListener("mouseenter", function () { if (fine.matches) { clearTimeout(timer); timer = setTimeout(show, 140, summary); } });
    summary.addEventListener("mouseleave", hide);
    summary.addEventListener("focus", function () { if (fine.matches && summary.matches(":focus-visible")) { show(summary); } });
    summary.addEventListener("blur", hide);
    summary.addEventListener("click", hide);
  });
  addEventListener("keydown", function (event) { if (event.key === "Escape") { hide(); } });
  addEventListener("scroll", hide, { passive: true });
})();
