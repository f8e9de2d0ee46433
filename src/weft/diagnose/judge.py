"""Facts → Findings, the worst first, and of those as bad as each other the root of the trouble first. Pure; called by
`cli/diagnose.py`. Each judge looks at one part and knows nothing of the others."""

from __future__ import annotations

from weft.diagnose import judge_etcd, judge_kernel, judge_paths
from weft.diagnose.facts import Facts
from weft.diagnose.finding import SEVERITIES, Finding, Own

JUDGES = (
    judge_etcd.etcd,
    judge_etcd.entries,
    judge_etcd.conflicts,
    judge_kernel.links,
    judge_kernel.host,
    judge_kernel.tables,
    judge_kernel.routes,
    judge_kernel.unreachable_hosts,
    judge_paths.firewall,
    judge_paths.engine,
    judge_paths.daemon,
    judge_paths.paths,
    judge_paths.health,
)


def judge(facts: Facts) -> tuple[Finding, ...]:
    """Everything that is to be said. What two judges say in the same words is said once."""
    own = Own(facts)
    found = dict.fromkeys(finding for one in JUDGES for finding in one(facts, own))
    return tuple(sorted(found, key=lambda one: (SEVERITIES.index(one.severity), one.root)))


def wrong(findings: tuple[Finding, ...]) -> bool:
    """Whether anything is as it should not be."""
    return any(one.severity != "note" for one in findings)
