"""A real headless Chromium as an operator's browser: what it shows, its input, and its console's errors."""

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import element_to_be_clickable
from selenium.webdriver.support.wait import WebDriverWait

from router.processes import die_with_parent
from tests.support.eventually import eventually

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
IS_THERE = CHROMIUM is not None and DRIVER is not None
# No sandbox, because tests often run as root; and no requests to the vendor's hosts.
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)

# For `measure`: the duration of each frame in ms, for `seconds` seconds.
FRAMES = """
const [seconds, done] = arguments;
const took = [];
let before = performance.now();
const until = before + seconds * 1000;
requestAnimationFrame(function frame(now) {
  took.push(now - before);
  before = now;
  if (now < until) requestAnimationFrame(frame);
  else done(took.slice(1));
});
"""
_SEEN = """
const found = document.querySelector(arguments[0]);
return found?.checkVisibility() ? found.innerText : "";
"""
_AXE = Path(__file__).parent / "axe" / "axe.min.js"
# axe's serious and critical faults, each in a line.
_FAULTS = """
const done = arguments[0];
const line = (fault, node) => `${fault.id} (${fault.impact}): ${node.target.join(" ")}: ${node.failureSummary}`;
axe.run(document, {resultTypes: ["violations"]}).then(({violations}) => done(
  violations
    .filter(({impact}) => impact === "serious" || impact === "critical")
    .flatMap((fault) => fault.nodes.map((node) => line(fault, node)))
));
"""

_Value = TypeVar("_Value")


class Browser:
    """One tab. Each call runs in a thread, because the page's workers may live in this process' event loop."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    async def open(self, url: str) -> None:
        """Go to `url`, and forget earlier errors and requests."""
        await self._log("browser")
        await self._log("performance")
        await self._do(lambda: self.driver.get(url))

    async def open_dashboard(self, router_url: str, view: str = "") -> None:
        """Go to the router's address as an operator types it, and wait until the dashboard is live.

        `view` is the part of the address that names a view, such as `#/events`.
        """
        await self.open(f"{router_url}/{view}")
        await self.shows("#stream", "Live")
        assert await self.js("return location.pathname") == "/dashboard"

    async def js(self, script: str, *values: object) -> Any:
        """Run a script in the page and return its result."""
        return await self._do(lambda: self.driver.execute_script(script, *values))

    async def measure(self, script: str, *values: object) -> Any:
        """Run a script that calls its last argument when it is done; return the value that it passes."""
        return await self._do(lambda: self.driver.execute_async_script(script, *values))

    async def text(self, selector: str) -> str:
        """Return the text of the first element that matches, or "" if none does or it is invisible."""
        return str(await self.js(_SEEN, selector))

    async def texts(self, selector: str) -> list[str]:
        """Return the texts of all matching elements."""
        found: list[str] = await self.js(
            "return [...document.querySelectorAll(arguments[0])].map((found) => found.innerText)", selector
        )
        return found

    async def click(self, selector: str) -> None:
        """Click like a mouse does, only on an element that is visible and not covered; wait until it is drawn."""
        drawn = element_to_be_clickable((By.CSS_SELECTOR, selector))
        await self._do(lambda: WebDriverWait(self.driver, 10).until(drawn).click())

    async def type(self, *keys: str) -> None:
        """Press keys at the focused element."""
        await self._do(lambda: self.driver.switch_to.active_element.send_keys(*keys))

    async def faults(self) -> list[str]:
        """Return the serious faults that axe-core finds in the page, for people who see, hear or move badly."""
        if not await self.js("return 'axe' in window"):
            await self.js(_AXE.read_text())
        found: list[str] = await self.measure(_FAULTS)
        return found

    async def busy_s(self) -> float:
        """Return the CPU seconds that the page's main thread has used: scripts, styles, layout and painting."""

        def read() -> float:
            self.driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
            found = self.driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
            return float(next(each["value"] for each in found if each["name"] == "TaskDuration"))

        return await self._do(read)

    async def save_downloads(self, folder: Path) -> None:
        """Let the page's downloads land in `folder`."""
        where = {"behavior": "allow", "downloadPath": str(folder)}
        await self._do(lambda: self.driver.execute_cdp_cmd("Browser.setDownloadBehavior", where))

    async def prefers(self, **media: str) -> None:
        """Set a preference of the system, such as `prefers_color_scheme="dark"`."""
        features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
        await self._do(lambda: self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features}))

    async def resize(self, width: int, height: int) -> None:
        """Set the size of the page's window."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self._do(lambda: self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size))

    async def save(self, path: Path, selector: str = "body") -> None:
        """Write the visible page, or the first element that matches, as a PNG."""
        if selector == "body":
            await self._do(lambda: self.driver.save_screenshot(str(path)))
        else:
            await self._do(lambda: self.driver.find_element(By.CSS_SELECTOR, selector).screenshot(str(path)))

    async def shows(self, selector: str, wanted: str, within_s: float = 20.0) -> None:
        """Wait until the text of an element contains `wanted`."""

        async def does() -> bool:
            return wanted in await self.text(selector)

        await eventually(does, within_s, f"{wanted!r} in {selector}")

    async def complaints(self) -> list[str]:
        """Return the console's errors and warnings since the page was opened, and forget them.

        A 503 is none: on a busy machine Redis may be late for a moment, which the page itself shows.
        """
        entries = await self._log("browser")
        messages = [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]
        return [message for message in messages if "status of 503" not in message]

    async def requested(self) -> set[str]:
        """Return the URLs requested since the page was opened."""
        entries = await self._log("performance")
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        return {
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        }

    async def _log(self, name: str) -> list[dict[str, Any]]:
        return list(await self._do(lambda: self.driver.get_log(name)))  # type: ignore[no-untyped-call]

    async def _do(self, act: Callable[[], _Value]) -> _Value:
        return await asyncio.to_thread(act)


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """Run Chromium with its files in `folder`; nothing of it runs after the block."""
    options = ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in (*_FLAGS, "--window-size=1440,1000", f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # If the test run itself is killed, the driver ends with it, and Chromium with the driver.
    service = ChromeService(executable_path=DRIVER, popen_kw={"preexec_fn": die_with_parent})
    driver = Chrome(options=options, service=service)
    driver.set_script_timeout(120)
    try:
        yield Browser(driver)
    finally:
        driver.quit()
