"""Draw which signal goes where under each rule and method, as SVG files for the pages.

python docs/rules/diagrams.py           writes docs/rules/diagrams/*.svg
python docs/rules/diagrams.py --check   fails if a file differs from the code
"""

# ruff: noqa: RUF001 (the equations have Greek letters and typographic signs)

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import lra
from lra.crossing import Derivative, Mixed, Squared, TargetDifference
from lra.feedback import Learned, Random, SignSymmetric, Transpose
from lra.methods import (
    DRTP,
    DTP,
    PEPITA,
    EquilibriumPropagation,
    ErrorPredictiveCoding,
    ForwardForward,
    Method,
    PredictiveCoding,
)

FOLDER = Path(__file__).parent / "diagrams"

LAYERS = 4
WIDTH = 420
LEFT, RIGHT = 84, 272  # the middles of the two columns
BOX = 92  # the width of a box of the forward pass
TOP, STEP = 50, 128  # the middle of the output's row, and the distance of the rows

WEIGHTS, LEARNED, FIXED, SIGN = "#1f5fa8", "#b3500b", "#5b6672", "#7b3fa3"
UPDATE, READ, INK = "#2c7a35", "#7d8792", "#1b1f24"


def row(level: int) -> int:
    """Return the middle of a layer's row. Layer 0 is the input."""
    return TOP + STEP * (LAYERS - level) - (26 if level == 0 else 0)


