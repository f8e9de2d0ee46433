"""The image that a lab's containers run: Debian's static busybox, packed here, so that no registry is asked.

`engine` hands it to each Docker Engine. A container serves its own name over HTTP, so that there is something to reach.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from functools import cache

from weft.errors import LabError

NAME = "weft-lab"
COMMAND = ["/bin/sh", "-c", "hostname >/www/index.html && exec httpd -f -p 80 -h /www"]


@cache
def archive() -> bytes:
    """A tar of the image's root file system. LabError if busybox is missing."""
    binary = shutil.which("busybox")
    if binary is None:
        raise LabError("busybox is not installed: run scripts/setup (Debian: busybox-static)")
    listed = subprocess.run([binary, "--list"], capture_output=True, text=True, check=True, timeout=10)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for folder, mode in (("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777), ("www", 0o755)):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        tar.add(binary, "bin/busybox")
        for applet in listed.stdout.split():
            if applet != "busybox":
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
        _text(tar, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
    return packed.getvalue()


def _text(tar: tarfile.TarFile, path: str, content: str) -> None:
    entry = tarfile.TarInfo(path)
    entry.size = len(content.encode())
    tar.addfile(entry, io.BytesIO(content.encode()))
