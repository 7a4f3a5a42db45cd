"""Interactive report of a sweep: one HTML file that needs no network and no server."""

from obdbench.html_report.page import write_html_report

__all__ = ["write_html_report"]
