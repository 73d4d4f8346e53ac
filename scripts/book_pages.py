#!/usr/bin/env python3
"""A preprocessor of mdBook: takes pages from outside docs/ into the book, and mends the links for it.

In the repository, pages link to each other and to files by relative paths, which every forge understands. In
the book, a page that docs/SUMMARY.md names by a path such as ../CHANGELOG.md gets the place CHANGELOG.md, and links are
changed accordingly. A link to a file that is not in the book becomes the file's path in the repository.

mdBook calls it (book.toml). Needs Python 3.8 or newer, nothing else.
"""

import json
import posixpath
import re
import sys

CODE_OR_LINK = re.compile(r"(?ms)^ *```.*?^ *```|`[^`\n]*`|\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")


def chapters_of(items):
    """All chapters that are files, in their order."""
    for item in items:
        chapter = item.get("Chapter") if isinstance(item, dict) else None
        if chapter:
            if chapter["path"]:
                yield chapter
            yield from chapters_of(chapter["sub_items"])


def place(path):
    """The place in the book of a file of the repository: tests/README.md becomes tests.md."""
    path = path[len("docs/") :] if path.startswith("docs/") else path
    # docs/browser/ has an index.html already, which a README.md would become.
    return re.sub(r"^README\.md$", "index.md", re.sub(r"/README\.md$", ".md", path))


def with_links_of_book(text, page, pages):
    """The text of a page with links that lead somewhere in the book.

    `page` and `pages`, all there are, are paths in the repository.
    """

    def mended(match):
        words, target = match[1], match[2]
        if words is None or re.match(r"#|[a-z]+:", target):
            return match[0]
        path, hash_sign, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
        # mdBook takes along what lies in docs/ and is no page, such as pictures.
        if path not in pages and (path.endswith(".md") or not path.startswith("docs/")):
            return words if path in words else f"{words} (`{path}`)"
        return f"[{words}]({posixpath.relpath(place(path), posixpath.dirname(place(page)) or '.')}{hash_sign}{anchor})"

    return CODE_OR_LINK.sub(mended, text)


def main():
    if sys.argv[1:2] == ["supports"]:
        return
    _, book = json.load(sys.stdin)
    chapters = {posixpath.normpath("docs/" + chapter["path"]): chapter for chapter in chapters_of(book["items"])}
    for page, chapter in chapters.items():
        chapter["content"] = with_links_of_book(chapter["content"], page, chapters)
        chapter["path"] = place(page)
    json.dump(book, sys.stdout)


if __name__ == "__main__":
    main()
