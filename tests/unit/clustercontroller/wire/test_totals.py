"""What a shim says of its cluster, as the tree carries it."""

from __future__ import annotations

from ote.api.shim.v1 import shim_pb2
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.wire.limits import check_item
from ote.clustercontroller.wire.totals import totals_of


def test_whatever_a_shim_calls_its_workloads_no_parent_refuses_it() -> None:
    long = "x" * 1000
    totals = totals_of(shim_pb2.ClusterStatus(workloads={long: 1, long + "y": 2, "a\nb": 3}))
    assert totals.workloads == {"x" * 128: 3, "ab": 3}
    record = m.ClusterRecord("a" * 32, "edge", "", 1, "i", b"", b"", up=True, status=m.Status(1, b"", totals))
    check_item(m.News([record]))
