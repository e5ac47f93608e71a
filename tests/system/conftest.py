"""The browser of the tests that look at the dashboard."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.browser import Browser, chromium


@pytest.fixture(scope="module")
def one_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One Chromium for all tests of a file, because it starts slowly."""
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
async def browser(one_browser: Browser) -> AsyncIterator[Browser]:
    """A browser in its first state; afterwards the page is left, so that the next test sees only its own errors."""
    await one_browser.prefers(prefers_color_scheme="light")
    await one_browser.resize(1440, 1000)
    yield one_browser
    await one_browser.open("about:blank")
