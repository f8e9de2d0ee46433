"""`weft`: the command line's entry point. Verbs are loaded when they are called, so that `weft --help` is quick."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from weft import __version__
from weft.errors import WeftError

VERBS: dict[str, tuple[str, str]] = {
    "agent": ("weft.cli.agent:agent", "Run on a host: connect its container networks with the other hosts'."),
    "flanneld": ("weft.cli.flanneld:flanneld", "Run flannel's daemon, on etcd: its flags, its leases, its subnet.env."),
    "registrar": ("weft.cli.registrar:registrar", "Register Docker networks in etcd and route to the others'."),
    "discovery": ("weft.cli.discovery:discovery", "Find the other stacks, for weft router (docker-router)."),
    "router": ("weft.cli.router:router", "Route to the other stacks: discovery.json and routing.yaml to the kernel."),
    "route-manager": ("weft.cli.route_manager:route_manager", "Keep a cloud's route table as flannel's leases demand."),
    "docker-opts": ("weft.cli.docker_opts:docker_opts", "Turn flannel's subnet.env into options for dockerd."),
    "plan": ("weft.cli.agent:plan", "Print what the agent would change now, as ip, bridge and iptables lines."),
    "show": ("weft.cli.show:show", "Show peers, networks, routes, status or events of the running agent."),
    "explain": ("weft.cli.show:explain", "Say why there is (or isn't) a way to an address, a prefix or a node."),
    "diagnose": ("weft.cli.diagnose:diagnose", "Say what is wrong with this host, and what to do next."),
    "boot": ("weft.cli.boot:boot", "At a host's start: wait for what is needed, let the registrar do its work once."),
    "recover": ("weft.cli.recover:recover", "Find out why hosts don't reach each other, and mend it step by step."),
    "cleanup": ("weft.cli.cleanup:cleanup", "Remove everything of weft's from this host, and nothing else."),
    "leases": ("weft.cli.leases:leases", "List flannel's leases in etcd; release a dead host's, reserve one."),
    "flannel-config": ("weft.cli.flannel_config:flannel_config", "Show, check or set flannel's config in etcd."),
    "settings": ("weft.cli.agent:settings", "List every setting: its variable, its default, what it is."),
    "lab": ("weft.cli.lab:lab", "Try a topology: hosts as network namespaces on this machine."),
}
"""Verb → where it lives, and its line in `weft --help`."""


class Verbs(click.Group):
    """A group that knows its verbs' names and lines without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, _, name = VERBS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, line) for name, (_, line) in VERBS.items()])


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="weft")
def weft() -> None:
    """weft connects the container networks of plain Docker hosts.

    One agent per host finds the local Docker networks, tells the other hosts, learns theirs, and keeps VXLAN, routes,
    neighbours, forwarding entries and firewall as that demands.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run a verb; exit with its code. An error of weft's own is one line on stderr."""
    try:
        code: Any = weft.main(arguments, standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except WeftError as error:
        click.echo(f"weft: {error}", err=True)
        sys.exit(error.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
