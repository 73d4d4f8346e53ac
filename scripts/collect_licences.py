"""Copies the licences of all crates that are part of the executable into a folder. package.sh calls it. Stdlib only.

    cargo metadata --format-version 1 --filter-platform TARGET | collect_licences.py FOLDER

A crate without a licence file is listed in FOLDER/crates.txt like all others, with its licence's name.
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


def main():
    folder = Path(sys.argv[1])
    metadata = json.load(sys.stdin)
    ids, lines = linked(metadata), []
    for package in sorted(metadata["packages"], key=lambda package: (package["name"], package["version"])):
        if package["id"] not in ids or package["id"] == metadata["resolve"]["root"]:
            continue
        name = "%s-%s" % (package["name"], package["version"])
        lines.append("%s  %s  %s" % (name, package["license"] or "see its file", package["repository"] or ""))
        for file in sorted(Path(package["manifest_path"]).parent.iterdir()):
            if LICENCE.match(file.name) and file.is_file():
                (folder / name).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, folder / name / file.name)
    (folder / "crates.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
