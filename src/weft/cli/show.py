"""`weft show` and `weft explain`: what the running agent knows, and why."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from weft.cli.client import ago, as_json, ask, config_option, socket_option, table


@click.command()
@click.argument("what", type=click.Choice(["peers", "networks", "routes", "vxlan", "status", "events"]))
@click.option("--json", "json_", is_flag=True, help="Print the agent's own answer.")
@socket_option
@config_option
def show(what: str, json_: bool, config: Path | None, path: str) -> int:
    """Show what the running agent knows.

    Exit code 1 for `status` if something is wrong, 3 if no agent answers.
    """
    answer = ask(what, config, path)
    page(what, json_, answer)
    return int(what == "status" and answer["health"] != "ok")


@click.command()
@click.argument("address")
@click.option("--json", "json_", is_flag=True, help="Print the agent's own answer.")
@socket_option
@config_option
def explain(address: str, json_: bool, config: Path | None, path: str) -> int:
    """Say why there is (or isn't) a way to ADDRESS: an address, a prefix, or a node's id.

    Exit code 1 if there is no way.
    """
    answer = ask("explain", config, path, q=address)
    if json_:
        as_json(answer)
    else:
        for line in answer["lines"]:
            click.echo(line["text"])
            if line["why"]:
                state = "" if line["state"] == "done" else f" [{line['state']}]"
                click.echo(f"    because: {line['why']}{state}")
    return int(not answer["found"])


def _peers(peers: list[dict[str, Any]]) -> None:
    now = time.time()
    rows = [
        [
            peer["node"],
            ", ".join(peer["endpoints"]),
            "yes" if peer["routed"] else "no",
            ago(peer["last_seen"], now),
            peer["source"] or "-",
            ", ".join(peer["networks"]) or "-",
        ]
        for peer in peers
    ]
    table(["NODE", "ENDPOINT", "ROUTED", "SEEN", "SOURCE", "NETWORKS"], rows)
    for peer in peers:
        if peer["way"] and peer["way"] not in peer["problems"]:
            click.echo(f"{peer['node']}: {peer['way']}")
        for problem in peer["problems"]:
            click.echo(f"! {problem}")


def _networks(networks: list[dict[str, Any]]) -> None:
    rows = [
        [n["name"], ", ".join(n["subnets"]) or "-", n["bridge"] or "-", "yes" if n["exposed"] else "no", n["note"]]
        for n in networks
    ]
    table(["NETWORK", "SUBNETS", "BRIDGE", "EXPOSED", "NOTE"], rows)


def _routes(routes: list[dict[str, Any]]) -> None:
    rows = [
        [r["destination"], ", ".join(r["via"]) or "-", r["device"], r["node"], r["state"], r["message"] or r["network"]]
        for r in routes
    ]
    table(["DESTINATION", "VIA", "DEVICE", "NODE", "STATE", "WHY"], rows)


def _vxlan(devices: list[dict[str, Any]]) -> None:
    for device in devices:
        state = ("up" if device["up"] else "DOWN") + (", learning" if device["learning"] else "")
        addresses = ", ".join(device["addresses"]) or "none"
        click.echo(f"{device['device']}: VNI {device['vni']}, {state}, MAC {device['mac']}, MTU {device['mtu']}")
        click.echo(
            f"    from {device['local']} port {device['port']}; addresses {addresses}; {device['routes']} routes"
        )
        rows = [[entry["mac"], entry["dst"], entry["address"] or "-"] for entry in device["entries"]]
        table(["    MAC", "ENDPOINT", "NEIGHBOUR"], [[f"    {row[0]}", *row[1:]] for row in rows])


def _status(status: dict[str, Any]) -> None:
    click.echo(f"node {status['node']} ({', '.join(status['endpoints']) or 'no endpoint'}), weft {status['version']}")
    click.echo(
        f"health {status['health']}, up {status['uptime']:.0f} s, {status['cycles']} cycles,"
        f" the last took {status['last_cycle_ms']:.1f} ms"
    )
    click.echo(f"{status['peers']} peers, {status['routes']} routes on {status['device']}")
    objects = ", ".join(f"{number} {kind}" for kind, number in status["objects"].items())
    click.echo(f"objects: {objects or 'none'}")
    refused = {name: count for name, count in status["datagrams"].items() if name.startswith("refused.")}
    if refused:
        click.echo("refused datagrams: " + ", ".join(f"{n.removeprefix('refused.')} {c}" for n, c in refused.items()))
    if status["waiting_for"]:
        click.echo(f"waiting for {', '.join(status['waiting_for'])}: nothing is removed until then")
    for problem in status["problems"]:
        click.echo(f"! {problem}")
    for row in status["not_done"]:
        click.echo(f"! {row['object']}: {row['state']} ({row['attempts']} attempts): {row['message']}")


def _events(events: list[dict[str, Any]]) -> None:
    for event in events:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["at"]))
        end = f" FAILED: {event['error']}" if event["error"] else ""
        click.echo(f"{at} {event['action']} {event['object']}: {event['why']}{end}")


def page(what: str, json_: bool, answer: Any) -> None:
    """Print a daemon's answer to /v1/<what>."""
    if json_:
        as_json(answer)
    else:
        PAGES[what](answer)


PAGES: dict[str, Callable[[Any], None]] = {
    "peers": _peers,
    "networks": _networks,
    "routes": _routes,
    "vxlan": _vxlan,
    "status": _status,
    "events": _events,
}
