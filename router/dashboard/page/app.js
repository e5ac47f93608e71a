// Connects the parts: events go from the stream to the fleet; the view that the address names is drawn from it, at most once
// a frame.

import { Events, Failures } from "./model/log.js";
import { Fleet } from "./model/fleet.js";
import { History } from "./model/history.js";
import { Stream } from "./model/stream.js";
import { Notices } from "./parts/notices.js";
import { FIRST, current } from "./parts/route.js";
import { Steering } from "./parts/steering.js";
import { EventsView } from "./views/events.js";
import { FailuresView } from "./views/failures.js";
import { FleetView } from "./views/fleet.js";
import { LanguagesView } from "./views/languages.js";
import { ProcessesView } from "./views/processes.js";
import { TenantsView } from "./views/tenants.js";
import { WorkerView } from "./views/worker.js";

const VIEWS = {
  fleet: FleetView,
  worker: WorkerView,
  tenants: TenantsView,
  events: EventsView,
  failures: FailuresView,
  processes: ProcessesView,
  languages: LanguagesView,
};
const TITLE = "SandboxFusion Router";
const fleet = new Fleet();
const notices = new Notices();
const polls = { history: new History(drawSoon), events: new Events(drawSoon), failures: new Failures(drawSoon) };
// What was refused before is asked again with the token.
const steering = new Steering(notices.say, () => Object.values(polls).forEach(({ poll }) => poll.now()));
const shared = { ...polls, steering, say: notices.say, redraw: drawSoon };
const views = new Map();
let shown = null;
let isDue = false;

function place(name) {
  return document.querySelector(`[data-view="${name}"]`);
}

// Views are made when they are first seen, because a chart needs a width.
function open(isFirst) {
  const { view: named, values } = current();
  const name = Object.hasOwn(VIEWS, named) ? named : FIRST;
  const root = place(name);
  if (shown && shown !== views.get(name)) shown.close();
  for (const other of document.querySelectorAll("[data-view]")) other.hidden = other !== root;
  if (!views.has(name)) views.set(name, new VIEWS[name](root, shared));
  shown = views.get(name);
  shown.open(values);
  for (const link of document.querySelectorAll("#views a")) {
    if (!link.dataset.of.split(" ").includes(name)) {
      link.removeAttribute("aria-current");
      continue;
    }
    link.setAttribute("aria-current", "page");
    link.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  shown.name = name === FIRST ? "" : (root.querySelector("h2").textContent || name);
  if (!isFirst) {
    scrollTo(0, 0);
    root.querySelector("h2").focus({ preventScroll: true });
  }
  drawSoon();
}

function draw() {
  isDue = false;
  shown.update(fleet);
  notices.update(fleet, stream);
  const trouble = fleet.counts.unhealthy + fleet.counts.ejected;
  const title = [shown.name, trouble ? `${trouble} in trouble` : "", TITLE].filter(Boolean).join(" · ");
  if (document.title !== title) document.title = title;
}

function drawSoon() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(draw);
}

function handled(handle) {
  return (data) => {
    const fits = handle(data);
    if (fits !== false) drawSoon();
    return fits;
  };
}

const stream = new Stream("dashboard/events", {
  whole: handled((data) => fleet.whole(data)),
  tick: handled((data) => fleet.tick(data)),
  change: () => {
    notices.update(fleet, stream);
    if (stream.isLive) steering.look(); // after a break it may be another router process
  },
});
setInterval(() => stream.isLive || notices.update(fleet, stream), 1000);

addEventListener("hashchange", () => open(false));
open(true);

const theme = document.getElementById("theme");
const showTheme = () => theme.setAttribute("aria-pressed", String(document.documentElement.dataset.theme === "dark"));
theme.addEventListener("click", () => window.toggleTheme());
addEventListener("themechange", showTheme);
showTheme();

// The slash key leads to the view's first field.
document.addEventListener("keydown", (event) => {
  const isWriting = event.target.closest("input, select, dialog[open]");
  const field = document.querySelector("[data-view]:not([hidden]) input");
  if (event.key !== "/" || isWriting || !field || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  field.focus();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.querySelector("[data-view]:not([hidden]) h2").focus();
});
