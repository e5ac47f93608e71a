// Links to the page's own views.

import { attribute, text } from "./element.js";
import { short } from "./format.js";
import { address } from "./route.js";

// Lets a link lead to a worker's page. Without a worker it is not shown.
export function toWorker(anchor, url) {
  anchor.hidden = !url;
  if (!url) return;
  attribute(anchor, "href", address("worker", { url }));
  text(anchor, short(url));
}