class Picture:
    """SVG elements, and the lines of the legend below them."""

    def __init__(self, lines: int) -> None:
        """Start a picture whose boxes in the right column hold `lines` equations."""
        self._half = 8 + 9 * lines
        self.parts: list[str] = []
        self.legend: list[tuple[str, str, str]] = []

    def text(self, x: int, y: int, text: str, *, anchor: str = "middle", ink: str = INK) -> None:
        """Add an equation or a label. `_` and `^` lower and raise the character after them."""
        self.parts.append(
            f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{ink}">{_spans(text)}</text>'
        )

    def box(self, x: int, y: int, width: int, half: int, lines: Sequence[str], fill: str) -> None:
        """Add a box around lines of text."""
        self.parts.append(
            f'<rect x="{x - width // 2}" y="{y - half}" width="{width}" height="{2 * half}" '
            f'rx="7" fill="{fill}" stroke="#9aa4af"/>'
        )
        first = y + 5 - 9 * (len(lines) - 1)
        for i, line in enumerate(lines):
            self.text(x, first + 18 * i, line)

    def arrow(self, path: str, ink: str, *, dashes: str = "") -> None:
        """Add a line that ends in an arrowhead."""
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        self.parts.append(
            f'<path d="{path}" fill="none" stroke="{ink}" stroke-width="2"{dashed} '
            f'marker-end="url(#to-{ink[1:]})"/>'
        )

    def half(self, level: int) -> int:
        """Return half the height of a layer's box in the right column."""
        return 24 if level == LAYERS else self._half

    def top(self, error: str, width: int) -> None:
        """Draw the error at the output."""
        self.read(LAYERS, "loss", width)
        self.error(LAYERS, [error], width)

    def error(self, level: int, lines: Sequence[str], width: int) -> None:
        """Draw a layer's box in the right column."""
        self.box(RIGHT, row(level), width, self.half(level), lines, "#fdf1e4")

    def explain(self, ink: str, text: str, dashes: str = "") -> None:
        """Add a line to the legend."""
        self.legend.append((ink, text, dashes))

    def forward(self, name: Callable[[int], str], *, both_ways: bool = False) -> None:
        """Draw the left column: a box for each layer, and the weights between them."""
        for level in range(LAYERS + 1):
            self.box(LEFT, row(level), BOX, 24 if level else 18, [name(level)], "#e8f0fa")
        for level in range(1, LAYERS + 1):
            low, high = row(level - 1) - (24 if level > 1 else 18), row(level) + 24
            two = both_ways and level > 1
            x = LEFT - 10 if two else LEFT
            self.arrow(f"M{x} {low}V{high + 6}", WEIGHTS)
            if two:
                self.arrow(f"M{LEFT + 10} {high}V{low - 6}", WEIGHTS)
            self.text(x - 10, (low + high) // 2 + 5, f"W_{level}", anchor="end", ink=WEIGHTS)

    def update(self, level: int, text: str, width: int) -> None:
        """Draw the update of a layer's weights, from the right column's box to the weights."""
        x, y = RIGHT - width // 2 + 16, (row(level - 1) + row(level)) // 2
        start = row(level) + self.half(level)
        y = start + 18 if level == 1 else max(y, start + 18)
        self.arrow(f"M{x} {start}V{y}H{LEFT + 19}", UPDATE, dashes="2 4")
        self.text((LEFT + x) // 2 + 10, y - 6, text, ink=UPDATE)

    def read(self, level: int, text: str, width: int, *, back: bool = False) -> None:
        """Draw what the right column reads from the left one, or the reverse."""
        near, far = LEFT + BOX // 2, RIGHT - width // 2
        y = row(level)
        self.arrow(f"M{near} {y}H{far - 6}", READ)
        if back:
            self.arrow(f"M{far} {y + 10}H{near + 6}", READ)
        self.text((near + far) // 2, y - 7, text)

    def down(self, level: int, ink: str, label: str, note: str = "") -> None:
        """Draw an error from a layer's box to the one below in the right column."""
        low, high = row(level) + self.half(level), row(level - 1) - self.half(level - 1)
        self.arrow(f"M{RIGHT} {low}V{high - 6}", ink)
        label = f"{label}, {note}" if note else label
        self.text(RIGHT + 9, (low + high) // 2 + 3, label, anchor="start", ink=ink)

    def jump(self, above: int, level: int, lane: int, ink: str, label: str, width: int) -> None:
        """Draw an error from a layer's box to one further down, around those between."""
        edge, x = RIGHT + width // 2, 385 + 13 * lane
        start, end = row(above) - 8 + 12 * lane, row(level) + (12 if lane else 0)
        path = f"M{edge} {start}H{x - 6}Q{x} {start} {x} {start + 6}V{end - 6}"
        self.arrow(f"{path}Q{x} {end} {x - 6} {end}H{edge + 6}", ink)
        self.text(edge + 9, end - 8, label, anchor="start", ink=ink)

    def svg(self, title: str) -> str:
        """Return the file's text."""
        start = row(0) + 48
        body = list(self.parts)
        for i, (ink, text, dashes) in enumerate(self.legend):
            y = start + 22 * i
            dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
            body.append(
                f'<path d="M16 {y}H46" stroke="{ink}" stroke-width="2"{dashed} '
                f'marker-end="url(#to-{ink[1:]})"/>'
                f'<text x="60" y="{y + 5}" fill="{INK}">{_spans(text)}</text>'
            )
        height = start + 22 * len(self.legend)
        inks = sorted(set(re.findall(r"url\(#to-(\w+)\)", "".join(body))))
        heads = "".join(
            f'<marker id="to-{ink}" viewBox="0 0 8 8" refX="2" refY="4" markerWidth="8" '
            'markerHeight="8" markerUnits="userSpaceOnUse" orient="auto">'
            f'<path d="M0 0L8 4L0 8z" fill="#{ink}"/></marker>'
            for ink in inks
        )
        return "\n".join(
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
                f'width="{WIDTH}" height="{height}" font-size="15" '
                "font-family=\"Georgia, 'Times New Roman', 'Liberation Serif', serif\">",
                f"<title>{escape(title)}</title>",
                f"<defs>{heads}</defs>",
                f'<rect width="{WIDTH}" height="{height}" rx="10" fill="#ffffff"/>',
                *body,
                "</svg>\n",
            )
        )


def _spans(text: str) -> str:
    """Return SVG text with one-letter symbols in italics, and indices lowered or raised."""
    found = []
    shift = 0
    for part in re.findall(r"[_^].|[^\W\d_]+|.", text):
        style, inner, by = "", part, -shift
        if part[0] in "_^" and len(part) == 2:
            inner, by = part[1], (4 if part[0] == "_" else -6) - shift
            style = ' font-size="11"'
        elif (len(part) == 1 and part.isalpha()) or part in ("dW", "dE", "dx"):
            style = ' font-style="italic"'
        shift += by
        offset = f' dy="{by}"' if by else ""
        plain = not style and not offset
        found.append(escape(inner) if plain else f"<tspan{offset}{style}>{escape(inner)}</tspan>")
    return "".join(found)


def _feedback(rule: lra.Rule) -> tuple[str, Callable[[int], str], str, str]:
    """Return a rule's feedback as a colour, a symbol for each layer, a note, and in words."""
    feedback = rule.feedback
    if isinstance(feedback, Transpose):
        return WEIGHTS, lambda i: f"W_{i}", "the same W", "the weights W"
    if isinstance(feedback, Learned):
        return LEARNED, lambda i: f"E_{i}", "learned", "learned weights E"
    if isinstance(feedback, Random):
        return FIXED, lambda i: f"E_{i}", "fixed", "fixed random weights E"
    if isinstance(feedback, SignSymmetric):
        return SIGN, lambda i: f"E_{i}", f"{feedback.magnitude} size", "E with the signs of W"
    raise ValueError(f"diagrams.py: {type(feedback).__name__}: no picture of this feedback yet")


def _crossing(rule: lra.Rule) -> tuple[Callable[[int], list[str]], str, str]:
    """Return a rule's crossing as equations for each layer, what it reads, and a legend."""
    crossing = rule.crossing
    if isinstance(crossing, Derivative):
        return lambda i: [f"e_{i} = φ′(h_{i}) d_{i}"], "h", "what the error needs: the slope φ′(h)"
    if not isinstance(crossing, TargetDifference):
        raise ValueError(f"diagrams.py: {type(crossing).__name__}: no picture of this crossing yet")
    plain = crossing.local_loss in (Squared(), Mixed(1.0))
    equal = "=" if crossing.gain == 1.0 and not crossing.normalized and plain else "∝"

    def lines(i: int) -> list[str]:
        over = f" / s_{i}" if crossing.relative else ""
        if crossing.two_sided:
            difference = f"y_{i}^+ − y_{i}^−"
            found = [f"m_{i} = β d_{i}{over}", f"y_{i}^± = φ(h_{i} ± m_{i})"]
        else:
            difference = f"z_{i} − y_{i}"
            found = [f"y_{i} = φ(h_{i} − β d_{i}{over})"]
        return [*found, f"e_{i} {equal} {difference if plain else f'L′({difference})'}"]

    reads = "h" if crossing.two_sided else "h, z"
    targets = "targets y^+ and y^−" if crossing.two_sided else "the target y"
    return lines, reads, f"what the error needs: {reads}, for {targets}"


def _source(rule: lra.Rule, level: int) -> int:
    """Return the layer whose error arrives at the output of a layer."""
    reach = rule.wiring.reach
    return LAYERS if reach is None else min(level + reach, LAYERS)


def _draw_rule(rule: lra.Rule) -> Picture:
    """Draw a rule by its axes."""
    ink, symbol, note, through = _feedback(rule)
    crossing, reads, needs = _crossing(rule)
    width = 156
    equations = {
        i: [f"d_{i} = e_{_source(rule, i)} {symbol(i + 1)}", *crossing(i)] for i in range(1, LAYERS)
    }
    picture = Picture(lines=len(equations[1]))
    picture.forward(
        lambda i: "x = z_0" if i == 0 else f"h_{i}" if i == LAYERS else f"z_{i} = φ(h_{i})"
    )
    picture.top(f"e_{LAYERS} = N ∂L / ∂h_{LAYERS}", width)
    lane = 0
    for i in reversed(range(1, LAYERS)):
        picture.read(i, ", ".join(f"{s}_{i}" for s in reads.split(", ")), width)
        picture.error(i, equations[i], width)
        source = _source(rule, i)
        if source == i + 1:
            picture.down(source, ink, symbol(i + 1), note)
        else:
            picture.jump(source, i, lane, ink, symbol(i + 1), width)
            lane += 1
    for i in range(1, LAYERS + 1):
        picture.update(i, f"dW_{i}", width)
    picture.explain(WEIGHTS, "forward pass: h = z W^T + b, z = φ(h)")
    picture.explain(ink, f"error, through {through}")
    picture.explain(READ, needs)
    learned = isinstance(rule.feedback, Learned)
    chained = learned and rule.wiring.reach == 1
    picture.explain(UPDATE, f"updates: dW = e^T z / N{', dE = γ dW' if chained else ''}", "2 4")
    if learned and not chained:
        picture.explain(UPDATE, "dE = γ (e where E starts)^T z / N", "2 4")
    return picture


def axes() -> str:
    """Return the picture of what the three axes of a rule decide."""
    width = 156
    picture = Picture(lines=1)
    picture.forward(
        lambda i: "x = z_0" if i == 0 else f"h_{i}" if i == LAYERS else f"z_{i} = φ(h_{i})"
    )
    picture.top(f"e_{LAYERS} = N ∂L / ∂h_{LAYERS}", width)
    for i in range(1, LAYERS):
        picture.error(i, [f"crossing: d_{i} to e_{i}"], width)
        picture.down(i + 1, LEARNED, "feedback")
    picture.jump(LAYERS, 1, 1, READ, "", width)
    picture.explain(WEIGHTS, "forward pass: the same under every rule")
    picture.explain(LEARNED, "feedback: from e of one layer to d below it")
    picture.explain(READ, "wiring: from which layer the error comes")
    return picture.svg(AXES)


AXES = (
    "Four weight layers. The forward pass goes up. Errors go down beside it. Feedback takes an "
    "error across a weight layer, the crossing takes it across an activation, and the wiring "
    "decides from which layer it comes."
)


def _predictive_coding() -> Picture:
    width = 190
    picture = Picture(lines=2)
    picture.forward(lambda i: "x_0 = x" if i == 0 else f"z_{i}" if i == LAYERS else f"x_{i}")
    picture.top(f"ε_{LAYERS} = −N ∂L / ∂z_{LAYERS}", width)
    for i in range(1, LAYERS):
        picture.read(i, f"x_{i}", width, back=True)
        picture.error(
            i, [f"ε_{i} = x_{i} − f_{i}(x_{i - 1})", f"dx_{i} = ε_{i + 1} J_{i + 1} − ε_{i}"], width
        )
    for i in range(1, LAYERS + 1):
        picture.update(i, f"dW_{i}", width)
    for i in range(2, LAYERS + 1):
        picture.down(i, WEIGHTS, f"J_{i} = ∂f_{i} / ∂x_{i - 1}")
    picture.explain(WEIGHTS, "forward pass f, and errors down through its J")
    picture.explain(READ, "states are compared, and moved by step dx")
    picture.explain(UPDATE, "updates of W, after the last step of the states", "2 4")
    return picture


def _error_predictive_coding() -> Picture:
    width = 190
    picture = Picture(lines=2)
    picture.forward(lambda i: "s_0 = x" if i == 0 else f"z_{i}" if i == LAYERS else f"s_{i}")
    picture.top(f"δ_{LAYERS} = c N ∂L / ∂z_{LAYERS}", width)
    for i in range(1, LAYERS):
        picture.read(i, f"ε_{i}", width, back=True)
        picture.error(i, [f"s_{i} = f_{i}(s_{i - 1}) + ε_{i}", f"dε_{i} = −(ε_{i} + δ_{i})"], width)
    for i in range(1, LAYERS + 1):
        picture.update(i, f"dW_{i}", width)
    for i in range(2, LAYERS + 1):
        picture.down(i, WEIGHTS, f"δ_{i - 1} = δ_{i} J_{i}")
    picture.explain(WEIGHTS, "forward pass f, and reverse passes through its J")
    picture.explain(READ, "errors are added to the states, and moved by step dε")
    picture.explain(UPDATE, "updates of W, after the last step of the errors", "2 4")
    return picture


def _equilibrium_propagation() -> Picture:
    width = 190
    picture = Picture(lines=2)
    picture.forward(lambda i: "s_0 = x" if i == 0 else f"s_{i}", both_ways=True)
    picture.read(LAYERS, "", width, back=True)
    picture.error(LAYERS, [f"loss: ± β N ∂L / ∂s_{LAYERS}"], width)
    for i in range(1, LAYERS):
        picture.read(i, "", width)
        inputs = f"φ(s_{i - 1} W_{i}^T + s_{i + 1} W_{i + 1})"
        picture.error(i, [f"s_{i} → {inputs}", f"settles twice: s_{i}^+, s_{i}^−"], width)
    for i in range(1, LAYERS + 1):
        picture.update(i, f"dW_{i}", width)
    picture.explain(WEIGHTS, "signals in both directions, until they settle")
    picture.explain(READ, "states, and the nudge by the loss")
    picture.explain(UPDATE, "updates: (s^−^T s^− − s^+^T s^+) / (2 β N)", "2 4")
    return picture


def _target_propagation() -> Picture:
    width = 190
    last = LAYERS - 1
    picture = Picture(lines=2)
    picture.forward(lambda i: "x = z_0" if i == 0 else f"h_{i}" if i == LAYERS else f"z_{i}")
    picture.top(f"∂L / ∂h_{LAYERS}", width)
    for i in range(1, LAYERS):
        picture.read(i, f"z_{i}", width)
        moved = f"η N ∂L / ∂z_{i}" if i == last else f"g_{i + 1}(z_{i + 1}) + g_{i + 1}(y_{i + 1})"
        picture.error(
            i, [f"y_{i} = z_{i} −", moved] if i < last else [f"y_{i} = z_{i} − {moved}"], width
        )
    for i in range(1, LAYERS + 1):
        picture.update(i, f"dW_{i}", width)
    picture.down(LAYERS, WEIGHTS, f"W_{LAYERS}", "the same W")
    for i in range(2, LAYERS):
        picture.down(i, LEARNED, f"g_{i}", "learned")
    picture.explain(WEIGHTS, f"forward pass, and the gradient through W_{LAYERS}")
    picture.explain(LEARNED, "targets, through learned inverses g")
    picture.explain(READ, "what the target needs")
    picture.explain(UPDATE, "updates of W, from the distance of z from y", "2 4")
    return picture


def _pepita() -> Picture:
    width = 156
    picture = Picture(lines=1)
    picture.forward(lambda i: "x = z_0" if i == 0 else f"h_{i}" if i == LAYERS else f"z_{i}")
    picture.top(f"e = N ∂L / ∂h_{LAYERS}", width)
    picture.read(0, "x", width)
    picture.error(0, ["x′ = x + e F"], width)
    for i in range(1, LAYERS):
        picture.read(i, f"z_{i}", width)
        picture.error(i, [f"z_{i} − z′_{i}"], width)
        low, high = row(i - 1) - picture.half(i - 1), row(i) + picture.half(i)
        picture.arrow(f"M{RIGHT + 30} {low}V{high + 6}", WEIGHTS)
        picture.text(RIGHT + 39, (low + high) // 2 + 5, f"W_{i}", anchor="start", ink=WEIGHTS)
    picture.jump(LAYERS, 0, 0, FIXED, "F", width)
    for i in range(1, LAYERS + 1):
        picture.update(i, f"dW_{i}", width)
    picture.explain(WEIGHTS, "two forward passes through the same W")
    picture.explain(FIXED, "the error, through a fixed random F")
    picture.explain(READ, "both passes are compared at each layer")
    picture.explain(UPDATE, "updates: (z − z′)^T z′ / N; at the output e^T z′ / N", "2 4")
    return picture


def _forward_forward() -> Picture:
    width = 190
    picture = Picture(lines=2)
    picture.forward(lambda i: "x, label" if i == 0 else f"h_{i}" if i == LAYERS else f"z_{i}")
    picture.top(f"∂L / ∂h_{LAYERS}, neutral label", width)
    for i in range(1, LAYERS):
        picture.read(i, f"z_{i}", width)
        picture.error(i, [f"g_{i} = Σ z_{i}^2 − θ n_{i}", "± for right or wrong"], width)
    for i in range(1, LAYERS + 1):
        picture.update(i, f"dW_{i}", width)
    picture.explain(WEIGHTS, "forward passes, normalised before each layer")
    picture.explain(READ, "each layer's own loss, from its squares")
    picture.explain(UPDATE, "updates, from the loss beside them alone", "2 4")
    return picture


def _target_projection() -> Picture:
    width = 156
    picture = Picture(lines=2)
    picture.forward(lambda i: "x = z_0" if i == 0 else f"h_{i}" if i == LAYERS else f"z_{i}")
    picture.top(f"t, N ∂L / ∂h_{LAYERS}", width)
    for lane, i in enumerate(reversed(range(1, LAYERS))):
        picture.read(i, f"h_{i}", width)
        picture.error(i, [f"d_{i} = t B_{i}", f"e_{i} = φ′(h_{i}) d_{i}"], width)
        picture.jump(LAYERS, i, lane, FIXED, f"B_{i}", width)
    for i in range(1, LAYERS + 1):
        picture.update(i, f"dW_{i}", width)
    picture.explain(WEIGHTS, "forward pass")
    picture.explain(FIXED, "the label t, through fixed random B")
    picture.explain(READ, "what the error needs: the slope φ′(h)")
    picture.explain(UPDATE, "updates: dW = e^T z / N", "2 4")
    return picture


def draw(rule: lra.Rule | Method) -> str:
    """Return the picture of a rule or a method as the text of an SVG file."""
    picture = _METHODS[type(rule)][0]() if isinstance(rule, Method) else _draw_rule(rule)
    return picture.svg(describe(rule))


def describe(rule: lra.Rule | Method) -> str:
    """Return what the picture of a rule or a method shows, in words."""
    if isinstance(rule, Method):
        return _METHODS[type(rule)][1]
    reach = rule.wiring.reach
    path = f"{reach} layers at a time" if reach else "straight to each layer"
    path = "layer by layer" if reach == 1 else path
    if isinstance(rule.crossing, Derivative):
        crossing = "is multiplied by the slope of the activation"
    elif getattr(rule.crossing, "two_sided", False):
        crossing = "becomes the difference of two targets, one on each side of h"
    else:
        crossing = "becomes the difference between the activation and its target"
    return (
        "Four weight layers. The forward pass goes up. The error at the output goes down, "
        f"{path}, through {_feedback(rule)[3]}. At each activation it {crossing}. The error at a "
        "layer updates the weights of that layer."
    )


_METHODS: dict[type[Method], tuple[Callable[[], Picture], str]] = {
    PredictiveCoding: (
        _predictive_coding,
        "Four weight layers, with a free state between any two. Each state is compared with the "
        "prediction from below. The errors move the states, go down through the derivative of the "
        "next layer, and at the end update the weights.",
    ),
    ErrorPredictiveCoding: (
        _error_predictive_coding,
        "Four weight layers, with an error added between any two. A reverse pass through all "
        "layers moves the errors. At the end each error updates the weights of the layer below it.",
    ),
    EquilibriumPropagation: (
        _equilibrium_propagation,
        "Four weight layers, with a state after each. Signals go up and down through the same "
        "weights until the states settle, while the loss nudges the output in one direction and "
        "then the other. The difference of the two equilibria updates the weights.",
    ),
    DTP: (
        _target_propagation,
        "Four weight layers. The forward pass goes up. The target of the last hidden layer comes "
        "from the gradient of the loss. Further targets go down through learned inverses of the "
        "layers. The distance of an activation from its target updates the weights below it.",
    ),
    PEPITA: (
        _pepita,
        "Four weight layers. The forward pass goes up. The error at the output goes through a "
        "fixed random matrix to the input of a second forward pass beside the first. The "
        "difference of the two passes at a layer updates the weights below it.",
    ),
    ForwardForward: (
        _forward_forward,
        "Four weight layers. Forward passes go up with the label, with a wrong label and with a "
        "neutral one in the input. The sum of a layer's squares updates the weights below it, up "
        "for the label and down for a wrong one. The loss updates the last layer.",
    ),
    DRTP: (
        _target_projection,
        "Four weight layers. The forward pass goes up. The label goes straight to each hidden "
        "layer, through fixed random weights B. There it is multiplied by the slope of the "
        "activation, and updates the weights below. The error at the output updates the last "
        "layer.",
    ),
}


def main() -> None:
    """Write or check the files."""
    FOLDER.mkdir(exist_ok=True)
    pictures = {name: draw(lra.named(name)) for name in (*lra.RULES, *lra.methods.METHODS)}
    for name, text in {"axes": axes(), **pictures}.items():
        file = FOLDER / f"{name}.svg"
        if "--check" not in sys.argv[1:]:
            file.write_text(text, "utf-8", newline="\n")
        elif not file.exists() or file.read_text("utf-8") != text:
            raise SystemExit(
                f"{file.name} differs from the code: run python docs/rules/diagrams.py"
            )


if __name__ == "__main__":
    main()
