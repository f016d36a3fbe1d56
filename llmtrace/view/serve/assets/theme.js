// The theme that was chosen before, set before the first paint. A classic script: modules run too late for that.
(() => {
  let kept = null;
  try {
    kept = localStorage.getItem("llmtrace-theme");
  } catch {
    /* a private window: the system's choice holds */
  }
  if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept;
})();
