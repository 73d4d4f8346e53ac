"""Adds to a list of what the executable is made of (CycloneDX) what else is in the archive: libtorch with its libraries, and
the packages of the browser page. package.sh calls it. Stdlib only.

    complete_sbom.py SBOM.json LIBTORCH_LICENCES [PAGE]

LIBTORCH_LICENCES has a folder NAME-VERSION for each wheel of which something was taken; PAGE is docs/browser.
The names of folders of this machine are taken out, so that the same sources give the same list.
"""

import json
import re
import sys
from pathlib import Path

from collect_licences import page_packages


def component(registry, name, version, licence=None):
    """A library as CycloneDX writes it."""
    purl = "pkg:%s/%s@%s" % (registry, name.replace("@", "%40"), version)
    found = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    return dict(found, licenses=[{"expression": licence}]) if licence else found


def main():
    sbom, licences, pages = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    text = re.sub(r"path\+file://[^#\"]*", "path+file:///dcgan", sbom.read_text())
    document = json.loads(text)
    for wheel in sorted(licences.iterdir()):
        name, version = wheel.name.rsplit("-", 1)
        document["components"].append(component("pypi", name.replace("_", "-"), version))
    for page in pages:
        for name, version, licence, _, _ in page_packages(Path(page)):
            document["components"].append(component("npm", name, version, licence))
    sbom.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
