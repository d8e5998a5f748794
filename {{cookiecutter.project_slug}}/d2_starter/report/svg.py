"""Charts and pictures as inline SVG: they follow the page's colors, and need no library."""

import base64
import io
import json
from html import escape

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 36
LONG_SIDE = 640  # pixels of embedded images, at most
MOST_POINTS = 400  # of a line


def ticks(low: float, high: float, number: int = 5) -> list[float]:
    """Returns round numbers between two values."""
    span = (high - low) or 1
    step = 10 ** np.floor(np.log10(span / number))
    step *= min((1, 2, 5, 10), key=lambda m: abs(span / number / step - m))
    return np.arange(np.ceil(low / step) * step, high + step / 100, step).tolist()


def line_chart(title: str, series: dict[str, list], x: str, y: str, y_range=None) -> str:
    """Draws lines; with a pointer or the arrow keys, the page shows the values at a point.

    Args:
        series: points (x, y) by name; empty ones are left out.
        y_range: of the axis; None: what the points need.
    """
    series = {name: points for name, points in series.items() if points}
    if not series:
        return ""
    thinned = {n: p[:: -(-len(p) // MOST_POINTS)] for n, p in series.items()}
    xs, ys = np.concatenate([np.array(p, dtype=float)[:, :2] for p in thinned.values()]).T
    low, high = y_range or (min(0, ys.min()), ys.max() * 1.05 or 1)
    left, right = (0, 1) if y_range == (0, 1) else (min(0, xs.min()), xs.max())

    def to_x(value):
        return LEFT + (value - left) / ((right - left) or 1) * (WIDTH - LEFT - RIGHT)

    def to_y(value):
        return HEIGHT - BOTTOM - (value - low) / ((high - low) or 1) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for value in ticks(low, high):
        parts.append(f'<path class="grid" d="M{LEFT} {to_y(value):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(
            f'<text x="{LEFT - 6}" y="{to_y(value) + 4:.1f}" text-anchor="end">{value:.3g}</text>'
        )
    for value in ticks(left, right, 8):
        parts.append(
            f'<text x="{to_x(value):.1f}" y="{HEIGHT - 18}" text-anchor="middle">{value:.3g}</text>'
        )
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 3}" text-anchor="end">{escape(x)}</text>')
    for number, points in enumerate(thinned.values()):
        path = "L".join(f"{to_x(p[0]):.1f} {to_y(p[1]):.1f}" for p in points)
        parts.append(f'<path class="line s{number % 8}" d="M{path}"/>')
        if len(points) <= 12:
            parts += [
                f'<circle class="s{number % 8}" cx="{to_x(p[0]):.1f}" cy="{to_y(p[1]):.1f}" r="3"/>'
                for p in points
            ]
    short = {n: [[float(f"{v:.5g}") for v in q] for q in p] for n, p in thinned.items()}
    data = {"x": x, "series": short, "box": [left, right, LEFT, WIDTH - RIGHT]}
    said = "; ".join(
        f"{n}: from {p[0][1]:.3g} to {p[-1][1]:.3g}" for n, p in list(series.items())[:12]
    )
    legend = "".join(
        f'<span><i class="s{i % 8}"></i>{escape(n)}</span>' for i, n in enumerate(series)
    )
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<p class="legend">{legend}</p>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" tabindex="0" '
        f'aria-label="{escape(title)}, {escape(y)} '
        f'by {escape(x)}. {escape(said)}" data-chart="{escape(json.dumps(data))}">{"".join(parts)}'
        f'<path class="cursor" d=""/></svg>'
        '<p class="readout" aria-live="polite">&nbsp;</p></figure>'
    )


class Images:
    """The embedded images: each once, however many pictures show it or a part of it."""

    def __init__(self, limit: int):
        self.limit, self.missing, self._keys, self._parts = limit, 0, {}, []

    def use(self, image: dict) -> str | None:
        """Embeds an image and returns its id; None if there are enough, or its file is gone."""
        file = image.get("file_name", "")
        if file not in self._keys and len(self._keys) < self.limit:
            self._keys[file] = key = f"image-{len(self._keys)}"
            try:
                self._parts.append(
                    f'<image id="{key}" width="{image["width"]}" height="{image["height"]}" '
                    f'preserveAspectRatio="none" href="data:image/jpeg;base64,{_jpeg(file)}"/>'
                )
            except OSError:
                self._keys[file] = None
                self.missing += 1
        return self._keys.get(file)

    def __str__(self):
        defs = "".join(self._parts)
        return (
            f'<svg class="defs" width="0" height="0" aria-hidden="true"><defs>{defs}</defs></svg>'
        )


def _jpeg(path):
    with Image.open(path) as opened:
        small = opened.convert("RGB")
    small.thumbnail((LONG_SIDE, LONG_SIDE))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80)
    return base64.b64encode(file.getvalue()).decode()


def picture(images: Images, image: dict, shapes: list, label: str, view=None) -> str:
    """Draws an image, or the part `view` [x, y, width, height] of it, with shapes over it.

    Args:
        shapes: (css class, text or "", result or annotation as COCO has them).
    """
    x, y, width, height = view or (0, 0, image["width"], image["height"])
    size = max(width, height) / 22
    parts = []
    key = images.use(image)
    if key:
        parts.append(f'<use href="#{key}"/>')
    for name, text, item in shapes:
        title = f"<title>{escape(text)}</title>" if text else ""
        left, top, w, h = item["bbox"]
        outline = item.get("polygons") or item.get("segmentation")
        if isinstance(outline, list) and outline:
            points = "Z".join("M" + " ".join(f"{v:.1f}" for v in polygon) for polygon in outline)
            parts.append(f'<path class="mask {name}" d="{points}Z">{title}</path>')
        parts.append(
            f'<rect class="{name}" x="{left:.1f}" y="{top:.1f}" width="{w:.1f}" height="{h:.1f}">'
            f"{title}</rect>"
        )
        for px, py, seen in np.array(item.get("keypoints") or []).reshape(-1, 3):
            if seen > 0:
                parts.append(
                    f'<circle class="{name}" cx="{px:.1f}" cy="{py:.1f}" r="{size / 6:.1f}"/>'
                )
        if text and not name.endswith("right"):
            # An annotation's above, a prediction's below: both are read where they share a place.
            above, below = max(top - size / 4, y + size), min(top + h + size, y + height - size / 4)
            ty = above if name == "missed" else below
            tx = min(max(left, x), x + width - size * 0.62 * len(text))
            parts.append(
                f'<text class="{name}" x="{max(tx, x):.1f}" y="{ty:.1f}" '
                f'font-size="{size:.1f}">{escape(text)}</text>'
            )
    return (
        f'<svg class="picture" viewBox="{x:.1f} {y:.1f} {width:.1f} {height:.1f}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )
