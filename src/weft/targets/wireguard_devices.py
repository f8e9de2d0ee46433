"""Whose a WireGuard device is, and how one is made and mended. Used by `targets/wireguard.py`."""

from __future__ import annotations

from weft.core.wireguard import Dump, link_lines, settings
from weft.errors import TargetError
from weft.objects.wireguard import WireguardDevice
from weft.targets.wireguard_tools import HostKey, LinkFacts, Tools

KINDS = ("wireguard", "tun")
"""Kinds of links that WireGuard's devices are; `tun` is what wireguard-go makes."""
NEITHER = (
    "this kernel has no WireGuard and wireguard-go is not installed: use Linux 5.6 or newer with the module wireguard, "
    "or apt-get install wireguard-go"
)


class Devices:
    """Whose a device is, and how one is made and mended."""

    def __init__(self, owner: str, key: HostKey, tools: Tools) -> None:
        self._owner = owner
        self._key = key
        self._tools = tools
        self._in_kernel = True
        """False once this kernel was found to have no WireGuard."""

    def recognised(self, name: str, link: LinkFacts, dump: Dump | None) -> WireguardDevice | str:
        """The device, if it is ours: it has our mark, or our key (flannel's, that we took over), or nothing at all (its
        making was cut short). Else a phrase that names it."""
        public = dump.public_key if dump is not None else ""
        unfinished = dump is not None and not (link.alias or public or dump.peers)
        ours = link.alias == self._owner or public == self._key.public or unfinished
        if link.kind not in KINDS or not ours:
            whose = f"marked {link.alias}" if link.alias.startswith("weft:") else "without weft's mark"
            what = "WireGuard device with another key," if dump is not None else f"{link.kind or 'device'}"
            return f"a {what} {whose}"
        return WireguardDevice(
            name=name,
            public_key=public,
            listen_port=dump.listen_port if dump is not None else 0,
            mtu=link.mtu,
            alias=link.alias,
            addresses=link.addresses,
            fwmark=dump.fwmark if dump is not None else 0,
            up=link.up,
        )

    async def bring_about(self, want: WireguardDevice, have: WireguardDevice | None) -> bool:
        """Make the device, or change what differs; True if it is a new one. Raises TargetError."""
        if want.public_key != self._key.public:
            raise TargetError(f"the key in {self._key.path} is {self._key.public}, and {want.public_key} is asked for")
        new = have is None
        if have is not None and await self._tools.dump(want.name) is None:
            await self._tools.delete_link(want.name)  # ours by its mark, and nobody answers for it
            new, have = True, None
        if new:
            await self._create(want.name)
        lines = link_lines(want, have)
        if lines:
            await self._tools.configure_link(lines)
        words = settings(want, have, self._key.path)
        if words:  # once it is up: a port that is in use is an error only then
            await self._tools.set(want.name, words)
        return new

    async def _create(self, name: str) -> None:
        if self._in_kernel:
            if await self._tools.create_in_kernel(name):
                return
            if not self._tools.has_process():
                raise TargetError(NEITHER)
        await self._tools.create_by_process(name)
        self._in_kernel = False
