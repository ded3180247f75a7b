"""The worlds that several files of tests begin with."""

from __future__ import annotations

import pytest

from tests.unit.clustercontroller.core.children_house import House
from tests.unit.clustercontroller.core.registry_seen import Seen


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture
def seen() -> Seen:
    return Seen()
