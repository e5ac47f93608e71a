// Connects the parts: events go from the stream to the fleet; the page is drawn from the fleet, at most once a frame.

import { Charts } from "./charts.js";
import { Fleet } from "./fleet.js";
import { Notices } from "./notices.js";
import { Steering } from "./steering.js";
import { Stream } from "./stream.js";
import { Table } from "./table.js";
import { Tenants } from "./tenants.js";

const fleet = new Fleet();
const notices = new Notices();
const steering = new Steering(notices.say);
const charts = new Charts(document.getElementById("numbers"));
const tenants = new Tenants(document.getElementById("tenants"));
const table = new Table(document.getElementById("workers"), steering, notices.say);
let isDue = false;

function draw() {
  isDue = false;
  charts.update(fleet);
  tenants.update(fleet);
  table.update(fleet);
  notices.update(fleet, stream);
  const trouble = fleet.counts.unhealthy + fleet.counts.ejected;
  const title = trouble ? `${trouble} in trouble · SandboxFusion Router` : "SandboxFusion Router";
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

const theme = document.getElementById("theme");
const showTheme = () => theme.setAttribute("aria-pressed", String(document.documentElement.dataset.theme === "dark"));
theme.addEventListener("click", () => window.toggleTheme());
addEventListener("themechange", showTheme);
showTheme();
