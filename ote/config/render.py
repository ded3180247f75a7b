"""Settings written down: the commented file beside each program and its table in docs/settings.md."""

from __future__ import annotations

import textwrap

import yaml

from ote.config.settings import BaseSettings, Option, describe


def render_yaml(settings: type[BaseSettings]) -> str:
    """A file with every key, its meaning, and its default commented out, so that it changes nothing as it is."""
    blocks = []
    for option in describe(settings):
        lines = textwrap.wrap(option.doc, 108) or [""]
        lines.append(f"{option.env}, --{option.flag}; {'required' if option.required else 'default below'}")
        comment = "\n".join(f"# {line}".rstrip() for line in lines)
        blocks.append(f"{comment}\n# {_yaml_value(option)}\n")
    return "\n".join(blocks)


def render_markdown(settings: type[BaseSettings]) -> str:
    """A table with a row for each setting."""
    rows = ["| Key | Flag | Variable | Default | Meaning |", "|---|---|---|---|---|"]
    for option in describe(settings):
        default = (
            "required" if option.required else f"`{option.show(option.default)}`" if option.show(option.default) else ""
        )
        written = f"--{option.flag} {option.metavar}".strip().replace("|", "\\|")
        flag = f"`{written}`" + (" …" if option.repeated else "")
        choices = f" One of {', '.join(f'`{choice}`' for choice in option.choices)}." if option.choices else ""
        doc = (option.doc + choices).replace("|", "\\|")
        rows.append(f"| `{option.name}` | {flag} | `{option.env}` | {default} | {doc} |")
    return "\n".join(rows) + "\n"


def _yaml_value(option: Option) -> str:
    value = option.default
    if option.kind == "duration" and value is not None:
        value = option.show(value)
    elif option.kind == "list":
        value = list(value or ())
    elif option.kind == "path" and value is not None:
        value = str(value)
    elif value is None:
        value = ""
    return (
        yaml.safe_dump({option.name: value}, default_flow_style=True, width=1000)
        .strip()
        .removeprefix("{")
        .removesuffix("}")
    )
