"""Leads the repository's Markdown into one site: README and pages beside docs/ are pages too, and
links stay right.

In the repository a link leads from file to file, so that it works where code is read; here each
becomes a link between pages. A link to a file that is no page, such as a script, becomes plain
text.
"""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CODE_OF_CONDUCT.md",
    "CHANGELOG.md",
    "deploy/README.md",
    "benchmarks/RESULTS.md",
)
LINK = re.compile(r"(?P<bang>!?)\[(?P<text>[^\]]+)\]\((?P<path>[^)#:\s]+)(?P<anchor>#[^)\s]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Navigation by the repository's paths becomes navigation by the site's."""
    config.nav = [
        {title: _entry(path) for title, path in item.items()} for item in config.nav or []
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that lie outside docs/."""
    for path in OUTSIDE:
        files.append(File.generated(config, _page(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leads the links of a page to the site's pages."""
    source = relpath(str(page.file.abs_src_path), str(ROOT))

    def lead(link: re.Match[str]) -> str:
        target = _page(normpath(join(dirname(source), link["path"])))
        if files.get_file_from_path(target) is None:
            if not (ROOT / dirname(source) / link["path"]).exists():
                raise FileNotFoundError(f"{source} links to {link['path']}, which does not exist")
            return link["text"]
        path = relpath(target, dirname(page.file.src_uri) or ".")
        return f"{link['bang']}[{link['text']}]({path}{link['anchor'] or ''})"

    return LINK.sub(lead, markdown)


def _entry(path: str) -> Any:
    if not path.endswith("/"):
        return _page(path)
    return [_page(each.relative_to(ROOT).as_posix()) for each in sorted((ROOT / path).glob("*.md"))]


def _page(path: str) -> str:
    """Where a file of the repository lies in the site: README is the first page, docs/ the site's
    root.
    """
    return "index.md" if path == "README.md" else path.removeprefix("docs/")
