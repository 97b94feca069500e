"""Grids, plots and the page of a run."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from marval_ray.files.images import to_pixels
from marval_ray.runs import report
from marval_ray.runs.looks import read_looks, save_look
from marval_ray.runs.report.grids import GAP
from marval_ray.runs.report.plots import running_mean

ROWS = [
    {"model": model, "n_ar": n, "fd": fd, "accuracy": 0.9, "diversity": 0.8, "images_per_second": speed / n, "samples": 500}
    for model, fd, speed in (("teacher", 12.5, 400.0), ("student", 8.0, 9000.0))
    for n in (64, 1, 8)
]
SUMMARY = {
    "teacher_fd": 12.5, "teacher_accuracy": 0.91, "teacher_diversity": 0.87, "teacher_images_per_second": 4.0, "teacher_n_ar": 64,
    "student_fd_before": 141.25, "student_accuracy_before": 0.36, "student_diversity_before": 1.2,
    "student_images_per_second_before": 90.0, "student_fd": 7.77, "student_accuracy": 0.93, "student_diversity": 0.85,
    "student_images_per_second": 91.0, "student_n_ar": 64, "fd_ratio": 0.62,
    "speed_up": 123.4, "speed_up_n_ar": 4, "seconds_gsim": 61.0, "seconds_rl": 120.0, "seconds_total": 333.0, "samples": 500,
    "student_fd_before_rl": 7.31, "student_accuracy_before_rl": 0.94, "student_diversity_before_rl": 0.84,
    "student_images_per_second_before_rl": 92.0,
    "reward_before": 20.0, "reward_before_std": 2.0, "reward_after": 22.5,
}  # fmt: skip


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def metrics(steps: int = 60) -> list[dict[str, float]]:
    names = ("generator/loss", "generator/l1", "auxiliary/mse", "images_per_second")
    return [{"step": 10 * s, **{name: i + 1 / (1 + s) for i, name in enumerate(names)}} for s in range(1, steps)]


class Page(HTMLParser):
    """Collects what a page refers to, and checks that its tags match."""

    VOID = {"meta", "img"}

    def __init__(self, text: str):
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href", "srcset", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_grid_shows_the_images_enlarged_row_by_row(tmp_path):
    levels = torch.linspace(-1, 1, 6)
    images = levels[:, None, None, None].expand(6, 1, 28, 28)
    report.save_grid(tmp_path / "grid.png", images, columns=3)
    grid, side = pixels(tmp_path / "grid.png"), 3 * 28
    assert grid.shape == (2 * side + GAP, 3 * side + 2 * GAP, 3)
    for index, level in enumerate(levels):
        y, x = index // 3 * (side + GAP), index % 3 * (side + GAP)
        assert (grid[y : y + side, x : x + side] == round((level.item() + 1) * 127.5)).all()
    assert (grid[side : side + GAP] == 255).all()


def test_enlarging_copies_pixels(tmp_path):
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    report.save_grid(tmp_path / "grid.png", image, columns=1)
    grid = pixels(tmp_path / "grid.png")
    original = ((image[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    assert grid.shape == (96, 96, 3) and all((grid[i::3, j::3] == original).all() for i in range(3) for j in range(3))
    report.save_grid(tmp_path / "large.png", torch.zeros(2, 3, 256, 256), columns=2)
    assert pixels(tmp_path / "large.png").shape == (256, 2 * 256 + GAP, 3)


def test_comparison_has_all_grids_titles_and_labels(tmp_path):
    grids = {name: torch.full((4, 1, 32, 32), value) for name, value in (("teacher", -1.0), ("student after", 0.0))}
    report.save_comparison(tmp_path / "grid.png", grids, columns=2, row_labels=["bag", "ankle boot"])
    page = pixels(tmp_path / "grid.png")
    block = 2 * 96 + GAP
    top, left = page.shape[0] - block, page.shape[1] - 2 * block - 18
    assert top > 0 and left > 0
    assert (page[top : top + 96, left : left + 96] == 0).all() and (page[top : top + 96, -96:] == 128).all()
    assert page[:top, left : left + block].min() < 100 and page[:top, -block:].min() < 100  # titles
    assert page[top : top + 96, :left].min() < 100 and page[-96:, :left].min() < 100  # labels
    assert page[:top, :left].min() == 255


def test_a_row_may_be_incomplete(tmp_path):
    report.save_grid(tmp_path / "grid.png", torch.full((3, 1, 28, 28), -1.0), columns=2)
    grid = pixels(tmp_path / "grid.png")
    assert (grid[-84:, :84] == 0).all() and (grid[-84:, -84:] == 255).all()


def test_running_mean():
    np.testing.assert_allclose(running_mean(np.array([1.0, 2.0, 6.0, 1.0]), 2), [1, 1.5, 4, 3.5])
    np.testing.assert_allclose(running_mean(np.array([3.0, 5.0]), 1), [3, 5])


@pytest.mark.parametrize("bad", [None, float("nan"), 1e12])
def test_losses_are_plotted(tmp_path, bad):
    rows = metrics()
    if bad is not None:
        rows[20]["generator/loss"] = bad
    report.plot_losses(tmp_path / "losses.png", report.grouped(rows))
    plot = pixels(tmp_path / "losses.png")
    assert plot.shape[1] > 1000 and plot.shape[0] > 400
    left = plot[: plot.shape[0] // 2, : plot.shape[1] // 3].reshape(-1, 3)
    assert (left == (0x16, 0x68, 0xB3)).all(1).sum() > 100  # the curve is seen in spite of one extreme value


def test_series_stand_in_groups_and_those_that_never_move_are_left_out():
    rows = [{"step": s, "reward": s, "held_out/fd": 9 - s, "held_out/samples": 500.0, "flow/rollout_ms": 2.0 * s} for s in (1, 2, 3)]
    rows[1]["held_out/recall"] = 0.5  # one look is no movement
    groups = report.grouped([*rows, {"step": 4, "reward": float("nan")}])
    assert {title: list(series) for title, series in groups.items()} == {
        "Objective": ["reward"], "Held out": ["held_out/fd"], "Flow of work": ["flow/rollout_ms"],
    }  # fmt: skip
    np.testing.assert_array_equal(groups["Held out"]["held_out/fd"], [(1, 8), (2, 7), (3, 6)])
    assert report.grouped(rows[:1]) == {}


@pytest.mark.parametrize("channels", [1, 3])
def test_looks_are_read_as_they_were_saved(tmp_path, channels):
    shown = np.random.default_rng(0).integers(0, 256, (10, 28, 28, channels), dtype=np.uint8)
    for step in range(0, 300, 10):
        save_look(tmp_path, step, np.roll(shown, step // 10, axis=0))
    looks = read_looks(tmp_path)
    assert len(looks) == 12 and list(looks)[0] == 0 and list(looks)[-1] == 290 and list(looks) == sorted(looks)
    for step, images in looks.items():
        np.testing.assert_array_equal(to_pixels(images), np.roll(shown, step // 10, axis=0))
    assert read_looks(tmp_path / "none") == {}


@pytest.mark.parametrize("rows", [ROWS, ROWS[3:], ROWS[3:4]], ids=["both", "student", "one point"])
@pytest.mark.parametrize("worst", [15.0, 1500.0])
def test_loops_are_plotted(tmp_path, rows, worst):
    report.plot_loops(tmp_path / "loops.png", [*rows[1:], rows[0] | {"fd": worst}])
    plot = pixels(tmp_path / "loops.png").reshape(-1, 3)
    assert (plot == (0x16, 0x68, 0xB3)).all(1).sum() > 20
    assert ((plot == (0xD1, 0x60, 0x0A)).all(1).sum() > 20) == any(row["model"] == "teacher" for row in rows)


def test_page_holds_everything_and_loads_nothing(tmp_path):
    report.plot_loops(tmp_path / "loops.png", ROWS)
    report.save_grid(tmp_path / "grid.png", torch.zeros(2, 1, 28, 28), 2)
    pictures = [("Loops.", tmp_path / "loops.png"), ("A & B <grid>.", tmp_path / "grid.png")]
    report.write_html(tmp_path / "report.html", "Run <1>", SUMMARY, ROWS, pictures, {"out": tmp_path / "x", "seed": 7})
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not re.search(r"https?:|//[a-z]|url\(|@import", re.sub(r"base64,[^\"]*", "", text))
    assert page.sources == re.findall(r'src="([^"]*)"', text) and not {"script", "link", "iframe"} & set(page.tags)
    for source, (_, path) in zip(page.sources, pictures, strict=True):
        assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == path.read_bytes()
    assert "Run &lt;1&gt;" in text and "A &amp; B &lt;grid&gt;." in text
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text
    assert page.tags.count("tr") == 1 + 4 + 1 + len(ROWS) + len(SUMMARY) and page.tags.count("details") == 2
    figures = ("<td>12.50</td>", "<td>141.25</td>", "<td>7.77</td>", "<td>0.930</td>", "123 ×", "at N_AR = 4", "5.5 min", "<td>7.31</td>")
    figures += ("+1.25", "RL 2.0 min")
    for shown in (*figures, "&#34;seed&#34;: 7"):
        assert shown in text
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []


def test_rewards_that_nothing_learnt_from_have_a_card_each(tmp_path):
    summary = {"held_out_clip_before": 0.2, "held_out_clip_before_std": 0.04, "held_out_clip_after": 0.18}
    report.write_html(tmp_path / "report.html", "Run", summary, [], [])
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "clip, held out<b>-0.50</b><span>from 0.2; nothing was trained on it</span>" in text


def test_page_of_a_run_without_scores(tmp_path):
    report.write_html(tmp_path / "report.html", "Run", {"seconds_total": 12.0}, [], [])
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.sources == [] and "thead" not in page.tags and page.tags.count("details") == 1
