"""The options by which every verb that speaks to etcd finds it: flannel's own names and environment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import click

from weft.stores import Store
from weft.stores.etcd.options import EtcdOptions

T = TypeVar("T")

TEXTS = {
    "endpoints": ("http://127.0.0.1:4001,http://127.0.0.1:2379", "etcd's endpoints, with commas between."),
    "prefix": ("/coreos.com/network", "Prefix of flannel's keys."),
    "cafile": ("", "Certificate authority that etcd's certificate is checked against."),
    "certfile": ("", "Client certificate for etcd."),
    "keyfile": ("", "Its private key."),
    "username": ("", "User of etcd."),
    "password": ("", "Password of that user."),
}


@dataclass(frozen=True, slots=True)
class Etcd:
    """Where etcd is, and under which prefix flannel's keys are."""

    options: EtcdOptions
    prefix: str

    def ask(self, work: Callable[[Store], Awaitable[T]]) -> T:
        """Run `work` with a store that is closed afterwards. Raises StoreError, and whatever `work` raises."""
        return asyncio.run(self._ask(work))

    async def _ask(self, work: Callable[[Store], Awaitable[T]]) -> T:
        from weft.stores.etcd import EtcdStore

        store = EtcdStore(self.options)
        try:
            return await work(store)
        finally:
            await store.close()


def etcd_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the options, and passes them on as `etcd`, an Etcd."""

    @wraps(command)
    def called(*arguments: Any, **options: Any) -> Any:
        said = {name: options.pop(f"etcd_{name}") for name in TEXTS}
        prefix = said.pop("prefix")
        endpoints = tuple(said.pop("endpoints").split(","))
        return command(*arguments, etcd=Etcd(EtcdOptions(endpoints, **said), prefix), **options)

    wrapped: Callable[..., Any] = called
    for name, (default, text) in reversed(TEXTS.items()):
        variable = f"FLANNELD_ETCD_{name.upper()}"
        option = click.option(
            f"--etcd-{name}", envvar=variable, default=default, metavar="VALUE", help=f"{text}  [{variable}]"
        )
        wrapped = option(wrapped)
    return wrapped
