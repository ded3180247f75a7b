"""The table of roles in docs/security.md, as the policy has it."""

from __future__ import annotations

from ote.rpc.peer import Role
from ote.rpc.policy import POLICY


def roles_table() -> str:
    """Markdown: a row for each method, a column for each role."""
    roles = list(Role)
    lines = [f"| Method | {' | '.join(roles)} |", "|---" * (len(roles) + 1) + "|"]
    for method, allowed in POLICY.items():
        service, name = method.rsplit("/", 1)
        marks = " | ".join("●" if role in allowed else "" for role in roles)
        lines.append(f"| {service.rsplit('.', 1)[1]}.{name} | {marks} |")
    return "\n".join(dict.fromkeys(lines))
