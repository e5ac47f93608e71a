// Sets the theme before the page is painted: the one that was chosen here, or the system's.
"use strict";

(() => {
  const KEY = "sfr-theme";
  const system = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;

  function chosen() {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null; // this browser stores nothing
    }
  }

  function show() {
    root.dataset.theme = chosen() ?? (system.matches ? "dark" : "light");
    dispatchEvent(new Event("themechange"));
  }

  system.addEventListener("change", show);
  // Called by the toggle. The system's own theme is not stored, so that the page follows the system again.
  window.toggleTheme = () => {
    const next = root.dataset.theme === "dark" ? "light" : "dark";
    try {
      if ((next === "dark") === system.matches) localStorage.removeItem(KEY);
      else localStorage.setItem(KEY, next);
    } catch {
      root.dataset.theme = next;
      dispatchEvent(new Event("themechange"));
      return;
    }
    show();
  };
  show();
})();
