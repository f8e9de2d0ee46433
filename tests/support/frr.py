"""FRR's bfdd in a network namespace: another program's word on BFD. It needs neither zebra nor any other daemon of FRR.

with bfdd(ns, "peer 192.0.2.1 multihop local-address 192.0.2.2", "receive-interval 200") as frr:
    frr.peers()["192.0.2.1"]["status"]
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.eventually import until
from tests.support.namespace import Namespace, run
from tests.support.needs import ROOT

BFDD = Path("/usr/lib/frr/bfdd")
needs_frr = pytest.mark.skipif(
    not (ROOT and BFDD.exists() and shutil.which("vtysh")),
    reason="needs root and FRR's bfdd: run scripts/setup as root",
)


@dataclass
class Bfdd:
    """One process; it gives up root for the user `frr`, who owns its folder."""

    folder: Path
    process: subprocess.Popen[bytes]

    def vtysh(self, *commands: str) -> str:
        """Stdout of these commands, one after the other."""
        arguments = [word for command in commands for word in ("-c", command)]
        return run(["vtysh", "--vty_socket", str(self.folder), "-d", "bfdd", *arguments])

    def peers(self) -> dict[str, Any]:
        """What `show bfd peers json` says, by address."""
        return {peer["peer"]: peer for peer in json.loads(self.vtysh("show bfd peers json"))}

    def answers(self) -> bool:
        assert self.process.poll() is None, f"bfdd ended: {(self.folder / 'out').read_text()}"
        return (self.folder / "bfdd.vty").exists()


@contextlib.contextmanager
def bfdd(ns: Namespace, peer: str, *settings: str) -> Iterator[Bfdd]:
    """A running bfdd with one peer; `settings` are lines of its configuration."""
    folder = Path(tempfile.mkdtemp(prefix="wefttest-frr-"))
    try:
        config = folder / "bfdd.conf"
        config.write_text("\n ".join(["bfd", peer, *(f" {line}" for line in settings), " no shutdown"]) + "\n")
        shutil.chown(folder, "frr", "frr")
        shutil.chown(config, "frr", "frr")
        arguments = ["-f", config, "-i", folder / "pid", "--vty_socket", folder, "-z", folder / "zserv.api"]
        command = ns.command(str(BFDD), *map(str, arguments), "--bfdctl", str(folder / "bfdd.sock"))
        with open(folder / "out", "wb") as out:
            process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], stdout=out, stderr=out)
        try:
            made = Bfdd(folder, process)
            until(made.answers, "bfdd to listen for vtysh")
            yield made
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(120)
    finally:
        shutil.rmtree(folder)
