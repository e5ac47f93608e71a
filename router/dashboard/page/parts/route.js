// The page's address says what is shown: `#/events?kind=worker_ejected`. So each view, with its filters, can be sent as a link.

export const FIRST = "fleet";

export function current() {
  const [, view, query] = /^#\/([a-z]*)(?:\?(.*))?$/.exec(location.hash) ?? [];
  return { view: view || FIRST, values: Object.fromEntries(new URLSearchParams(query ?? "")) };
}

export function address(view, values = {}) {
  const given = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return `#/${view}${given.length ? `?${new URLSearchParams(given)}` : ""}`;
}

// Changes values of the address and makes no new entry in the browser's history, because a filter changes with each key.
export function remember(values) {
  const { view, values: held } = current();
  history.replaceState(null, "", address(view, { ...held, ...values }));
}
