// Asks the router, and sends the admin token with each question if this tab has one. The token is kept for this tab alone.

const KEY = "sfr-admin-token";

export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

// Returns the router's answer as JSON. Throws Refused if the router refuses, and TypeError if it cannot be reached.
export async function ask(path, values = {}) {
  const given = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const query = given.length ? `?${new URLSearchParams(given)}` : "";
  const answer = await fetch(path + query, { headers: authorized(kept()), cache: "no-store" });
  if (!answer.ok) throw new Refused(answer.status, await detail(answer));
  return answer.json();
}

export async function detail(answer) {
  try {
    const told = (await answer.json()).detail;
    return typeof told === "string" ? told : JSON.stringify(told);
  } catch {
    return `status ${answer.status}`;
  }
}

// Returns in words why a question has failed.
export function trouble(error) {
  if (!(error instanceof Refused)) return "The router cannot be reached.";
  if (error.status === 401) return "This needs the routers' admin token: press Unlock steering at the top.";
  if (error.status === 404) return "This router does not tell it: it has another version.";
  return error.message;
}

export function kept() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return kept.here ?? null; // this browser stores nothing
  }
}

export function keep(token) {
  try {
    if (token === null) sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, token);
  } catch {
    kept.here = token;
  }
}

// A header carries bytes. The gate compares the UTF-8 bytes of the token.
export function authorized(token) {
  if (!token) return {};
  const bytes = new TextEncoder().encode(token);
  return { authorization: `Bearer ${String.fromCharCode(...bytes)}` };
}
