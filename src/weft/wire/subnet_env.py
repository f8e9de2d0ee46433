"""subnet.env: flannel's file for Docker and for its own next start. Written by `weft flanneld`, read by
`weft docker-opts` and, for the subnet that this host had before, by `agent/`.

Format as in flannel's Documentation/running.md; a line per value, shell syntax:

    FLANNEL_NETWORK=10.5.0.0/16
    FLANNEL_SUBNET=10.5.10.1/24
    FLANNEL_IPV6_NETWORK=fc00:5::/48
    FLANNEL_IPV6_SUBNET=fc00:5:0:42::1/64
    FLANNEL_MTU=1450
    FLANNEL_IPMASQ=true
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network

from weft.wire.flannel import Config, Lease

NETWORK, SUBNET = "FLANNEL_NETWORK", "FLANNEL_SUBNET"
NETWORK6, SUBNET6 = "FLANNEL_IPV6_NETWORK", "FLANNEL_IPV6_SUBNET"
MTU, IPMASQ = "FLANNEL_MTU", "FLANNEL_IPMASQ"


@dataclass(frozen=True, slots=True)
class SubnetEnv:
    """What such a file says; None for what it does not say, or says in a way that can't be read. `subnet`, `subnet6`:
    the lease's. `mtu`: of the overlay, octets. `ipmasq`: flanneld masquerades, so Docker must not."""

    network: IPv4Network | None = None
    subnet: IPv4Network | None = None
    network6: IPv6Network | None = None
    subnet6: IPv6Network | None = None
    mtu: int | None = None
    ipmasq: bool | None = None


def subnet_env_of(config: Config, lease: Lease, mtu: int, ipmasq: bool) -> SubnetEnv:
    """What the file has to say for this lease: the IPv6 part only where the config has IPv6, likewise IPv4."""
    return SubnetEnv(
        network=config.ipv4.network if config.ipv4 else None,
        subnet=lease.subnet if config.ipv4 else None,
        network6=config.ipv6.network if config.ipv6 else None,
        subnet6=lease.subnet6 if config.ipv6 else None,
        mtu=mtu,
        ipmasq=ipmasq,
    )


def subnet_env(env: SubnetEnv) -> str:
    """The file's text. Subnets are told as the address of the bridge: their first one, with the prefix length."""
    lines: list[tuple[str, object]] = [
        (NETWORK, env.network),
        (SUBNET, env.subnet and f"{env.subnet[1]}/{env.subnet.prefixlen}"),
        (NETWORK6, env.network6),
        (SUBNET6, env.subnet6 and f"{env.subnet6[1]}/{env.subnet6.prefixlen}"),
        (MTU, env.mtu),
        (IPMASQ, None if env.ipmasq is None else str(env.ipmasq).lower()),
    ]
    return "".join(f"{name}={value}\n" for name, value in lines if value is not None)


def parse_subnet_env(text: bytes | str) -> SubnetEnv:
    """Read whatever is there: any order, quotes, comments, `export`, CRLF. What can't be read is None, never an error:
    a former run's file is a hint and no more."""
    values = assignments(text)
    return SubnetEnv(
        network=_ipv4(values.get(NETWORK, "")),
        subnet=_ipv4(values.get(SUBNET, "")),
        network6=_ipv6(values.get(NETWORK6, "")),
        subnet6=_ipv6(values.get(SUBNET6, "")),
        mtu=_mtu(values.get(MTU, "")),
        ipmasq={"true": True, "false": False}.get(values.get(IPMASQ, "")),
    )


def assignments(text: bytes | str) -> dict[str, str]:
    """The file's variables, as a shell would set them: the last of several holds. Other lines are passed over."""
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and name.strip().isidentifier():
            found[name.strip()] = _unquoted(value.strip())
    return found


def _unquoted(value: str) -> str:
    for quote in ('"', "'"):
        if value.startswith(quote):
            return value[1:].partition(quote)[0]
    return value.partition("#")[0].rstrip()


def _ipv4(text: str) -> IPv4Network | None:
    """None also for one address, which can't be a lease: its bridge would have none."""
    try:
        found = IPv4Interface(text).network
    except ValueError:
        return None
    return found if found.prefixlen < 32 else None


def _ipv6(text: str) -> IPv6Network | None:
    try:
        found = IPv6Interface(text).network
    except ValueError:
        return None
    return found if found.prefixlen < 128 and "%" not in text else None


def _mtu(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) else None
