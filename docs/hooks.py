"""MkDocs hooks that build one site from README, docs/ and pages in other folders.

In the repository, links are paths between files, so that they work where the code is browsed. Here
they become links between pages. A link to a file that is not a page, such as a script, becomes
plain text.
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
    """Replace the repository's paths in the navigation by those of the site."""
    config.nav = [_convert(item) for item in config.nav or []]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside of docs/."""
    for path in OUTSIDE:
        files.append(File.generated(config, _page(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Convert the links of a page.

    Raises:
        FileNotFoundError: a link points to a file that does not exist.
    """
    source = relpath(str(page.file.abs_src_path), str(ROOT))

    def convert(link: re.Match[str]) -> str:
        target = _page(normpath(join(dirname(source), link["path"])))
        if files.get_file_from_path(target) is None:
            if not (ROOT / dirname(source) / link["path"]).exists():
                raise FileNotFoundError(f"{source} links to {link['path']}, which does not exist")
            return link["text"]
        path = relpath(target, dirname(page.file.src_uri) or ".")
        return f"{link['bang']}[{link['text']}]({path}{link['anchor'] or ''})"

    return LINK.sub(convert, markdown)


def _convert(item: dict[str, Any]) -> dict[str, Any]:
    """Return an entry of the navigation, a page or a section, with paths of the site."""
    ((title, content),) = item.items()
    if isinstance(content, list):
        return {title: [_convert(each) for each in content]}
    if not content.endswith("/"):
        return {title: _page(content)}
    paths = sorted((ROOT / content).glob("*.md"))
    return {title: [_page(path.relative_to(ROOT).as_posix()) for path in paths]}


def _page(path: str) -> str:
    """Return the path of a file in the site: README is the first page, docs/ the root."""
    return "index.md" if path == "README.md" else path.removeprefix("docs/")
