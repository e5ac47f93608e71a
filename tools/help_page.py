"""Makes the dashboard's page of help from docs/failures.md: `python -m tools.help_page`.

The router serves it itself, because an operator's browser may reach nothing else. Links to other pages of the
documentation are plain words there.
"""

import re
from pathlib import Path

import markdown

_ROOT = Path(__file__).parent.parent
SOURCE = _ROOT / "docs" / "failures.md"
PAGE = _ROOT / "router" / "dashboard" / "page" / "help.html"
_ELSEWHERE = re.compile(r'<a href="(?!#|https?:)[^"]*">(.*?)</a>', re.DOTALL)
_SHELL = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>When something fails · SandboxFusion Router</title>
<link rel="icon" type="image/svg+xml" href="icon.svg">
<link rel="stylesheet" href="styles/page.css">
<link rel="stylesheet" href="styles/help.css">
<script src="theme.js"></script>
</head>
<body>
<header>
<nav class="bar" aria-label="Back">
<img src="icon.svg" alt="" width="28" height="28"><a href="../dashboard">Dashboard</a>
</nav>
</header>
<main class="help">
{body}
</main>
</body>
</html>
"""


def page(text: str) -> str:
    """Return the page of help for the text of docs/failures.md."""
    body = markdown.markdown(text, extensions=["tables", "toc", "fenced_code", "attr_list"], output_format="html")
    # A block that scrolls must be reached by keyboard.
    return _SHELL.format(body=_ELSEWHERE.sub(r"\1", body).replace("<pre>", '<pre tabindex="0">'))


if __name__ == "__main__":
    PAGE.write_text(page(SOURCE.read_text()))
