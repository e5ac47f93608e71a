// Formats numbers, durations and moments as text.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const time = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const minute = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const dayTime = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const exact = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "long" });

export const NONE = "–";

export const count = (number) => (number == null ? NONE : number < 1e6 ? whole.format(number) : compact.format(number));

export function rate(number) {
  if (number == null) return NONE;
  return number > 0 && number < 10 ? number.toFixed(1) : count(number);
}

export function milliseconds(ms) {
  if (ms == null) return NONE;
  if (ms < 10) return `${Number.isInteger(ms) ? ms : ms.toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s`;
  return `${(ms / 60_000).toFixed(1)} min`;
}

export function ago(seconds) {
  if (seconds == null) return NONE;
  const past = Math.max(0, Math.floor(seconds));
  if (past < 60) return `${past} s`;
  if (past < 3600) return `${Math.floor(past / 60)} min`;
  if (past < 48 * 3600) return `${Math.floor(past / 3600)} h`;
  return `${Math.floor(past / 86_400)} days`;
}

export const clock = (unixS) => time.format(unixS * 1000);
export const clockMinute = (unixS) => minute.format(unixS * 1000);
export const day = (unixS) => dayTime.format(unixS * 1000);

// A moment as the log has it: today's without the date. `iso` is ISO 8601.
export function moment(iso) {
  const at = new Date(iso);
  return Date.now() - at < 12 * 3_600_000 ? time.format(at) : dayTime.format(at);
}

export const moments = (iso) => exact.format(new Date(iso));

export function share(part, of) {
  if (!of || !part) return "";
  const percent = (100 * part) / of;
  return percent < 0.1 ? "<0.1 %" : `${percent < 10 ? percent.toFixed(1) : Math.round(percent)} %`;
}

// A worker's address as it is shown.
export const short = (url) => url.replace(/^http:\/\//, "");

export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;
