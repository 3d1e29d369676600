"""The results of a check as one page of Markdown, which a user can send back."""

from __future__ import annotations

from typing import Any

__all__ = ["page_from_result"]


def page_from_result(result: dict[str, Any]) -> str:
    """Returns the page: the device, a table of steps, and the figures or the error of each step."""
    device = result.get("device") or {}
    steps = result["steps"]
    lines = [
        "# EdgeKit on a GPU",
        "",
        f"- device: {device.get('name', 'none')}, compute capability "
        f"{'.'.join(map(str, device.get('compute_capability', ()))) or 'unknown'}, CUDA "
        f"{device.get('driver_version', 'unknown')} by {device.get('package', 'no package')}",
        f"- commit: {result['commit']}",
        f"- measured: {result['created']}, on {result['system']} {result['arch']}, Python {result['python']}"
        + (", few runs" if result["quick"] else ""),
        "",
        "| step | result | seconds |",
        "| --- | --- | ---: |",
        *(
            f"| {name} | {'passed' if step['ok'] else 'failed'} | {step['seconds']:.1f} |"
            for name, step in steps.items()
        ),
    ]
    for name, step in steps.items():
        lines += ["", f"## {name}", ""]
        if not step["ok"]:
            lines += ["```text", step["error"].strip(), "```", ""]
        lines += [f"- {line}" for line in _figures(step.get("figures") or {})]
    return "\n".join(lines).rstrip() + "\n"


def _figures(value: Any, prefix: str = "") -> list[str]:
    if isinstance(value, dict):
        return [line for key, item in value.items() for line in _figures(item, f"{prefix}{' ' if prefix else ''}{key}")]
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return [f"{prefix}: " + ", ".join(f"{key} {_figure(figure)}" for key, figure in item.items()) for item in value]
    return [f"{prefix}: {_figure(value)}"]


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {_figure(item)}" for key, item in value.items()) + ")"
    return str(value)
