"""What the tests of more than one folder share. Nothing here ever touches the machine's own network namespace.

eventually      until(condition), soon(condition): wait for a condition with a deadline, never for a time
namespace       namespace(): a network namespace for the length of a `with`; veth(): a cable between two
ports           free_port(), free_ports(count): ports that nobody takes before the test does
docker_engine   docker_engine(ns): a real Docker Engine in a namespace, gone for certain at the end of the `with`
bfd_link        Link(): two ends of a BFD session in virtual time
frr             bfdd(ns, …): FRR's bfdd in a namespace, another program's word on BFD
sets            reading(source): what an Engine or a Discovery yields, and waiting for a set that fits
fake_docker     FakeDocker: a small Docker Engine in this process, with the ways in which engines misbehave
needs           needs_root, needs_docker, needs_wireguard: marks that skip a test where it can't run, and say why
"""
