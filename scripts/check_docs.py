#!/usr/bin/env python3
"""Checks what the Markdown pages of the repository refer to.

  links      every link to a file leads to a file, and every #anchor to a heading of its page
  pictures   every picture is there and has a text for those who do not see it
  paths      every path in `backticks` that begins with a folder of the repository is there, every script
             that a command names, and every Rust file, by its path in src/ or by its name alone
  book       every page in docs/ has its place in docs/SUMMARY.md, so that the book has it
  tests      every test that is named in `backticks` (a name of six words or more) is in tests/ or src/

Addresses on the web are not looked at. Needs Python 3.8 or newer, nothing else.

exit status: 0 all is there, 1 something is not (each is named with its page and line)
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("assets", "benches", "docs", "examples", "fuzz", "scripts", "src", "tests")
# Folders whose pages are not the repository's, where git cannot tell.
FOREIGN = {".libtorch", "node_modules", "runs", "target"}

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
CODE = re.compile(r"`([^`]+)`")
PATH = re.compile(r"(?:%s)/[\w./*-]*" % "|".join(FOLDERS))
SCRIPT = re.compile(r"\bscripts/[\w/]+\.(?:sh|py)\b")
RUST = re.compile(r"(?:\w+/)*\w+\.rs")
TEST = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+){5,}")


def pages_of_git():
    """The pages that git holds; none where there is no git or no repository."""
    try:
        command = ["git", "ls-files", "-z", "--", "*.md"]
        names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    pages = [ROOT / name.decode("utf-8") for name in names.split(b"\0") if name]
    # A page that was removed stays in git's list until that is committed.
    return [page for page in pages if page.exists()]


def pages_of_folder():
    """The pages in the repository's folder."""
    return [p for p in ROOT.rglob("*.md") if not FOREIGN & set(p.relative_to(ROOT).parts)]


def lines_of(page):
    """The lines of a page, each with its number and whether it is in a block of code."""
    is_code = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            is_code = not is_code
            continue
        yield number, line, is_code


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    found = {}
    for _, line, is_code in lines_of(page):
        heading = None if is_code else re.match(r"#{1,6} +(.*)", line)
        if heading:
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).replace("`", "")
            name = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
            count = found.get(name, 0)
            found[name] = count + 1
            yield name if count == 0 else f"{name}-{count}"


def check_link(page, is_picture, text, target):
    """What is wrong with a link, or None."""
    if re.match(r"[a-z]+:", target):
        return None
    path, _, anchor = target.partition("#")
    place = (page.parent / path) if path else page
    if not place.exists():
        return f"there is no {path}"
    if anchor and anchor not in anchors(place):
        return f"{path or page.name} has no heading for #{anchor}"
    if is_picture and not text.strip():
        return f"the picture {path} has no text"
    return None


def check_path(word, rust_files):
    """What is wrong with a path, or None."""
    if PATH.fullmatch(word):
        is_there = any(ROOT.glob(word.rstrip("/")))
    elif RUST.fullmatch(word) and "/" in word:
        is_there = (ROOT / "src" / word).exists()
    elif RUST.fullmatch(word):
        is_there = word in rust_files
    else:
        return None
    return None if is_there else f"there is no {word}"


def main():
    if len(sys.argv) > 1:
        print(__doc__)
        sys.exit(0 if sys.argv[1] in ("-h", "--help") else 2)
    pages = sorted(pages_of_git() or pages_of_folder())
    sources = [p for folder in ("src", "tests") for p in (ROOT / folder).rglob("*.rs")]
    functions = set(re.findall(r"\bfn (\w+)", "\n".join(p.read_text(encoding="utf-8") for p in sources)))
    rust_files = {p.name for folder in (*FOLDERS, ".") for p in (ROOT / folder).glob("*.rs")}
    rust_files |= {p.name for p in sources}
    faults = 0
    summary = ROOT / "docs/SUMMARY.md"
    chapters = {(summary.parent / match[3]).resolve() for match in LINK.finditer(summary.read_text(encoding="utf-8"))}
    for page in pages:
        if summary.parent in page.parents and page != summary and page not in chapters:
            faults += 1
            print(f"{page.relative_to(ROOT)}: docs/SUMMARY.md does not name this page")
    for page in pages:
        for number, line, is_code in lines_of(page):
            found = []
            if is_code:
                for word in SCRIPT.findall(line) + re.findall(r"(?<![\w/.])\w+\.rs\b", line):
                    found.append(check_path(word, rust_files))
            else:
                plain = CODE.sub(lambda code: "`" + "x" * len(code[1]) + "`", line)
                for match in LINK.finditer(plain):
                    target = line[match.start(3) : match.end(3)]
                    found.append(check_link(page, match[1] == "!", match[2], target))
                for code in CODE.findall(line):
                    # Commands and patterns name paths, too.
                    for word in code.split():
                        found.append(check_path(word.split("::")[0].rstrip(".,:"), rust_files))
                    if TEST.fullmatch(code) and code not in functions:
                        found.append(f"there is no test {code}")
            for fault in filter(None, found):
                faults += 1
                print(f"{page.relative_to(ROOT)}:{number}: {fault}")
    if faults:
        sys.exit(1)
    print(f"{len(pages)} pages: every link, picture, path and test is there, and so is each page in the book")


if __name__ == "__main__":
    main()
