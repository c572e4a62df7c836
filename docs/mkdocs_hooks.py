"""Makes files of the repository outside docs/ part of the website where a page links to them.

A link such as ../benchmarks/README.md works wherever the repository is browsed. On the website,
docs/ is the root: the linked file becomes a page or a file of the site under its path in the
repository (benchmarks/README.md), and the link is rewritten. A link to README.md leads to the home
page.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LINK = re.compile(r"(?<=\]\()(?![a-z]+:|[#/])([^)\s#]+)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def in_site(path: str) -> str:
    """The place of a file in the site, from its place in the repository."""
    return "index.md" if path == "README.md" else path.removeprefix("docs/")


def in_repository(uri: str, config: MkDocsConfig) -> str:
    """The place of a page in the repository, from its place in the site."""
    return f"docs/{uri}" if (Path(config.docs_dir) / uri).exists() else uri


def target(link: str, source: str) -> str:
    """The file in the repository that a link in the file `source` names."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    root = Path(config.docs_dir).parent
    named = [file.src_uri for file in files.documentation_pages()]
    named += ["CONTRIBUTING.md", "CHANGELOG.md"]
    for uri in named:  # grows while it is read
        source = in_repository(uri, config)
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, abs_src_path=str(root / source)))
        if not uri.endswith(".md"):
            continue
        text = FENCE.sub("", (root / source).read_text(encoding="utf-8"))
        for link in LINK.findall(text):
            path = target(link, source)
            if (root / path).is_file() and in_site(path) not in named:
                named.append(in_site(path))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    uri = page.file.src_uri
    source = in_repository(uri, config)

    def rewritten(match: re.Match[str]) -> str:
        place = in_site(target(match[1], source))
        return posixpath.relpath(place, posixpath.dirname(uri) or ".")

    return LINK.sub(rewritten, markdown)
