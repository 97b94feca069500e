"""What people look at: grids of images, plots, and one offline HTML page."""

from marval_ray.runs.report.grids import save_comparison, save_grid, wrapped
from marval_ray.runs.report.page import table, write_html
from marval_ray.runs.report.plots import grouped, plot_frontier, plot_loops, plot_losses

__all__ = ["grouped", "plot_frontier", "plot_loops", "plot_losses", "save_comparison", "save_grid", "table", "wrapped", "write_html"]
