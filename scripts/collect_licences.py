"""Copies the licences of all crates that are part of the executable into FOLDER/crates, and those of the packages that are
part of the browser page in PAGE, such as docs/browser, into FOLDER/browser. package.sh calls it. Stdlib only.

    cargo metadata --format-version 1 --filter-platform TARGET | collect_licences.py FOLDER [PAGE]

What has no licence file is in the list beside the others, with its licence's name.
"""

import json
import re
import shutil
import sys
from pathlib import Path

LICENCE = re.compile(r"(licen[cs]e|copying|notice|unlicense|authors|copyright)", re.IGNORECASE)


def linked(metadata):
    """The ids of the crates that are linked: what the root needs, without what only builds or tests."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    found, open_ids = set(), [metadata["resolve"]["root"]]
    while open_ids:
        crate = open_ids.pop()
        if crate in found:
            continue
        found.add(crate)
        for dependency in nodes[crate]["deps"]:
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                open_ids.append(dependency["pkg"])
    return found


def crates(metadata):
    """Name, version, licence, address and folder of each crate that is linked."""
    ids = linked(metadata) - {metadata["resolve"]["root"]}
    for crate in metadata["packages"]:
        if crate["id"] in ids:
            folder = Path(crate["manifest_path"]).parent
            yield crate["name"], crate["version"], crate["license"], crate["repository"], folder


def page_packages(page):
    """The same of each package of the page, without what only builds it."""
    locked = json.loads((page / "package-lock.json").read_text())["packages"]
    for path, package in locked.items():
        if path and not package.get("dev"):
            name = path.split("node_modules/")[-1]
            yield name, package["version"], package.get("license"), None, page / path


def collect(packages, into):
    """Copies licence files into one folder for each package, and lists all packages in `list.txt`."""
    into.mkdir(parents=True)
    lines = []
    for name, version, licence, address, folder in sorted(packages, key=lambda package: package[:2]):
        label = "%s-%s" % (name, version)
        lines.append("%s  %s  %s" % (label, licence or "see its file", address or ""))
        for file in sorted(folder.iterdir()):
            if LICENCE.match(file.name) and file.is_file():
                (into / label).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, into / label / file.name)
    (into / "list.txt").write_text("\n".join(lines) + "\n")


def main():
    folder = Path(sys.argv[1])
    collect(crates(json.load(sys.stdin)), folder / "crates")
    for page in sys.argv[2:]:
        collect(page_packages(Path(page)), folder / "browser")


if __name__ == "__main__":
    main()
