"""Checks of HTML pages that must open without a network: addresses, links, tables and size."""

from __future__ import annotations

import re
from html.parser import HTMLParser

LOADED = frozenset({"src", "srcset", "poster", "data", "action", "formaction", "background"})
LOADING_CODE = re.compile(r"@import|url\(|\bfetch\(|XMLHttpRequest|WebSocket|\bimport\(|sendBeacon")
MAX_BYTES = 500_000  # of a page beside its images


class HtmlPage(HTMLParser):
    """The parts of a page that tests look at."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.loaded: list[str] = []  # addresses that a browser loads, other than data URIs
        self.links: list[dict[str, str]] = []  # attributes of links to other pages
        self.code = ""  # styles and scripts
        self.text = ""  # words between single spaces, without styles and scripts
        self._in_code = False
        self.feed(content)
        self.text = " ".join(self.text.split())
        self.bytes_beside_images = len(re.sub(r"data:image/[^\"]*", "", content).encode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self._in_code = tag in {"style", "script"}
        addresses = [value for name, value in attributes.items() if name in LOADED]
        if tag == "link":
            addresses.append(attributes.get("href", ""))
        self.loaded += [each for each in addresses if not each.startswith("data:image/")]
        if tag == "a":
            self.links.append(attributes)
        self.code += attributes.get("style", "")
        self.text += " "

    def handle_endtag(self, tag: str) -> None:
        self._in_code = False
        self.text += " "

    def handle_data(self, data: str) -> None:
        if self._in_code:
            self.code += data
        else:
            self.text += data


def check_self_contained(content: str) -> HtmlPage:
    """Return a page after asserting that it loads nothing, is small, and opens links elsewhere."""
    page = HtmlPage(content)
    assert page.loaded == []
    assert LOADING_CODE.findall(page.code) == []
    assert "default-src &#39;none&#39;" in content  # the browser's own rule against loading
    assert page.bytes_beside_images <= MAX_BYTES
    for link in page.links:
        assert link["href"].startswith(("http://", "https://"))
        assert (link["target"], link["rel"]) == ("_blank", "noopener")
    return page
