"""What a world knows of sources and targets that don't work. Base of the daemons' worlds."""

from __future__ import annotations

from dataclasses import dataclass, field

from weft.model import Problem


@dataclass(slots=True)
class Broken:
    """`broken`: what is wrong with a source or a target, by its name."""

    broken: dict[str, Problem] = field(default_factory=dict, init=False)

    def report(self, source: str, message: str) -> None:
        """Something is wrong with a source or a target ("": nothing is any more)."""
        if message:
            self.broken[source] = Problem(source, message)
        else:
            self.broken.pop(source, None)
