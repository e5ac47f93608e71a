"""Which hosts may be added to the fleet."""

import pytest

from router.config.allowlist import Allowed


@pytest.mark.parametrize(
    ("rules", "host", "is_allowed"),
    [
        ([], "node1", False),
        (["node*"], "node17", True),
        (["node*"], "NODE17.", True),
        (["node*"], "my-node17", False),
        (["node??"], "node1", False),
        # Otherwise the owner of a domain could register any worker.
        (["node*"], "node1.evil.org", False),
        (["node?"], "node.", False),
        (["node?evil.org"], "node.evil.org", False),
        (["gpu.node*.example.org"], "gpu.node7.example.org", True),
        (["gpu.*.example.org"], "gpu.evil.org.example.org", False),
        (["*node*"], "a.b.node7", True),
        (["*node*"], "node7.evil.org", False),
        (["**"], "a.b", True),
        (["*.svc"], "a.b.svc", True),
        (["*.svc"], "svc", False),
        (["*.svc"], "a.svc.example.org", False),
        (["*"], "anything", True),
        (["localhost"], "localhost", True),
        (["10.0.0.0/8"], "10.255.0.1", True),
        (["10.0.0.0/8"], "11.0.0.1", False),
        (["10.0.0.7"], "10.0.0.7", True),
        (["10.0.0.7"], "10.0.0.8", False),
        (["fd00::/8"], "fd00::1", True),
        (["fd00::a"], "fd00::a", True),
        (["fd00::a"], "fd00::b", False),
        (["fd00::/8"], "fe80::1", False),
        (["10.0.0.0/8"], "::ffff:10.0.0.1", True),
        (["::/0"], "::ffff:10.0.0.1", False),
        # A pattern for names admits no address, in whatever form.
        (["*"], "127.0.0.1", False),
        (["*"], "::1", False),
        (["*"], "2130706433", False),
        (["*"], "127.1", False),
        (["*"], "0x7f000001", False),
        (["*"], "0x7f.1", False),
        (["*"], "0177.0.0.1", False),
        (["0.0.0.0/0"], "2130706433", False),
    ],
)
def test_hosts_that_may_be_added(rules: list[str], host: str, is_allowed: bool) -> None:
    """Names match patterns, addresses match networks, and without a rule nothing matches."""
    assert Allowed(rules).permits(host) is is_allowed
