"""The colors of a report's drawings: on the page in light and dark, and in a drawing's own file."""

from evals.faithfulness.charts import Chart

# contrast with the page of at least 4.5 to 1 (WCAG 2.1, 1.4.3), which the page's test holds
LIGHT = {
    "page": "#fcfcfa",
    "ink": "#1d1d1f",
    "soft": "#5a5a62",
    "rule": "#d9d9d4",
    "card": "#f1f1ec",
    "good": "#006b52",
    "bad": "#a63500",
    "open": "#5a5a62",
    "blue": "#0b62a8",
    "orange": "#b45300",
    "s2": "#007a5c",
    "s3": "#a34d80",
    "s4": "#8a6a00",
    "s5": "#333333",
}
DARK = {
    "page": "#17181b",
    "ink": "#ececea",
    "soft": "#a9abb3",
    "rule": "#3a3c42",
    "card": "#212328",
    "good": "#54d3ab",
    "bad": "#ff9a66",
    "open": "#b4b6bd",
    "blue": "#6db9f5",
    "orange": "#f2a25c",
    "s2": "#54d3ab",
    "s3": "#e59cc8",
    "s4": "#e3c55b",
    "s5": "#dddddd",
}
SERIES = ("blue", "orange", "s2", "s3", "s4", "s5")
# dashes of lines, in the order of SERIES
DASHES = ("", "7 3", "2 3", "9 3 2 3", "1 4", "4 4")
PARTS = ("blue", "s4", "s2", "s3", "orange", "open")

DRAWING = """
text { fill:var(--ink); font-size:12px }
.tick, .axis { fill:var(--soft); font-size:11px } .grid { stroke:var(--rule) }
.reference { stroke:var(--soft); stroke-dasharray:4 4 } .interval { stroke-width:2.5 }
.dot { stroke-width:1.5 } .open.dot, .null.dot { fill:var(--page) } .open.interval { stroke-width:1.2 }
.null.dot { stroke:var(--orange); stroke-width:2 } .inside { fill:var(--page); font-size:11px }
.positive { fill:var(--orange) } .negative { fill:var(--blue) } .cell { font-size:10px }
.line { fill:none; stroke-width:2.2 }
"""


def variables(colors: dict[str, str]) -> str:
    """The colors as custom properties of CSS."""
    return " ".join(f"--{name}:{value};" for name, value in colors.items())


def rules(scope: str = ".chart") -> str:
    """The CSS rules for drawings, each scoped to an element.

    Args:
      scope: a selector; empty for a drawing in a file of its own.
    Returns: CSS that names colors as var(--name).
    """
    numbered = [f".m{n} {{ fill:var(--{c}); stroke:var(--{c}) }}" for n, c in enumerate(SERIES[:4])]
    numbered += [f".t{n} {{ fill:var(--{c}) }} .f{n} {{ fill:var(--{c}) }}" for n, c in enumerate(SERIES)]
    numbered += [f".i{n} {{ stroke:var(--{c}); stroke-width:1.4 }}" for n, c in enumerate(SERIES)]
    numbered += [
        f".s{n} {{ stroke:var(--{c})" + (f"; stroke-dasharray:{dashes}" if dashes else "") + " }"
        for n, (c, dashes) in enumerate(zip(SERIES, DASHES, strict=True))
    ]
    numbered += [f".p{n} {{ fill:var(--{c}) }}" for n, c in enumerate(PARTS)]
    # hollow marks come after the colors of series, or they would be filled
    plain, hollow = DRAWING.split(".open.dot", 1)
    css = f"{plain}\n{chr(10).join(numbered)}\n.open.dot{hollow}"
    found = []
    for rule in filter(None, (part.strip() for part in css.split("}"))):
        selectors, _, body = rule.partition("{")
        names = ", ".join(f"{scope} {name.strip()}".strip() for name in selectors.split(","))
        found.append(f"{names} {{ {body.strip()} }}")
    return "\n".join(found)


def standalone_rules() -> str:
    """The rules with light colors written out: programs that draw SVG do not know custom properties."""
    css = rules("")
    for name, value in LIGHT.items():
        css = css.replace(f"var(--{name})", value)
    return f"svg {{ font-family:Helvetica, Arial, sans-serif }}\n{css}"


def standalone(chart: Chart) -> str:
    """A drawing as an SVG file with colors of its own, on a light ground."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {chart.width} {chart.height}" '
        f'width="{chart.width}" height="{chart.height}" role="img"><style>{standalone_rules()}</style>'
        f'<rect width="100%" height="100%" fill="{LIGHT["page"]}"/>{chart.inside()}</svg>\n'
    )
