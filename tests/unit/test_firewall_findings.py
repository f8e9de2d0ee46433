"""What `weft diagnose` finds in a host's firewall, by rules as real hosts have them."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.rulesets import DOCKER_20, DOCKER_28, FIREWALLD, UFW
from weft.core.firewall import Site, Span, wanted, wanted_by_shared, wanted_by_span
from weft.core.firewall_findings import Finding, Outputs, Overlay, findings
from weft.core.firewall_script import script
from weft.core.firewall_walk import Packets, walk
from weft.core.refusals import refusals
from weft.core.ruleset import Family, Ruleset, parents, parse_save
from weft.errors import DecodeError
from weft.objects import Chain, Jump, Op, Why

DEV = "vxlan4096"
OWN = ip_network("172.18.0.0/16")
OVERLAY = Overlay(DEV, (OWN,))
WHY = Why("engine", "h1", "the exposed networks of this host")

UFW_INPUT = """*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:ufw-before-input - [0:0]
:ufw-not-local - [0:0]
:ufw-user-input - [0:0]
-A INPUT -j ufw-before-input
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw-before-input -p udp -m udp --sport 67 --dport 68 -j ACCEPT
-A ufw-before-input -j ufw-not-local
-A ufw-before-input -j ufw-user-input
-A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN
-A ufw-not-local -m addrtype --dst-type MULTICAST -j RETURN
-A ufw-not-local -j DROP
-A ufw-user-input -p tcp -m tcp --dport 22 -j ACCEPT
COMMIT
"""
"""What a fresh `ufw allow 22/tcp; ufw enable` comes to."""
FLANNEL = """*filter
:FORWARD ACCEPT [0:0]
COMMIT
*nat
:POSTROUTING ACCEPT [0:0]
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -s 172.16.0.0/12 -d 172.16.0.0/12 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 172.16.0.0/12 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
COMMIT
"""


def look(text: str, *overlays: Overlay, family: Family = 4) -> tuple[Finding, ...]:
    return findings(Outputs({("nft", family): text}), overlays or (OVERLAY,))


def about(found: Iterable[Finding]) -> list[str]:
    return [finding.about for finding in found]


def saved(ruleset: Ruleset) -> str:
    """As iptables-save prints it."""
    lines: list[str] = []
    for table, chains in ruleset.tables.items():
        lines.append(f"*{table}")
        lines.extend(f":{name} {ruleset.policies.get((table, name), '-')} [0:0]" for name in chains)
        lines.extend(f"-A {name} {rule}" for name, rules in chains.items() for rule in rules)
        lines.append("COMMIT")
    return "\n".join(lines) + "\n"


def with_ours(text: str, things: Iterable[Chain | Jump]) -> str:
    return saved(script([Op("add", thing, WHY) for thing in things], parse_save(4, text))[1])


def site(text: str, dev: str = DEV) -> Site:
    ruleset = parse_save(4, text)
    return Site(dev, (OWN,), parents(ruleset), refusals(ruleset))


def test_what_docker_28_does_to_an_overlay() -> None:
    found = look(DOCKER_28)
    assert about(found) == ["docker-raw", "forward-policy", "masquerade"]
    raw, forward, masquerade = found
    assert {finding.severity for finding in found} == {"critical"}
    assert "`-A PREROUTING -d 172.18.0.2/32 ! -i br-blue -j DROP`" in raw.message
    assert "-o com.docker.network.bridge.trusted_host_interfaces=vxlan4096" in raw.fix
    assert forward.message == (
        "what comes in for 172.18.0.0/16 from vxlan4096 is not forwarded: iptables-nft, the policy of FORWARD is DROP "
        "and nothing accepts them before"
    )
    assert "`-A POSTROUTING -s 172.18.0.0/16 ! -o br-blue -j MASQUERADE`" in masquerade.message
    assert "is it running" in masquerade.fix


def test_probes_that_a_host_does_not_let_in() -> None:
    watched = Overlay("flannel.1", port=0, watched=True)
    (found,) = look(UFW_INPUT, watched)
    assert (found.severity, found.about) == ("warning", "probes")
    assert found.message == (
        "the other hosts' probes (BFD, UDP 4784) through flannel.1 are refused, so they take the tunnel to this "
        "host for dead: iptables-nft, the policy of INPUT is DROP and nothing accepts them before"
    )
    assert found.fix.endswith("By hand: iptables-nft -I INPUT -i flannel.1 -p udp --dport 4784 -j ACCEPT")
    assert look(UFW_INPUT, Overlay("flannel.1", port=0)) == ()
    for rule in ("-i flannel.1 -j ACCEPT", "-d 10.5.35.0/32 -p udp -m udp --dport 4784 -j ACCEPT"):
        assert look(UFW_INPUT.replace("-A INPUT", f"-A INPUT {rule}\n-A INPUT"), watched) == (), rule
    assert look(UFW_INPUT, Overlay("flannel.1", port=0, watched=True, underlay=6)) == ()
    place = Site("flannel.1", (), parents(parse_save(4, UFW_INPUT)), transit=("flannel.1",))
    assert look(with_ours(UFW_INPUT, wanted_by_shared(place, 4)), watched) == ()


@pytest.mark.parametrize("text", [DOCKER_20, DOCKER_28, UFW, FIREWALLD, ""], ids=["20", "28", "ufw", "firewalld", "-"])
def test_where_weft_did_its_work_nothing_is_found(text: str) -> None:
    overlay = Overlay(DEV, (OWN,), port=0)
    assert look(with_ours(text, wanted(site(text))), overlay) == ()
    assert look(with_ours(text, wanted_by_shared(site(text), 4)), overlay) == ()
    assert look(with_ours(text, wanted_by_span(site(text), [Span(ip_network("172.16.0.0/12"))])), overlay) == ()


def test_a_drop_in_front_of_our_jump() -> None:
    text = with_ours(DOCKER_20, wanted(site(DOCKER_20)))
    text = text.replace("-A FORWARD -j DOCKER-USER", f"-A FORWARD -i {DEV} -j DROP\n-A FORWARD -j DOCKER-USER")
    (blocked,) = look(text)
    assert blocked.about == "forward-blocked"
    assert f"`-A FORWARD -i {DEV} -j DROP` (weft's accepts stand behind it)" in blocked.message
    assert "mends this" in blocked.fix


def test_a_drop_in_mangle() -> None:
    found = look("*mangle\n:FORWARD ACCEPT [0:0]\n-A FORWARD -o vxlan+ -j DROP\nCOMMIT\n")
    assert about(found) == ["forward-blocked"]
    assert "what leaves 172.18.0.0/16 by vxlan4096" in found[0].message


def test_networks_kept_apart_are_no_fault() -> None:
    recipe = "-A FORWARD -s 172.18.0.0/16 -d 172.20.0.0/16 -j DROP\n"
    text = with_ours(DOCKER_20.replace("-A FORWARD -j DOCKER-USER\n", recipe + "-A FORWARD -j DOCKER-USER\n"), ())
    assert about(look(with_ours(text, wanted(site(text))))) == []


def test_flannels_own_masquerading_leaves_the_overlay_alone() -> None:
    assert look(FLANNEL) == ()
    (masquerade,) = look(FLANNEL.replace("-j RETURN", "-j LOG"))
    assert masquerade.about == "masquerade"


@pytest.mark.parametrize(
    ("rule", "refused"),
    [
        ("-p tcp -m tcp --dport 8472 -j ACCEPT", True),
        ("-p udp -m udp --dport 8472 -j ACCEPT", False),
        ("-p udp -m multiport --dports 53,8000:9000 -j ACCEPT", False),
        ("-p udp -m multiport --dports 53,ssh -j ACCEPT", True),
        ("-s 192.0.2.0/24 -p udp -m udp --dport 8472 -j ACCEPT", False),
        ("-i eth0 -j ACCEPT", False),
        ("! -i lo -j ACCEPT", False),
        ("! -i eth0 -j ACCEPT", False),
        ("-m set --match-set peers src -j ACCEPT", False),
        ("! -p tcp -j ACCEPT", False),
        ("-d 10.0.0.1/255.0.0.255 -j ACCEPT", False),
    ],
)
def test_the_tunnels_port(rule: str, refused: bool) -> None:
    assert about(look(UFW_INPUT.replace("-A ufw-user-input", f"-A ufw-user-input {rule}\n-A ufw-user-input"))) == (
        ["tunnel-port"] if refused else []
    )


def test_a_refused_port_names_the_rule_and_the_way_out() -> None:
    (port,) = look(UFW_INPUT, Overlay("flannel.1", port=4789))
    assert "UDP 4789" in port.message
    assert "the policy of INPUT is DROP" in port.message
    assert "ufw allow proto udp from HOSTS to any port 4789" in port.fix
    (port,) = look(
        UFW_INPUT.replace("-A ufw-user-input -p tcp", "-A ufw-user-input -j REJECT\n-A ufw-user-input -p tcp")
    )
    assert "`-A ufw-user-input -j REJECT`" in port.message
    assert look(UFW_INPUT, Overlay(DEV, port=0)) == look(UFW_INPUT, Overlay(DEV, underlay=6)) == ()


def test_docker_with_nftables_of_its_own() -> None:
    tables = "table ip docker-bridges\ntable ip6 docker-bridges\ntable inet firewalld\ntable ip filter\n"
    found = findings(Outputs(tables=tables), [OVERLAY])
    assert about(found) == ["docker-nftables", "docker-nftables", "firewalld-nftables"]
    assert [finding.severity for finding in found] == ["critical", "critical", "note"]
    assert "--bridge-accept-fwmark" in found[0].fix


def test_two_implementations_with_rules() -> None:
    rules = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -i lo -j ACCEPT\nCOMMIT\n"
    found = findings(Outputs({("nft", 4): rules, ("legacy", 6): rules}, "legacy"), [])
    assert about(found) == ["two-firewalls"]
    assert "`iptables-nft-save` shows what is hidden" in found[0].fix
    ours = "*filter\n:FORWARD ACCEPT [0:0]\n:WEFT-x-FWD - [0:0]\n-A FORWARD -m comment --comment weft -j WEFT-x-FWD\n"
    assert findings(Outputs({("nft", 4): rules, ("legacy", 4): f"{ours}-A WEFT-x-FWD -j DROP\nCOMMIT\n"}), []) == ()


def test_each_implementation_counts() -> None:
    hidden = "*filter\n:FORWARD DROP [0:0]\nCOMMIT\n"
    found = findings(Outputs({("nft", 4): "", ("legacy", 4): hidden}), [OVERLAY])
    assert about(found) == ["forward-policy", "forward-policy"]
    assert "iptables-legacy" in found[0].message
    both = Overlay(DEV, (OWN, ip_network("fd18::/64")), port=0)
    assert findings(Outputs({("nft", 6): ""}), [both]) == ()
    assert findings(Outputs({("nft", 6): hidden}), [Overlay(DEV, (ip_network("fd18::/64"),), underlay=6)])


def test_what_is_no_output_is_refused() -> None:
    with pytest.raises(DecodeError):
        look("rubbish")


# ---- the walk ----


def verdict(*rules: str, **packets: object) -> str:
    ruleset = Ruleset(4, {"filter": {"FORWARD": rules, "A": ("-j B", "-j DROP"), "B": ("-g C",), "C": ("-j RETURN",)}})
    found = walk(ruleset, "filter", "FORWARD", Packets(into=DEV, target=OWN))
    return f"maybe {found.target}" if found.maybe_accepted else found.target


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (("-j DROP",), "DROP"),
        (("-j RETURN", "-j DROP"), "ACCEPT"),
        (("-j A",), "DROP"),
        (("-g B", "-j DROP"), "ACCEPT"),
        (("-j B", "-j DROP"), "DROP"),
        (("-s 10.0.0.0/8 -g A", "-j ACCEPT"), "ACCEPT"),
        (("-d 172.18.0.2/32 -j ACCEPT", "-j DROP"), "DROP"),
        (("-d 172.18.0.2/32 -j DROP",), "DROP"),
        (("! -d 10.0.0.0/8 -j DROP",), "DROP"),
        (("! -d 172.16.0.0/12 -j DROP",), "ACCEPT"),
        (("! -s 10.0.0.0/8 -j DROP",), "DROP"),
        (("-o br-red -j ACCEPT", "-j DROP"), "maybe DROP"),
        (("-m state --state NEW -j DROP",), "DROP"),
        (("-m addrtype --dst-type LOCAL -j DROP",), "ACCEPT"),
        (("-j NOWHERE", "-p icmp -j DROP"), "ACCEPT"),
    ],
)
def test_the_walk(rules: tuple[str, ...], expected: str) -> None:
    assert verdict(*rules) == expected


def test_what_a_chain_accepts_for_some_is_maybe() -> None:
    chains = {"FORWARD": ("-o br-red -j A", "-j DROP"), "A": ("-j ACCEPT",)}
    assert walk(Ruleset(4, {"filter": chains}), "filter", "FORWARD", Packets(into=DEV)).maybe_accepted
    chains["A"] = ("-j DROP",)
    assert not walk(Ruleset(4, {"filter": chains}), "filter", "FORWARD", Packets(into=DEV)).maybe_accepted


RULE = st.sampled_from([
    "-j DROP", "-j ACCEPT", "-j RETURN", "-j A", "-g B", "-s 10.0.0.0/8 -j B", "-i vxlan+ -j A", "-o br-1 -j ACCEPT",
    "-d 172.18.0.2/32 -j REJECT", "-p tcp -j DROP", "! -i eth0 -j A", "-m limit --limit 1/sec -j RETURN", "-j FORWARD",
])  # fmt: skip


@given(forward=st.lists(RULE), a=st.lists(RULE), b=st.lists(RULE))
def test_every_walk_ends_in_a_verdict(forward: list[str], a: list[str], b: list[str]) -> None:
    chains = {"FORWARD": tuple(forward), "A": tuple(a), "B": tuple(b)}
    found = walk(Ruleset(4, {"filter": chains}), "filter", "FORWARD", Packets(into=DEV, target=OWN))
    assert found.target in {"ACCEPT", "DROP", "REJECT"}
    assert found.rule == "" or found.rule in chains[found.chain]
