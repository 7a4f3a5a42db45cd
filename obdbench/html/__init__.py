"""The report that people look at: one HTML file that needs no network and no server."""

from obdbench.html.page import write_page

__all__ = ["write_page"]
